"""QONNX files, evaluated by ONNX's reference evaluator with the Quant node's own definition."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import ggdjax as gd
from ggdjax import datapath, export, zoo
from ggdjax._errors import GgdjaxError, UnsupportedError


class Quant(OpRun):
    """The operator as its specification defines it."""

    op_domain = "qonnx.custom_op.general"

    def _run(self, x, scale, zeropt, bitwidth, signed, narrow, rounding_mode):
        assert rounding_mode == "ROUND"
        high = 2.0 ** (bitwidth - signed) - 1
        low = -(2.0 ** (bitwidth - 1)) + narrow if signed else 0.0
        codes = np.clip(np.round(x / scale + zeropt), low, high)
        return (((codes - zeropt) * scale).astype(np.float32),)


@pytest.fixture(scope="module")
def program(by_largest, images):
    """Feature maps of 5 bits, weights of 3, power-of-two steps: everything is exact in float32."""
    q = by_largest(gd.trace(zoo.digits_net(), jnp.zeros((1, 8, 8, 1))), images[0])
    activations = {
        name: replace(
            r,
            step=jnp.float32(2.0 ** np.ceil(np.log2(8 * float(r.step)))),
            **{end: jnp.int32(int(getattr(r, end)) >> 3) for end in ("qmin", "qmax")},
        )
        for name, r in q.params.activations.items()
    }
    weights = {name: replace(w, frac_bits=w.frac_bits - 5, bits=jnp.int32(3)) for name, w in q.params.weights.items()}
    params = replace(q.params, activations=activations, weights=weights)
    return datapath.compile(datapath.align(replace(q, params=params)))


def test_odd_widths_are_equal(program, images, tmp_path):
    export.export_qonnx(program, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    quantizers = [node for node in model.graph.node if node.op_type == "Quant"]
    assert len(quantizers) == len(program.feature_maps) + 2 * len(program.layers)
    widths = {i.name: onnx.numpy_helper.to_array(i).item() for i in model.graph.initializer if i.name.endswith("/bits")}
    assert widths["stem/conv/kernel/bits"] == 3
    assert {widths[f"{name}/bits"] for name in program.feature_maps} == {5}
    x = images[1][:4]
    (logits,) = ReferenceEvaluator(model, new_ops=[Quant]).run(None, {model.graph.input[0].name: np.asarray(x)})
    np.testing.assert_array_equal(logits, program(x))


def test_what_does_not_fit_is_refused(program, tmp_path):
    name = next(iter(program.feature_maps))
    odd = {name: replace(program.code_formats[name], high=20)}
    with pytest.raises(UnsupportedError, match=r"has the codes 0 to 20, which are not all of 5 bits"):
        export.export_qonnx(replace(program, code_formats=program.code_formats | odd), tmp_path / "net.onnx")
    with pytest.raises(GgdjaxError, match="cannot be written"):
        export.export_qonnx(program, tmp_path / "no" / "net.onnx")
