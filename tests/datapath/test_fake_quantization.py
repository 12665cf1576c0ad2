"""Integer programs say what fake quantization says, whatever lies between the layers."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax import datapath, export
from tests.small_models import node as N
from tests.small_models import run, save, sqnr_db

pytestmark = pytest.mark.usefixtures("quickly_compiled")

rng = np.random.default_rng(0)
A, B = ((rng.normal(size=(8, 3, 3, 3)) * (2 / 27) ** 0.5).astype(np.float32) for _ in range(2))
W = (rng.normal(size=(8, 8, 3, 3)) * (2 / 72) ** 0.5).astype(np.float32)
X = rng.normal(size=(8, 3, 8, 8)).astype(np.float32)
P = {"pads": [1] * 4}


def by_largest(net, x, **config):
    return gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(scheme="max-abs", **config))


def quantized(path, nodes, constants, x=X):
    return by_largest(gd.load_onnx(save(path / "m.onnx", nodes, ("n", *x.shape[1:]), constants)), x)


def agrees(q, x, least):
    program = datapath.compile(q)
    found = program.run(x)
    assert not found.beyond
    assert sqnr_db(q(x), found.logits) > least
    return program


def exported(program, x, path):
    export.export_onnx(program, path / "integers.onnx", form="integer")
    np.testing.assert_array_equal(run(path / "integers.onnx", x), program.integers(x))


def test_summands_far_larger_than_their_sum(tmp_path):
    """The biases +30 and −30 of two branches cancel: the summands are fifteen times larger than what is calibrated."""
    nodes = [
        N("Conv", ["x", "a", "b"], ["p"], **P),
        N("Conv", ["x", "c", "d"], ["q"], **P),
        N("Add", ["p", "q"], ["s"]),
        N("Relu", ["s"], ["r"]),
        N("Conv", ["r", "w"], ["y"], **P),
    ]
    biases = {"b": np.full(8, 30, np.float32), "d": np.full(8, -30, np.float32)}
    exported(agrees(quantized(tmp_path, nodes, {"a": A, "c": B, "w": W} | biases), X, 80), X, tmp_path)


def test_differences_of_similar_branches(tmp_path):
    nodes = [
        N("Conv", ["x", "a", "b"], ["p"], **P),
        N("Conv", ["x", "c", "b"], ["q"], **P),
        N("Sub", ["p", "q"], ["s"]),
        N("Conv", ["s", "w"], ["y"], **P),
    ]
    constants = {"a": A, "c": A + np.float32(0.3) * B, "b": np.full(8, 20, np.float32), "w": W}
    agrees(quantized(tmp_path, nodes, constants), X, 80)


PREPROCESSING = {
    "x/255": ([N("Mul", ["x", "k"], ["a"])], {"k": np.float32(1 / 255)}),
    "(x-mean)/std": (
        [N("Sub", ["x", "m"], ["z"]), N("Div", ["z", "s"], ["a"])],
        {
            "m": np.float32([123, 117, 104]).reshape(1, 3, 1, 1),
            "s": np.float32([58, 57, 57]).reshape(1, 3, 1, 1),
        },
    ),
    "batch norm": (
        [N("BatchNormalization", ["x", *"gbmv"], ["a"])],
        {
            "g": np.ones(3, np.float32),
            "b": np.zeros(3, np.float32),
            "m": np.float32([123, 117, 104]),
            "v": np.full(3, 3000, np.float32),
        },
    ),
    "average pool": (
        [N("AveragePool", ["x"], ["z"], kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 1, 1]),
         N("Mul", ["z", "k"], ["a"])],
        {"k": np.float32(1 / 255)},
    ),
    "a mean image": (
        [N("Sub", ["x", "m"], ["z"]), N("Mul", ["z", "k"], ["a"])],
        {"m": rng.uniform(90, 130, (3, 8, 8)).astype(np.float32), "k": np.float32(1 / 255)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PREPROCESSING)
def test_pixels_go_in(name, tmp_path):
    nodes, constants = PREPROCESSING[name]
    x = rng.integers(0, 256, size=(8, 3, 8, 8)).astype(np.float32)
    q = quantized(tmp_path, [*nodes, N("Conv", ["a", "w"], ["y"], **P)], constants | {"w": A}, x)
    program = agrees(q, x, 80)
    np.testing.assert_array_equal(program(x.astype(np.uint8)), program(x))
    exported(program, x, tmp_path)


def test_small_weights_beside_an_ordinary_bias(tmp_path):
    """The accumulator's grid cannot hold both; a coarser fractional length can, and the record says so."""
    w = (rng.normal(size=(8, 3, 3, 3)) * 3e-7).astype(np.float32)
    bias = np.float32([5, -4.5, 1, 2, 3, 0.5, 0.2, -0.1])
    q = quantized(tmp_path, [N("Conv", ["x", "w", "b"], ["y"], **P)], {"w": w, "b": bias})
    agrees(q, X, 60)
    (factor,) = q.record.stages[0].figures["coarser_for_the_bias"].values()
    assert factor >= 2


def test_slopes_of_any_sign(tmp_path):
    slopes = np.float32([0.25, -0.3, 0.1, -0.05, 0.0, 0.5, -0.9, 0.2]).reshape(8, 1, 1)
    nodes = [N("Conv", ["x", "a"], ["p"], **P), N("PRelu", ["p", "s"], ["q"]), N("Conv", ["q", "w"], ["y"], **P)]
    exported(agrees(quantized(tmp_path, nodes, {"a": A, "s": slopes, "w": W}), X, 80), X, tmp_path)


def test_a_channel_that_hardly_varies_beside_its_shift(tmp_path):
    """What a dead channel's batch normalization leaves: a scale of 1e-12 and an ordinary shift."""
    scale = np.float32([1, 0.5, 1e-12, 2, 1e-6, 1, 0, -1]).reshape(8, 1, 1)
    shift = np.float32([0, 1, 0.5, -1, 3, 0.2, 0.7, 0.1]).reshape(8, 1, 1)
    nodes = [
        N("Conv", ["x", "a"], ["p"], **P),
        N("Relu", ["p"], ["r"]),
        N("Mul", ["r", "s"], ["m"]),
        N("Add", ["m", "t"], ["n"]),
        N("Conv", ["n", "w"], ["y"], **P),
    ]
    exported(agrees(quantized(tmp_path, nodes, {"a": A, "s": scale, "t": shift, "w": W}), X, 80), X, tmp_path)


def conv(v, kernel, groups=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        v, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )


FUNCTIONS = {
    "hard_swish": jax.nn.hard_swish,
    "hard_swish of Paddle": lambda x: x * jnp.clip(x + 3, 0, 6) / 6,
    "hard_swish of Keras": lambda x: x * jnp.clip(x * 0.16666667 + 0.5, 0, 1),
    "silu": jax.nn.silu,
    "silu by exp": lambda x: x / (1 + jnp.exp(-x)),
    "gelu": jax.nn.gelu,
    "gelu by erf": lambda x: jax.nn.gelu(x, approximate=False),
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "softplus": jax.nn.softplus,
    "mish": jax.nn.mish,
    "soft_sign": jax.nn.soft_sign,
    "tanh": jnp.tanh,
    "abs": jnp.abs,
    "square": jnp.square,
    "hard_tanh": jax.nn.hard_tanh,
    "leaky by maximum": lambda x: jnp.maximum(x, 0.1 * x),
    "prelu by relu": lambda x: jnp.maximum(x, 0) + jnp.linspace(-0.5, 0.9, 8).reshape(1, 1, 1, 8) * jnp.minimum(x, 0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activation_functions_of_any_spelling(name, tmp_path):
    act, x = FUNCTIONS[name], X.transpose(0, 2, 3, 1)
    k0, k1 = (jnp.asarray(k.transpose(2, 3, 1, 0)) for k in (A, W))
    for scale in (1.0, 0.003) if name in {"hard_swish", "silu"} else (0.1,):
        net = gd.trace(lambda v, s=scale: conv(act(conv(v, k0 * s)), k1), x[:1])
        program = agrees(by_largest(net, x), x, 60)
    assert all(node.op != "mul" for node in program.graph.nodes)
    exported(program, x, tmp_path)


ONNX_FUNCTIONS = ("Celu", "Elu", "Gelu", "HardSwish", "Mish", "Selu", "Softplus", "Softsign", "ThresholdedRelu")


@pytest.mark.parametrize("name", ONNX_FUNCTIONS)
def test_activation_functions_of_files(name, tmp_path):
    path = save(tmp_path / "m.onnx", [N(name, ["x"], ["y"])], ("n", 3, 8, 8), {}, opset=20)
    net, x = gd.load_onnx(path), 3 * X
    np.testing.assert_allclose(net(x), run(path, x), rtol=1e-5, atol=1e-6)
    gd.network.export_onnx(net, tmp_path / "again.onnx")
    np.testing.assert_allclose(run(tmp_path / "again.onnx", x), run(path, x), rtol=1e-5, atol=1e-6)


def test_a_table_of_codes_is_exact(tmp_path):
    """Behind a rounding in the middle of the network a table has one entry per code: nothing is interpolated."""
    nodes = [
        N("Conv", ["x", "a"], ["p"], **P),
        N("QuantizeLinear", ["p", "s", "z"], ["c"]),
        N("DequantizeLinear", ["c", "s", "z"], ["d"]),
        N("Sigmoid", ["d"], ["g"]),
        N("Mul", ["d", "g"], ["q"]),
        N("Conv", ["q", "w"], ["y"], **P),
    ]
    constants = {"a": A, "w": W, "s": np.float32(0.03), "z": np.uint8(117)}
    q = quantized(tmp_path, nodes, constants)
    program = datapath.compile(q)
    assert [node.op for node in program.graph.nodes if node.op in {"lookup", "interpolate", "mul"}] == ["lookup"]
    found = datapath.agreement(program, q, [X])
    assert found.equal_given_inputs > 0.9999
    exported(program, X, tmp_path)


def gated(blocks, width, act, gate):
    r = np.random.default_rng(1)

    def weights(*shape):
        return jnp.asarray(r.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32))

    stem, head = weights(3, 3, 3, width), weights(width, 10)
    parts = [
        (weights(3, 3, 1, width), weights(width, 4), weights(4, width), weights(1, 1, width, width))
        for _ in range(blocks)
    ]

    def network(v):
        h = act(conv(v, stem))
        for depthwise, squeeze, excite, pointwise in parts:
            h = act(conv(h, depthwise, width))
            factor = gate(jax.nn.relu(h.mean((1, 2)) @ squeeze) @ excite)
            h = act(conv(h * factor[:, None, None, :], pointwise))
        return h.mean((1, 2)) @ head

    return gd.trace(network, jnp.zeros((1, 16, 16, 3)))


def test_gated_blocks(tmp_path):
    x = np.random.default_rng(2).normal(size=(8, 16, 16, 3)).astype(np.float32)
    q = by_largest(gated(6, 16, jax.nn.hard_swish, jax.nn.hard_sigmoid), x)
    exported(agrees(q, x, 40), x, tmp_path)


def test_what_leaves_the_calibrated_range_is_said(tmp_path):
    nodes = [
        N("Conv", ["x", "a"], ["p"], **P),
        N("Sigmoid", ["p"], ["g"]),
        N("Conv", ["x", "c"], ["q"], **P),
        N("Mul", ["q", "g"], ["m"]),
        N("Conv", ["m", "w"], ["y"], **P),
    ]
    q = quantized(tmp_path, nodes, {"a": A, "c": B, "w": W})
    program = datapath.compile(dataclasses.replace(q))
    assert not program.run(X).beyond
    far = program.run(np.float32(X / np.abs(X).max() * 4)).beyond | program.run(100 * X).beyond
    assert all(0 < share <= 1 for share in far.values())


def test_the_mean_of_many_codes_of_16_bits(tmp_path):
    """Summed as they are, 2^18 of them would leave 32 bits."""
    x = rng.uniform(0.5, 1, size=(2, 1, 512, 512)).astype(np.float32)
    nodes = [
        N("QuantizeLinear", ["x", "s", "z"], ["c"]),
        N("DequantizeLinear", ["c", "s", "z"], ["d"]),
        N("GlobalAveragePool", ["d"], ["p"]),
        N("Conv", ["p", "w"], ["y"]),
    ]
    constants = {"s": np.float32(1 / 32767), "z": np.int16(0), "w": np.float32([[[[0.7]]], [[[-0.4]]]])}
    net = gd.load_onnx(save(tmp_path / "m.onnx", nodes, ("n", 1, 512, 512), constants, opset=21))
    agrees(by_largest(net, x), x, 60)
