"""The operations as spelled out for a CPU equal XLA's own."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from ggdjax.network._cpu_kernels import (
    conv_of_few_channels,
    conv_of_small_windows,
    depthwise_by_shifts,
    pool_by_shifts,
)
from ggdjax.network._ops import OPS, conv

NUMBERS = ("NHWC", "HWIO", "NHWC")


def _draw(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def _general(x: jax.Array, kernel: jax.Array, **arguments: object) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, dimension_numbers=NUMBERS, precision="highest", **arguments)


@pytest.mark.parametrize(
    ("window", "strides", "padding", "dilation"),
    [
        ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
        ((3, 2), (2, 1), ((0, 1), (2, 0)), (1, 2)),
        ((2, 5), (1, 3), ((0, 0), (1, 2)), (2, 1)),
        ((3, 3), (2, 2), ((0, 1), (0, 1)), (1, 1)),
    ],
)
def test_depthwise(window: tuple, strides: tuple, padding: tuple, dilation: tuple) -> None:
    x, kernel = _draw(0, 2, 9, 10, 5), _draw(1, *window, 1, 5)
    actual = jax.jit(partial(depthwise_by_shifts, strides=strides, padding=padding, dilation=dilation))(x, kernel)
    expected = _general(
        x, kernel, window_strides=strides, padding=padding, rhs_dilation=dilation, feature_group_count=5
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "channels", "window", "strides", "padding"),
    [
        (8, (1, 6), (3, 3), (1, 1), ((1, 1), (1, 1))),
        (12, (3, 16), (3, 3), (2, 2), ((0, 1), (0, 1))),
        (7, (4, 23), (5, 4), (1, 3), ((2, 0), (0, 3))),
        (7, (3, 8), (3, 3), (2, 2), ((0, 0), (0, 0))),
    ],
)
def test_few_channels(size: int, channels: tuple, window: tuple, strides: tuple, padding: tuple) -> None:
    x, kernel = _draw(2, 2, 8, size, channels[0]), _draw(3, *window, *channels)
    expected = _general(x, kernel, window_strides=strides, padding=padding)
    for method in (partial(conv_of_few_channels, _general), conv_of_small_windows):
        actual = jax.jit(partial(method, strides=strides, padding=padding))(x, kernel)
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "window", "strides", "padding", "dilation"),
    [
        ((6, 4), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
        ((5, 7), (3, 2), (2, 1), ((0, 1), (2, 0)), (1, 2)),
        ((3, 16), (3, 3), (2, 2), ((0, 1), (0, 1)), (1, 1)),
        ((2, 3), (5, 4), (1, 3), ((2, 0), (0, 3)), (2, 1)),
    ],
)
def test_slopes_of_a_convolution(channels: tuple, window: tuple, strides: tuple, padding: tuple, dilation: tuple):
    """By input and kernel, in both modes, also through a map and for a second time: those of XLA's convolution."""
    x, kernel = _draw(40, 2, 9, 11, channels[0]), _draw(41, *window, *channels)
    ours = partial(conv, strides=strides, padding=padding, dilation=dilation, groups=1)
    theirs = partial(_general, window_strides=strides, padding=padding, rhs_dilation=dilation)

    def slopes(convolve: object) -> list:
        def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jnp.sum(jnp.sin(convolve(x, kernel=kernel)))

        tangent = (jnp.cos(x), jnp.cos(kernel))
        alone = jax.grad(loss, argnums=1)(x, kernel)
        both = jax.grad(loss, argnums=(0, 1))(x, kernel)
        forward = jax.jvp(loss, (x, kernel), tangent)[1]
        again = jax.grad(lambda k: jnp.sum(jax.grad(loss)(x, k) ** 2))(kernel)
        kernels = jnp.stack([kernel, 2 * kernel])
        mapped = jax.vmap(jax.grad(loss, argnums=1), (None, 0))(x, kernels)
        return [alone, *both, forward, again, mapped]

    for actual, expected in zip(jax.jit(slopes, static_argnums=0)(ours), slopes(theirs), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * float(jnp.max(jnp.abs(expected))))


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_a_window_of_one_is_a_matrix_product(strides: tuple) -> None:
    x, kernel, bias = _draw(4, 2, 7, 8, 6), _draw(5, 1, 1, 6, 4), _draw(6, 4)
    static = {"strides": strides, "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    actual = jax.jit(partial(OPS["conv"], **static))(x, kernel=kernel, bias=bias)
    expected = _general(x, kernel, window_strides=strides, padding="VALID") + bias[None, None, None]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("start", "combine"), [(-jnp.inf, lax.max), (0.0, lax.add)])
def test_pooling(start: float, combine: object) -> None:
    x = _draw(7, 2, 9, 8, 7, 3)
    window, strides, dilation = (3, 2, 1), (2, 1, 3), (2, 3, 1)
    by_shifts = partial(pool_by_shifts, combine=combine, window=window, strides=strides, dilation=dilation)
    actual = jax.jit(by_shifts)(x)
    expected = lax.reduce_window(
        x, start, combine, (1, *window, 1), (1, *strides, 1), "VALID", window_dilation=(1, *dilation, 1)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_gradients_pass_through() -> None:
    x, kernel = _draw(8, 2, 6, 6, 3), _draw(9, 3, 3, 3, 8)
    static = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}

    def loss(kernel: jax.Array, conv: object) -> jax.Array:
        y = conv(x, kernel)
        pooled = OPS["max_pool"](y, window=(2, 2), strides=(2, 2), padding=((0, 0), (0, 0)), dilation=(1, 1))
        return jnp.sum(jnp.square(pooled))

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    actual = gradient(kernel, lambda x, k: OPS["conv"](x, kernel=k, **static))
    expected = gradient(kernel, partial(_general, window_strides=(1, 1), padding=((1, 1), (1, 1))))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_strided_convolutions_of_one_pixel_stay_convolutions_on_accelerators(platform):
    """XLA's GPU compiler aborts on two of them side by side where they are slices and matrix products."""
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 8, 8, 4), (1, 1, 4, 6)))
    shape = {"padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    for stride, operation in ((2, "convolution"), (1, "dot_general")):
        f = jax.jit(lambda x, kernel, stride=stride: conv(x, kernel=kernel, strides=(stride, stride), **shape))
        text = export.export(f, platforms=[platform])(x, kernel).mlir_module()
        assert f"stablehlo.{operation}" in text
        assert text.count("stablehlo.convolution") + text.count("stablehlo.dot_general") == 1
