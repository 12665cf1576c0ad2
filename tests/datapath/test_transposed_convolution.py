"""Transposed convolutions, convolutions of inputs with zeros between their values, from importers to exports."""

from __future__ import annotations

import shutil
import sys
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import ggdjax as gd
from ggdjax import cost, datapath, export, tune
from ggdjax.network import export_onnx, load_onnx
from ggdjax.network._layer_shapes import layer_shapes

sys.path.append(str(Path(__file__).parents[1] / "network"))
from runtime import exported, make_model, onnx, run_onnx

pytestmark = pytest.mark.usefixtures("quickly_compiled")

make_node = onnx.helper.make_node
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


FORMS = [
    {},
    {"strides": [2, 2]},
    {"strides": [2, 3], "pads": [1, 0, 2, 1]},
    {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    {"strides": [3, 2], "dilations": [2, 1], "output_padding": [2, 0]},
    {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"strides": [2, 3], "auto_pad": "SAME_LOWER"},
    {"strides": [3, 2], "output_shape": [13, 11]},
    {"strides": [2, 2], "auto_pad": "VALID"},
    {"strides": [2, 3], "pads": [4, 5, 3, 4]},
    {"strides": [4, 4]},
    {"strides": [2, 2], "output_shape": [12, 14]},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_onnx(form: dict, groups: int, tmp_path: Path) -> None:
    constants = {"w": normal(4, 6 // groups, 3, 3), "b": normal(6)}
    node = make_node("ConvTranspose", ["x", "w", "b"], ["y"], "up", group=groups, **form)
    x = normal(2, 4, 5, 6)
    model = make_model([node], ("batch", 4, 5, 6), constants)
    onnx.save(model, tmp_path / "net.onnx")
    net = load_onnx(tmp_path / "net.onnx")
    expected = run_onnx(model, x)
    np.testing.assert_allclose(net(x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(exported(net, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank: int, tmp_path: Path) -> None:
    node = make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2] * rank)
    x = normal(2, 3, *(4, 3, 5)[:rank])
    model = make_model([node], ("batch", *x.shape[1:]), {"w": normal(3, 2, *[3] * rank)})
    onnx.save(model, tmp_path / "net.onnx")
    np.testing.assert_allclose(load_onnx(tmp_path / "net.onnx")(x), run_onnx(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("strides", "padding", "kernel", "flip"),
    [
        *product([(2, 2), (3, 1)], ["SAME", "VALID"], [(3, 3), (2, 4)], [False, True]),
        ((2, 2), ((0, 0), (4, -2)), (3, 3), True),
    ],
)
def test_jax(strides: tuple, padding: str | tuple, kernel: tuple, flip: bool) -> None:
    w, x = normal(*kernel, 3, 3), normal(2, 5, 4, 3)

    def function(x: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_transpose(x, w, strides, padding, dimension_numbers=numbers, transpose_kernel=flip)

    net = gd.trace(function, x)
    np.testing.assert_allclose(net(x), function(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(exported(net, x), function(x), rtol=1e-4, atol=1e-5)


def test_strides_and_spreading_at_once() -> None:
    w, x = normal(3, 3, 2, 4), normal(2, 7, 6, 4)

    def function(x):
        numbers = lax.conv_dimension_numbers(x.shape, w.shape, ("NHWC", "HWIO", "NHWC"))
        return lax.conv_general_dilated(
            x,
            w,
            (2, 1),
            ((-3, 1), (2, -4)),
            lhs_dilation=(3, 2),
            rhs_dilation=(1, 2),
            dimension_numbers=numbers,
            feature_group_count=2,
        )

    net = gd.trace(function, x)
    np.testing.assert_allclose(net(x), function(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(exported(net, x), function(x), rtol=1e-4, atol=1e-5)


class Decoder(nnx.Module):
    """A small image-to-image network: down, up, and a second way up."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.down = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.up = nnx.ConvTranspose(8, 6, (4, 4), strides=(2, 2), rngs=rngs)
        self.more = nnx.ConvTranspose(6, 2, (3, 3), strides=(3, 2), padding="VALID", rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.more(jax.nn.relu(self.up(jax.nn.relu(self.down(x)))))


@pytest.fixture(scope="module")
def decoder() -> tuple:
    net, x = gd.trace(Decoder(nnx.Rngs(0)), jnp.zeros((1, 8, 6, 3))), normal(16, 8, 6, 3)
    calibration = gd.calibrate(net, [x])
    return net, x, gd.quantize(net, calibration, gd.QuantConfig(scheme="max-abs", weights_per="channel"))


def test_integers_and_exports(decoder: tuple, tmp_path: Path) -> None:
    net, x, q = decoder
    assert [node.op for node in net.graph.nodes].count("conv") == 3
    assert not any(node.op == "spread" for node in net.graph.nodes)
    program = datapath.compile(q)
    found = datapath.agreement(program, q, [x])
    assert found.equal_given_inputs == 1
    np.testing.assert_allclose(program(x), q(x), rtol=1e-3, atol=1e-3)
    export.export_onnx(program, tmp_path / "integer.onnx", form="integer")
    np.testing.assert_array_equal(run_onnx(tmp_path / "integer.onnx", x), program.integers(x))
    export.export_onnx(program, tmp_path / "qdq.onnx")
    close = np.abs(run_onnx(tmp_path / "qdq.onnx", x, optimize=False) - q(x))
    assert np.mean(close > 1e-4) < 0.01
    export.export_qonnx(program, tmp_path / "qonnx.onnx")
    if shutil.which("iverilog"):
        assert export.verify_rtl(program, x[:1]).wrong == 0
    export.export_bundle(program, tmp_path / "bundle", x)
    q.save(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(gd.load(tmp_path / "net.safetensors")(x), q(x))
    export_onnx(net, tmp_path / "float.onnx")
    assert {node.op_type for node in onnx.load(tmp_path / "float.onnx").graph.node} >= {"Conv", "ConvTranspose"}
    np.testing.assert_allclose(load_onnx(tmp_path / "float.onnx")(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8, 12])
def test_integers_of_other_widths(bits: int) -> None:
    net, x = gd.trace(Decoder(nnx.Rngs(1)), jnp.zeros((1, 8, 6, 3))), normal(8, 8, 6, 3) + 3
    config = gd.QuantConfig(scheme="max-abs", activation_bits=bits, weight_bits=min(bits, 8))
    q = gd.quantize(net, gd.calibrate(net, [x]), config)
    accelerator = datapath.Accelerator(activation_bits=max(bits, 8))
    assert datapath.agreement(datapath.compile(q, accelerator), q, [x]).equal_given_inputs == 1


def test_rounding_and_cost(decoder: tuple) -> None:
    net, x, q = decoder
    rounded = tune.round_weights(q, x)
    error = [float(jnp.mean((each(x) - net(x)) ** 2)) for each in (q, rounded)]
    assert error[1] < error[0]
    shapes = {shape.name: shape for shape in layer_shapes(net)}
    assert (shapes["up"].rows, shapes["up"].columns, shapes["up"].weights) == (4, 3, 8 * 6 * 16)
    assert cost.estimate(q).energy_pj > 0
