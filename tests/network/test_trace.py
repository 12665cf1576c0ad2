"""Tracing JAX functions and Flax modules: the graph equals the function, at any batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from runtime import exported

from ggdjax import zoo
from ggdjax._errors import GgdjaxError, UnsupportedError
from ggdjax.network import Network, fold_batch_norm, trace


class Residual(nnx.Module):
    """Convolution, batch normalization, ReLU, residual addition, both poolings, linear."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(8, rngs=rngs)
        self.wide = nnx.Conv(8, 12, (5, 5), strides=2, padding="VALID", rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(12, 10, rngs=rngs)
        for norm in (self.norm, self.norm2):
            keys = jax.random.split(jax.random.key(3), 4)
            norm.mean[...] = jax.random.normal(keys[0], (8,))
            norm.var[...] = jax.random.uniform(keys[1], (8,), minval=0.5, maxval=2.0)
            norm.scale[...] = jax.random.normal(keys[2], (8,))
            norm.bias[...] = jax.random.normal(keys[3], (8,))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.stem(x)))
        x = x + nnx.relu6(self.norm2(self.depthwise(x)))
        x = nnx.max_pool(x, (3, 3), (2, 2), padding="SAME")
        x = nnx.silu(self.wide(x))
        x = nnx.avg_pool(x, (2, 2), (2, 2))
        x = self.dropout(jnp.mean(x, axis=(1, 2)))
        return self.head(x)


@contextmanager
def _as_users_do() -> Iterator[None]:
    """Flax's own layers rely on promotion; the graph must not."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _input(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(7), shape)


def _check(function: Any, *shape: int, tolerance: float = 1e-5) -> Network:
    """Trace at batch 1; compare at another batch size, and so the network's ONNX file."""
    x = _input(5, *shape)
    with _as_users_do(), jax.default_matmul_precision("highest"):
        net = trace(function, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
        expected = function(x)
    assert np.shape(net(x)) == expected.shape
    tolerance *= float(jnp.abs(expected).max())
    np.testing.assert_allclose(net(x), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(exported(net, x), expected, rtol=0, atol=tolerance)
    return net


def _ops(net: Network) -> list[str]:
    return [node.op for node in net.graph.nodes]


def test_nnx_module_with_batch_norm_and_residual() -> None:
    module = Residual(nnx.Rngs(0))
    module.eval()
    net = _check(module, 16, 16, 3)
    assert _ops(net) == [
        *("conv", "affine", "relu", "conv", "affine", "clip", "add", "max_pool", "conv", "silu"),
        *("average_pool", "mean", "dense"),
    ]
    assert [node.name for node in net.graph.quantizable] == ["stem", "depthwise", "wide", "head"]
    folded = fold_batch_norm(net)
    assert "affine" not in _ops(folded)
    x = _input(2, 16, 16, 3)
    np.testing.assert_allclose(folded(x), net(x), rtol=1e-4, atol=1e-5)


def test_training_mode_is_refused() -> None:
    with _as_users_do(), pytest.raises(UnsupportedError, match=r"training mode.*module\.eval\(\)"):
        trace(Residual(nnx.Rngs(0)), _input(1, 16, 16, 3))


class Plain(nn.Module):
    """A Linen network."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.leaky_relu(nn.Conv(4, (3, 3))(x), 0.1)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.hard_swish(nn.Conv(4, (3, 3), strides=(2, 2))(x))
        x = nn.avg_pool(x, (3, 3), (2, 2), padding="SAME", count_include_pad=False)
        x = nn.Dropout(0.3, deterministic=not train)(x)
        return nn.softmax(nn.Dense(3)(x.reshape((x.shape[0], -1))))


def test_linen_module_in_its_three_forms() -> None:
    module = Plain()
    with _as_users_do():
        variables = module.init(jax.random.key(0), _input(1, 8, 8, 3))
    net = _check(lambda x: module.apply(variables, x), 8, 8, 3)
    assert {"leaky_relu", "average_pool", "dense"} <= set(_ops(net))
    assert not net.graph.node(net.graph.nodes[_ops(net).index("average_pool")].name).attr("count_padding")
    x = _input(2, 8, 8, 3)
    with _as_users_do():
        pair = trace((module, variables), x)
        bound = trace(module.bind(variables), x)
    np.testing.assert_allclose(pair(x), net(x), rtol=1e-6)
    np.testing.assert_allclose(bound(x), net(x), rtol=1e-6)
    assert [node.name for node in pair.graph.quantizable] == ["Conv_0", "Conv_1", "Dense_0"]
    assert [node.name for node in net.graph.quantizable] == ["Plain/Conv_0", "Plain/Conv_1", "Plain/Dense_0"]
    with _as_users_do(), pytest.raises(UnsupportedError, match="training mode"):
        trace(lambda x: module.apply(variables, x, train=True), x)


def test_tensors_are_named_after_the_layer_before_them_and_their_function() -> None:
    net = trace(zoo.digits_net(), _input(1, 8, 8, 1))
    assert [feature_map.tensor for feature_map in net.graph.feature_maps()] == [
        "input",
        "stem/conv/relu",
        "residual1/first/conv/relu",
        "residual1/second/conv/max_pool",
        "widen/conv/relu",
        "residual2/first/conv/relu",
        "residual2/second/conv/mean",
    ]

    def function(x: jax.Array) -> jax.Array:
        return jax.nn.silu(jnp.abs(x @ np.ones((4, 3), np.float32)) @ np.ones((3, 2), np.float32))

    names = [node.name for node in trace(function, _input(1, 4)).graph.nodes]
    assert names[:3] == ["dense", "dense/abs", "dense_2"]
    assert all(name.startswith("dense_2/silu") for name in names[3:])


KERNEL = np.asarray(jax.random.normal(jax.random.key(1), (3, 3, 4, 6)))


def _channels_first(x: jax.Array) -> jax.Array:
    y = jax.lax.conv_general_dilated(x, jnp.asarray(KERNEL.transpose(3, 2, 0, 1)), (1, 1), "SAME")
    y = jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    return jnp.maximum(y, 0.0).reshape(y.shape[0], -1) @ jnp.ones((y[0].size, 2))


def _response_norm(x: jax.Array, axis: int, beta: float, order: tuple[int, ...] = (0, 1, 2, 3)) -> jax.Array:
    window = tuple(3 if k == axis else 1 for k in range(4))
    squares = jax.lax.reduce_window(jnp.square(x), 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME")
    return x / (2.0 + 0.1 * squares.transpose(order)) ** beta


HALF = np.arange(6)[:, None, None] < 3

FUNCTIONS: dict[str, tuple[Callable[[jax.Array], jax.Array], set[str]]] = {
    "channels first": (_channels_first, {"conv", "max_pool", "relu", "reshape", "dense"}),
    "slices and padding": (lambda x: jnp.pad(x[:, ::2, 1:, :], ((0, 0), (1, 0), (0, 2), (0, 0))), {"slice", "pad"}),
    "split and concatenate": (lambda x: jnp.concatenate(jnp.split(x, 2, axis=-1)[::-1], axis=-1), {"slice", "concat"}),
    "where": (lambda x: jnp.where(x > 0, x, 0.0), {"relu"}),
    "prelu": (lambda x: jnp.where(x >= 0, x, jnp.asarray([0.1, 0.2, 0.3, 0.4])[None, None, None] * x), {"prelu"}),
    "clip": (lambda x: jnp.clip(x, -1.0, 2.0), {"clip"}),
    "clamp": (lambda x: jax.lax.clamp(-1.0, x, 2.0), {"clip"}),
    "global pools": (lambda x: x.mean((1, 2)) + x.max((1, 2)), {"mean", "max", "add"}),
    "squeeze and excite": (lambda x: x * jax.nn.sigmoid(x.mean((1, 2), keepdims=True)), {"mean", "sigmoid", "mul"}),
    "einsum": (lambda x: jnp.einsum("bhwc,hwcd->bd", x, jnp.ones((6, 8, 4, 3))), {"dense", "reshape"}),
    "weight first": (lambda x: jnp.einsum("dc,bhwc->bdhw", jnp.ones((3, 4)), x), {"dense", "transpose"}),
    "enlargement": (lambda x: jax.image.resize(x, (x.shape[0], 12, 16, 4), "nearest"), {"resize"}),
    "repeat": (lambda x: jnp.repeat(x, 2, axis=1), {"broadcast", "reshape"}),
    "arithmetic": (lambda x: (1.0 - x) / 3.0 + 2.0 / (x * x + 1.0), {"affine", "mul", "div", "add"}),
    "rematerialised": (jax.checkpoint(lambda x: jnp.tanh(x) - jnp.exp(-jnp.abs(x))), {"tanh", "exp", "sub"}),
    "powers": (lambda x: jax.lax.rsqrt(x**2 + 1.0) + jnp.sqrt(jnp.square(x) + 1e-3) ** 3.0, {"power", "sqrt"}),
    "response normalization": (lambda x: _response_norm(x, 3, 0.75), {"local_response_norm"}),
    "response normalization, channels first": (lambda x: _response_norm(x, 1, 0.5), {"local_response_norm"}),
    "a branch that a constant chooses": (
        lambda x: jax.lax.switch(jnp.int32(1), (jnp.exp, lambda y: jax.lax.platform_dependent(y, default=jnp.tanh)), x),
        {"tanh"},
    ),
    "a loop over constants": (lambda x: x * jax.lax.fori_loop(0, 3, lambda _, y: y * 2, jnp.float32(1.0)), {"mul"}),
    "a sum that keeps its axis, transposed": (
        lambda x: jnp.expand_dims(x[:, :, :6].sum(3).transpose(0, 2, 1), 3),
        {"sum"},
    ),
    "response normalization by its transpose": (
        lambda x: _response_norm(x[:, :, :6], 3, 0.5, (0, 2, 1, 3)),
        {"power", "div"},
    ),
    "a dilated window with padding as wide as its taps": (
        lambda x: jax.lax.reduce_window(
            x - 9.0, -jnp.inf, jax.lax.max, (1, 3, 2, 1), (1,) * 4, "SAME", window_dilation=(1, 3, 2, 1)
        ),
        {"max_pool"},
    ),
    "reversal": (lambda x: x[:, ::-1], {"slice"}),
    "stack": (lambda x: jnp.stack([x, x * 2.0], 3).reshape(x.shape[0], 6, 8, 8), {"concat", "reshape"}),
    "class token": (
        lambda x: jnp.concatenate([jnp.tile(jnp.arange(4.0)[None, None], (x.shape[0], 1, 1)), x[:, 0]], 1),
        {"pad", "add"},
    ),
    "constants between": (
        lambda x: jnp.concatenate([jnp.ones((x.shape[0], 6, 1, 4)), x, -jnp.ones((x.shape[0], 6, 2, 4)), x], 2),
        {"pad", "concat", "add"},
    ),
    "stack with a constant": (lambda x: jnp.stack([jnp.full_like(x, 2.0), x], -1), {"pad", "add"}),
    "values between": (
        lambda x: jax.lax.pad(x, jnp.float32(0.5), ((0, 0, 0), (1, -1, 2), (-1, 2, 0), (0, 0, 1))),
        {"pad", "reshape"},
    ),
    "smallest of a window, one column in two": (
        lambda x: jax.lax.reduce_window(x, jnp.inf, jax.lax.min, (1, 2, 1, 1), (1, 1, 1, 2), "VALID"),
        {"max_pool"},
    ),
    "hyperbolic": (lambda x: jnp.sinh(0.3 * x) + jnp.cosh(0.2 * x) + jnp.exp2(-jnp.abs(x)), {"exp"}),
    "slices that begin at constants": (
        lambda x: jax.lax.dynamic_slice(x, (0, 2, 9, 1), (x.shape[0], 3, 4, 2)),
        {"slice"},
    ),
    "tile": (lambda x: jnp.tile(x, (1, 2, 1, 3)), {"concat"}),
    "variance": (lambda x: x.var((1, 2), ddof=1), {"mean", "sum"}),
    "gelu": (lambda x: jax.nn.gelu(x, approximate=False), {"erf", "mul"}),
    "angles": (lambda x: jnp.arctan(x) + jnp.sign(x - 0.5), {"atan", "select"}),
    "a choice by a comparison that is spread": (
        lambda x: jnp.where(x.max((1, 2), keepdims=True) > 1.5, x, -x),
        {"max", "broadcast", "select"},
    ),
    "a choice by the comparison of two tensors": (lambda x: jnp.where(x > 2 * x[:, ::-1], x, 0.5), {"select", "sub"}),
    "a choice by numbers of every element": (lambda x: jnp.where(jnp.arange(4.0) - 2 < x, x, 0.0), {"select", "add"}),
    "a comparison as numbers": (lambda x: (x <= 0.5).sum(-1) + (~(x > 1)).astype(jnp.float32).mean(-1), {"select"}),
    "where the largest is": (lambda x: jnp.where(x == x.max(-1, keepdims=True), 1.0, x), {"select", "max"}),
    "a choice by constants of what is not finite elsewhere": (
        lambda x: (
            jnp.where(HALF, 2 * jnp.log(jax.nn.relu(x) * HALF + HALF) / (x * x * HALF), x)
            + jnp.where(HALF, 1 / (3 + jnp.tanh(x)) * jax.lax.rsqrt((3 + x * x) * HALF), 0.5)
            + jnp.where(~HALF, jnp.exp(x + 1000.0 * HALF), jnp.sqrt(x * x * HALF + HALF - 1.0))
        ),
        {"log", "div", "power", "exp", "sqrt"},
    ),
    "where it is not": (lambda x: (jax.nn.relu(x) != 0) * 2.0, {"select", "relu"}),
    "a choice by a comparison that is moved": (
        lambda x: jnp.where((x[:, :, :6] > 0.2).transpose(0, 2, 1, 3)[..., 0, None], x[:, :, :6], 0.5),
        {"transpose", "select"},
    ),
}


def test_a_convolution_that_crops_slices_first() -> None:
    def convolve(x: jax.Array, padding: tuple) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, jnp.ones((3, 3, 4, 2)), (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x = jax.random.normal(jax.random.key(0), (2, 6, 8, 4))
    net = trace(lambda x: convolve(x, ((-1, 1), (0, -2))), x)
    assert _ops(net) == ["slice", "conv"]
    # Not against itself: XLA on a CPU reads beyond the image where a padding is negative.
    expected = convolve(x[:, 1:, :-2], ((0, 1), (0, 0)))
    np.testing.assert_allclose(net(x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(exported(net, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    function, expected = FUNCTIONS[name]
    shape = (4, 6, 8) if name == "channels first" else (6, 8, 4)
    net = _check(function, *shape)
    assert expected <= set(_ops(net)), _ops(net)


@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric", "wrap", "linear_ramp", "mean", "maximum", "minimum"])
def test_modes_of_padding(mode: str) -> None:
    """Empty slices of the batch, which `jax.numpy.pad` joins to it, were refused as slices of the batch."""
    _check(lambda x: jnp.pad(x, ((0, 0), (2, 1), (0, 3), (0, 0)), mode=mode), 6, 8, 4)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (jnp.sort, "unsupported operation `sort`"),
        (lambda x: x - x.mean(axis=0, keepdims=True), "reduction over the batch"),
        (lambda x: jnp.einsum("bhwc,ahwc->ab", x, x), "mixes the images of a batch"),
        (lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y * 2, x), r"control flow \(`scan`\): .* unroll the loop"),
        (lambda x: jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y * 2, x), r"control flow \(`while`\)"),
        (lambda x: x if x.sum() > 0 else -x, "control flow: `function` decides by the values of its input"),
        (lambda x: x + jax.random.normal(jax.random.key(0), x.shape), r"random numbers .* one result for one input"),
        (Plain(), r"the Linen module Plain without its variables: give \(module, variables\)"),
        ("digits", "`function` is 'digits'; expected a function, a module"),
        ((1, 2, 3), "`function` is a tuple of 3; expected a function, a module"),
        (lambda x: x[:1], "slice of the batch"),
        (lambda x: x[::-1], "reversal of the batch"),
        (lambda x: jnp.tile(x, (2, 1, 1, 1)), "concatenation along the batch"),
        (lambda x: jnp.pad(x.T, ((0, 0), (0, 0), (0, 0), (1, 0))).T, "padding of the batch"),
        (lambda x: jax.lax.reduce(x, jnp.float32(0), lambda a, b: a + 2 * b, (3,)), "unsupported operation `reduce`"),
        (
            lambda x: jax.lax.reduce_window(x, 0.0, lambda a, b: a + b * b, (1, 2, 2, 1), (1,) * 4, "SAME"),
            "unsupported operation `reduce_window`",
        ),
        (lambda x: jnp.concatenate([x[:, 0, 0], jnp.eye(x.shape[0], 3)], 1), "depends on the position in the batch"),
        (lambda x: jax.lax.dynamic_slice_in_dim(x, 0, 1), "a slice of the batch"),
        (jax.vmap(lambda x: jax.lax.dynamic_slice_in_dim(x, jnp.argmax(x[0, 0]), 2)), "a constant is needed"),
        (lambda x: jnp.zeros(3), "does not depend on its argument"),
        (lambda x: x.reshape(5, -1), "cannot be traced"),
        (lambda x: jnp.concatenate([x] * x.shape[0], axis=-1), "another batch size|depends on the batch"),
    ],
)
def test_refusals(function: Callable, message: str) -> None:
    with pytest.raises(GgdjaxError, match=message):
        trace(function, _input(2, 6, 8, 4))


def test_an_order_of_products_that_the_batch_size_chooses_is_refused_and_the_remedy_works() -> None:
    def to_one_pixel(x: jax.Array) -> jax.Array:
        return jax.image.resize(x, (x.shape[0], 1, 1, 1), "linear", antialias=False)

    def one_axis_after_the_other(x: jax.Array) -> jax.Array:
        return to_one_pixel(jax.image.resize(x, (x.shape[0], 1, *x.shape[2:]), "linear", antialias=False))

    x = _input(2, 5, 6, 1)
    with pytest.raises(GgdjaxError, match="resize one axis after the other"):
        trace(to_one_pixel, x)
    np.testing.assert_allclose(trace(one_axis_after_the_other, x)(x), to_one_pixel(x), rtol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:3] * 2,
        lambda x: x[:2],
        lambda x: x[:1000] + 1,
        lambda x: x[-3:],
        lambda x: x[1:],
        lambda x: x[: x.shape[0] // 2],
        lambda x: x + x[:1],
        jax.jit(lambda x: x[:3]),
        jax.checkpoint(lambda x: x[:3]),
        lambda x: jax.lax.cond(True, lambda y: y[:3], lambda y: y[:3] * 2, x),
        lambda x: jnp.split(x, [1])[0],
        lambda x: jnp.roll(x, 1, axis=0),
    ],
)
def test_slices_of_the_batch_are_refused(function: Callable) -> None:
    with pytest.raises(GgdjaxError, match="a slice of the batch"):
        trace(function, _input(2, 4))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.where(jnp.arange(x.shape[0])[:, None] < 3, x, 0.0),
        lambda x: x * (jnp.arange(x.shape[0])[:, None] < 3).astype(jnp.float32),
        lambda x: x * (np.arange(x.shape[0])[:, None] < 3).astype(np.float32),
        lambda x: x * max(x.shape[0], 3),
        lambda x: x + jnp.eye(x.shape[0], 4),
        lambda x: x / x.shape[0],
    ],
)
def test_what_depends_on_the_place_in_the_batch_is_refused(function: Callable) -> None:
    with pytest.raises(UnsupportedError, match=r"depends? on the (batch size|position in the batch)"):
        trace(function, _input(2, 4))


@pytest.mark.parametrize(
    "function",
    [lambda x: x[:] * 2, lambda x: x + np.ones((x.shape[0], 4), np.float32), lambda x: x * jnp.ones((x.shape[0], 1))],
)
def test_constants_that_are_one_for_every_image_are_kept(function: Callable) -> None:
    np.testing.assert_array_equal(trace(function, _input(2, 4))(_input(9, 4)), function(_input(9, 4)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.sum(x, axis=()) * 2,
        lambda x: jnp.mean(x, axis=()) * 2,
        lambda x: jnp.max(x, axis=()) * 2,
        lambda x: jnp.sum(x, axis=(), keepdims=True) * 2,
        lambda x: jax.jit(lambda y: jnp.mean(y, axis=()))(x) * 2,
    ],
)
def test_reductions_over_no_axis_are_none(function: Callable) -> None:
    x = _input(3, 4)
    net = trace(function, x)
    for actual in (net(x), exported(net, x)):
        np.testing.assert_allclose(actual, 2 * x, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 4, 3), (1, 1, 1)])
def test_constants_repeat_axes_of_size_one(shape: tuple[int, ...]) -> None:
    def function(x: jax.Array) -> jax.Array:
        return x[:, :, None] * jnp.ones(shape) - jnp.ones((1, 1, 1))

    np.testing.assert_array_equal(trace(function, _input(2, 4))(_input(5, 4)), function(_input(5, 4)))


def test_images_that_meet_each_other_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="mixes the images of a batch"):
        trace(lambda x: x[:, None] * x[None], _input(2, 4))
