"""The node tests that ship with the `onnx` package (float32), for every operator that the importer reads."""

from __future__ import annotations

import importlib
import pkgutil
import re
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax._errors import GgdjaxError
from ggdjax.network import Float, run
from ggdjax.network.onnx import _composed, _multiplying, _quantized, _shaping, _spatial  # noqa: F401 - they register operators
from ggdjax.network.onnx._convert import HANDLERS, convert

onnx = pytest.importorskip("onnx")

#: Operators with several activations; of all others the first input is the activation and the rest are constants, as
#: weights and shapes are in a network.
SEVERAL = {"Add", "Concat", "Div", "Einsum", "MatMul", "Mul", "Sub"}

#: What the names of cases that are refused match -> what is outside the set.
REFUSED = {
    "training": "training mode: the library is for inference",
    "gemm_default_matrix_bias": "a bias per row of the batch: the batch size is free",
    "maxpool_with_argmax": "the indices of a maximum",
    "test_pow(_example|_bcast_array|_types.*)?$": "a power per element; one constant power is supported",
    "reduce_(max|min|prod|log_sum_exp)_empty_set": "the maximum, minimum or product of nothing",
    "einsum_batch_diagonal": "a diagonal",
    "resize.*(antialias|tf_crop|not_larger|not_smaller)": "resizing that filters, crops or keeps the aspect",
}
#: Operators without a float32 case: their cases are of integers or truth values, or went with their last version; see
#: other tests.
WITHOUT_CASES = {
    *("Cast", "Upsample", "QuantizeLinear", "DequantizeLinear"),
    *("Einsum", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Where"),
}
#: Where the case and ONNX Runtime differ, the importer does as ONNX Runtime: it takes the size, not scale x length.
DIFFERENT = {f"test_resize_downsample_scales_{method}_align_corners" for method in ("linear", "cubic")}


def _cases(operator: str) -> list[Any]:
    """Return the float32 cases of one operator; only its own module is imported, since importing computes the cases."""
    from onnx.backend.test.case import node as package

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(package.__path__):
            if module.name.replace("_", "") == operator.lower():
                importlib.import_module(f"{package.__name__}.{module.name}")
    return [case for case in package._NodeTestCases if _is_float32(case, operator)]


def _is_float32(case: Any, operator: str) -> bool:
    graph = case.model.graph
    inputs, outputs = case.data_sets[0]
    return (
        len(graph.node) == 1
        and graph.node[0].op_type == operator
        and getattr(inputs[0], "dtype", None) == np.float32
        and getattr(outputs[0], "dtype", None) == (np.int64 if operator.startswith("Arg") else np.float32)
    )


def _run(case: Any, operator: str) -> np.ndarray:
    inputs, _ = case.data_sets[0]
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    count = len(inputs) if operator in SEVERAL else 1
    names = [value.name for value in model.graph.input]
    for name, value in list(zip(names, inputs, strict=True))[count:]:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    shapes = {name: (value.shape, value.shape) for name, value in zip(names[:count], inputs, strict=False)}
    net = convert(model, shapes, [next(name for name in model.graph.node[0].output if name)])
    values = {name: jnp.asarray(value) for name, value in zip(names[:count], inputs, strict=False)}
    return np.asarray(run(net.graph, net.params, values, Float()))


@pytest.mark.parametrize("operator", sorted(HANDLERS))
def test_node_cases(operator: str) -> None:
    failed = []
    cases = _cases(operator)
    assert cases or operator in WITHOUT_CASES
    for case in cases:
        refused = any(re.search(pattern, case.name) for pattern in REFUSED)
        try:
            result = _run(case, operator)
        except Exception as error:
            if not (refused and isinstance(error, GgdjaxError)):
                failed.append(f"{case.name}: {type(error).__name__}: {error}")
            continue
        if case.name in DIFFERENT:
            continue
        expected = case.data_sets[0][1][0]
        if refused or result.shape != expected.shape or not np.allclose(result, expected, rtol=1e-3, atol=1e-5):
            failed.append(f"{case.name}: differs {result.shape} {expected.shape}")
    assert not failed, "\n".join(failed)
