"""Operations between two layers: from ONNX against ONNX Runtime, traced against the function, in all numerics."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ggdjax as gd
from ggdjax import datapath, export
from ggdjax._errors import UnsupportedError
from ggdjax.datapath._functions import _FUNCTIONS
from ggdjax.datapath._sums import MAKERS
from ggdjax.network import Network, load_onnx
from ggdjax.network._ops import MOVES, OPS

sys.path.append(str(Path(__file__).parents[1] / "network"))
from runtime import exported, make_model, onnx, run_onnx

make_node = onnx.helper.make_node
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers():
    """Let a test draw the same numbers whatever ran before it: a code beyond a tie fails a small one."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def integers(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


pytestmark = pytest.mark.usefixtures("quickly_compiled")


def check(net: Network, x: np.ndarray, expected: np.ndarray, folder: Path, least: float = 0.999) -> None:
    """Compare float arithmetic with what is expected, integers with fake quantization, files with both."""
    np.testing.assert_allclose(net(x), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(exported(net, x, 20), expected, rtol=1e-3, atol=1e-4)
    q = gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(scheme="max-abs"))
    program = datapath.compile(q)
    found = datapath.agreement(program, q, [x])
    assert found.equal_given_inputs >= least
    assert max(tensor.largest_given_inputs for tensor in found.feature_maps.values()) <= 1
    export.export_onnx(program, folder / "integer.onnx", form="integer")
    np.testing.assert_array_equal(run_onnx(folder / "integer.onnx", x), program.integers(x))
    export.export_onnx(program, folder / "qdq.onnx")
    difference = np.abs(run_onnx(folder / "qdq.onnx", x, optimize=False) - q(x))
    assert np.mean(difference > 1e-3) < 0.01


def one(operator: str, *more: str, version: int = 20, **attributes: Any) -> tuple[list[Any], int]:
    return [make_node(operator, ["c", *more], ["d"], "op", **attributes)], version


def chosen(comparison: str, *operands: str) -> tuple[list[Any], int]:
    return [make_node(comparison, operands, ["g"]), make_node("Where", ["g", "c", "zero"], ["d"])], 20


#: The value between a convolution and a dense layer: nodes from `c`, of 4 channels and 6 by 6 pixels, to `d`.
ONNX = {
    "arc tangent": one("Atan"),
    "sign": one("Sign"),
    "celu": one("Celu", alpha=0.7),
    "local response normalization": one("LRN", size=3, alpha=0.7, beta=0.75, bias=1.5),
    "local response normalization of AlexNet": one("LRN", size=5, alpha=1e-4, beta=0.75),
    "elu": one("Elu", alpha=0.7),
    "selu": one("Selu"),
    "softplus": one("Softplus"),
    "softsign": one("Softsign"),
    "mish": one("Mish"),
    "gelu": one("Gelu"),
    "gelu by tanh": one("Gelu", approximate="tanh"),
    "hard swish": one("HardSwish"),
    "hard sigmoid": one("HardSigmoid", alpha=0.3),
    "thresholded relu": one("ThresholdedRelu", alpha=0.4),
    "shrink": one("Shrink", lambd=0.4, bias=0.1),
    "swish": one("Swish", alpha=1.3, version=24),
    "softmax": one("Softmax", axis=1),
    "log-softmax": one("LogSoftmax", axis=1),
    "log-softmax of old": one("LogSoftmax", axis=2, version=11),
    "instance": one("InstanceNormalization", "four", "four2"),
    "layer": one("LayerNormalization", "six", "six2"),
    "layer, three axes": one("LayerNormalization", "image", axis=1),
    "group": one("GroupNormalization", "four", "four2", num_groups=2, version=21),
    "group of old": one("GroupNormalization", "two", "two2", num_groups=2, version=18),
    "root of squares": one("RMSNormalization", "six", version=23),
    "norm": one("LpNormalization", axis=1, p=2),
    "depth to space": one("DepthToSpace", blocksize=2),
    "depth to space, columns": one("DepthToSpace", blocksize=2, mode="CRD"),
    "space to depth": one("SpaceToDepth", blocksize=2),
    "gather": one("Gather", "indices", axis=1),
    "gather of steps": one("Gather", "reversed", axis=2),
    "gather of one": one("Gather", "index", axis=2),
    "gather of two axes": one("Gather", "indices2", axis=3),
    "where above": chosen("Greater", "c", "number"),
    "where below": chosen("LessOrEqual", "c", "number"),
    "where above, turned": chosen("Less", "number", "c"),
    "where by a constant": ([make_node("Where", ["mask", "c", "number"], ["d"])], 20),
    "where by a constant, of two": (
        [make_node("Neg", ["c"], ["n"]), make_node("Where", ["mask", "c", "n"], ["d"])],
        20,
    ),
    "where not": (
        [
            make_node("Greater", ["c", "number"], ["g"]),
            make_node("Not", ["g"], ["h"]),
            make_node("Relu", ["c"], ["r"]),
            make_node("Where", ["h", "c", "r"], ["d"]),
        ],
        20,
    ),
    "tile": one("Tile", "copies"),
    "least": one("ReduceMin", "space", keepdims=0),
    "sum of magnitudes": one("ReduceL1", "space", keepdims=0),
    "length": one("ReduceL2", "space"),
    "product": one("ReduceProd", "channels"),
    "sum of squares": one("ReduceSumSquare", "space", keepdims=0),
    "log of a sum of exponentials": one("ReduceLogSumExp", "space", keepdims=0),
    "largest": ([make_node("ArgMax", ["c"], ["e"], axis=1), make_node("Cast", ["e"], ["d"], to=1)], 20),
    "smallest, last": (
        [make_node("ArgMin", ["c"], ["e"], axis=1, select_last_index=1), make_node("Cast", ["e"], ["d"], to=1)],
        20,
    ),
    "unit axes": (
        [
            make_node("Unsqueeze", ["c", "second"], ["u"]),
            make_node("Relu", ["u"], ["r"]),
            make_node("Squeeze", ["r", "second"], ["d"]),
        ],
        20,
    ),
    "resize to the same size": one("Resize", "", "same", mode="linear"),
    **{f"pad, {mode}": one("Pad", "pads", mode=mode) for mode in ("constant", "reflect", "edge", "wrap")},
    **{
        f"resize, {method}, {how}": one("Resize", "", "scales", mode=method, coordinate_transformation_mode=how)
        for method, how in (
            ("nearest", "asymmetric"),
            ("linear", "half_pixel"),
            ("linear", "align_corners"),
            ("cubic", "half_pixel"),
        )
    },
}
CONSTANTS = {
    "four": normal(4),
    "four2": normal(4),
    "six": normal(6),
    "six2": normal(6),
    "two": normal(2),
    "two2": normal(2),
    "image": normal(4, 6, 6),
    "indices": integers(2, 0, 0, -1),
    "reversed": integers(5, 3, 1),
    "index": np.int64(2),
    "indices2": np.int64([[2, 1], [0, 3]]),
    "number": np.float32(0.3),
    "zero": np.float32(0),
    "mask": normal(4, 6, 6) > 0,
    "copies": integers(1, 2, 1, 3),
    "space": integers(2, 3),
    "channels": integers(1),
    "second": integers(2),
    "scales": np.float32([1, 1, 2, 1.5]),
    "same": np.float32([1, 1, 1, 1]),
    "pads": integers(0, 0, 1, 2, 0, 0, 3, 1),
}
#: What a kernel changes by itself; a network of tables has a code in a thousand or two from a limit of two.
KERNEL = 0.4 * normal(4, 3, 3, 3)


@pytest.mark.parametrize("name", ONNX)
def test_onnx(name: str, tmp_path: Path) -> None:
    nodes, version = ONNX[name]
    read = {tensor for node in nodes for tensor in node.input}
    constants = {key: value for key, value in CONSTANTS.items() if key in read} | {"w": KERNEL}
    nodes = [make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]), *nodes]
    x = normal(8, 3, 6, 6)
    inner = run_onnx(make_model(nodes, ("batch", 3, 6, 6), constants, opset=version, outputs=("d",)), x)
    constants["v"] = normal(inner[0].size, 5)
    nodes += [make_node("Flatten", ["d"], ["f"]), make_node("Gemm", ["f", "v"], ["y"], "head")]
    model = make_model(nodes, ("batch", 3, 6, 6), constants, opset=version)
    onnx.save(model, tmp_path / "net.onnx")
    check(load_onnx(tmp_path / "net.onnx"), x, run_onnx(model, x), tmp_path, least=0.99)


JAX = {
    "elu": jax.nn.elu,
    "mish": jax.nn.mish,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gated": jax.nn.glu,
    "above a number": lambda x: jnp.where(x > 0.3, x, 0.0),
    "by two tensors": lambda x: jnp.where(x > x[:, ::-1], x, -0.5),
    "by numbers of every channel": lambda x: jnp.where(x > jnp.arange(4.0)[None, None, None] - 2, x, 0.25),
    "a comparison as numbers": lambda x: (x <= jnp.arange(4.0)[None, None, None]).astype(jnp.float32),
    "between tensors": lambda x: jnp.where(x > 0.3, jnp.tanh(x[..., ::-1]), x),
    "between tensors, by the largest": lambda x: jnp.where((m := x.max((1, 2), keepdims=True)) >= 2.0, x / m, -0.5),
    "zero where a factor is": lambda x: jnp.where((m := jax.nn.relu(x.mean(-1, keepdims=True))) > 0, x * m, 0.0),
    "angles": lambda x: jnp.arctan(3 * x) * jnp.sign(x - 0.5),
    "by a mask": lambda x: jnp.where(np.arange(4) > 1, x, -1.0),
    "by a mask of two": lambda x: jnp.where(np.arange(4) > 1, x, 2 * x),
    "least": lambda x: x.min((1, 2)),
    "product": lambda x: jnp.prod(x[..., :3], -1),
    "largest": lambda x: jnp.argmax(x, -1).astype(jnp.float32),
    "smallest": lambda x: jnp.argmin(x, 1).astype(jnp.float32),
    "log-softmax": jax.nn.log_softmax,
    "log of a sum of exponentials": lambda x: jax.nn.logsumexp(x, -1),
    "positions": lambda x: x[..., np.array([2, 0, 0, 3])],
    "positions of two axes": lambda x: jnp.take(x, np.array([[2, 0], [0, 3]]), axis=2),
    "pixel shuffle": lambda x: x.reshape(-1, 6, 6, 2, 2, 1).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 12, 12, 1),
    "layer normalization": lambda x: (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5),
    "pad, reflect": lambda x: jnp.pad(x, ((0, 0), (1, 2), (2, 1), (0, 0)), mode="reflect"),
    "pad, wrap": lambda x: jnp.pad(x, ((0, 0), (1, 2), (2, 1), (0, 0)), mode="wrap"),
    "resize, cubic": lambda x: jax.image.resize(x, (x.shape[0], 12, 9, 4), "cubic"),
}


@pytest.mark.parametrize("name", JAX)
def test_jax(name: str, tmp_path: Path) -> None:
    inner, x, kernel = JAX[name], normal(8, 6, 6, 3), KERNEL.transpose(2, 3, 1, 0)
    size = np.prod(jax.eval_shape(inner, jax.ShapeDtypeStruct((1, 6, 6, 4), jnp.float32)).shape)
    head = normal(size, 5)

    def function(x: jax.Array) -> jax.Array:
        y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return inner(y).reshape(x.shape[0], -1) @ head

    check(gd.trace(function, x), x, function(x), tmp_path, least=0.99)


def test_what_comparisons_are_not_for(tmp_path: Path) -> None:
    for nodes, message in (
        (
            [make_node("Greater", ["x", "zero"], ["g"]), make_node("Where", ["x", "x", "zero"], ["y"])],
            "a condition other",
        ),
        ([make_node("Gather", ["four", "x"], ["y"])], "an embedding"),
        ([make_node("CumSum", ["x", "index"], ["y"])], "`CumSum`"),
    ):
        read = {tensor for node in nodes for tensor in node.input}
        onnx.save(
            make_model(nodes, ("batch", 4), {k: v for k, v in CONSTANTS.items() if k in read}), tmp_path / "net.onnx"
        )
        with pytest.raises(UnsupportedError, match=message):
            load_onnx(tmp_path / "net.onnx")


def test_every_operation_has_an_integer_form() -> None:
    lowered = {"local_response_norm", "softmax"}
    assert set(OPS) <= MAKERS.keys() | _FUNCTIONS.keys() | MOVES | lowered
