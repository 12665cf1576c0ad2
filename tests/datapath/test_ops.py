"""The integer operations against NumPy's 64-bit integers."""

from __future__ import annotations

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from ggdjax.datapath import Overflow
from ggdjax.datapath._ops import METHODS, conv, dense, method_of


def reference(x, kernel, strides, padding, dilation, groups):
    """Convolve in int64, one output position at a time."""
    x = np.pad(x.astype(np.int64), ((0, 0), *padding, (0, 0)))
    rows, cols, per_group, cout = kernel.shape
    height, width = (
        (size - d * (taps - 1) - 1) // s + 1
        for size, taps, s, d in zip(x.shape[1:3], (rows, cols), strides, dilation, strict=True)
    )
    y = np.zeros((len(x), height, width, cout), np.int64)
    each = cout // groups
    for i, j, g in itertools.product(range(rows), range(cols), range(groups)):
        top, left = i * dilation[0], j * dilation[1]
        window = x[:, top : top + (height - 1) * strides[0] + 1 : strides[0]]
        window = window[:, :, left : left + (width - 1) * strides[1] + 1 : strides[1]]
        part = window[..., g * per_group : (g + 1) * per_group]
        y[..., g * each : (g + 1) * each] += part @ kernel[i, j, :, g * each : (g + 1) * each].astype(np.int64)
    return y


SHAPES = [
    {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1},
    {"strides": (2, 2), "padding": ((0, 1), (2, 0)), "dilation": (1, 2), "groups": 2},
    {"strides": (1, 2), "padding": ((1, 1), (0, 0)), "dilation": (1, 1), "groups": 4},
]


def layer(shape, low, high):
    rng = np.random.default_rng(0)
    x = rng.integers(low, high + 1, (2, 7, 6, 4)).astype(np.int32)
    kernel = rng.integers(-128, 128, (3, 3, 4 // shape["groups"], 4)).astype(np.int8)
    bias = rng.integers(-1000, 1000, 4).astype(np.int32)
    return x, kernel, bias


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("low", "high"), [(0, 255), (-128, 127), (-1, 254), (-200, 55), (40, 255)])
def test_every_method_is_exact(shape, low, high):
    x, kernel, _ = layer(shape, low, high)
    expected = reference(x, kernel, **shape)
    for name, method in METHODS.items():
        got = method(jnp.asarray(x), jnp.asarray(kernel), **shape, low=low, high=high)
        np.testing.assert_array_equal(got, expected, err_msg=name)


@pytest.mark.parametrize(("low", "high"), [(0, 1023), (-32768, 32767), (0, 65535), (-300, 0)])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_of_accelerators_are_exact_at_every_width(shape, bits, low, high):
    x, kernel, _ = layer(shape, low, high)
    x[0, 0, 0, :2] = low, high
    if bits == 16:
        kernel = (kernel.astype(np.int32) * 255 + 7).astype(np.int16)
    expected = reference(x, kernel, **shape).astype(np.int32)  # modulo 2^32, as accumulators of 32 bits
    got = METHODS["shifts"](jnp.asarray(x), jnp.asarray(kernel), **shape, low=low, high=high)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
@pytest.mark.parametrize("method", ["float32", "int8"])
def test_accelerators_multiply_int8_into_int32(platform, method):
    shape, kernel = SHAPES[0], jax.ShapeDtypeStruct((3, 3, 16, 32), jnp.int8)
    for high, products in ((255, 1), (1023, 2)):
        sums = jax.jit(partial(METHODS[method], **shape, low=0, high=high))
        x = jax.ShapeDtypeStruct((2, 8, 8, 16), jnp.int32)
        text = export.export(sums, platforms=[platform])(x, kernel).mlir_module()
        lines = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
        assert len(lines) == products
        assert all("144xi8>, tensor<144x32xi8>) -> tensor<2x8x8x32xi32>" in line for line in lines)
        assert "stablehlo.convolution" not in text


def test_method_is_float32_only_where_exact():
    kernel = np.ones((3, 3, 64, 8), np.int8)
    assert method_of("conv", kernel, 1, 0, 255, 2**24 - 1) == "float32"
    assert method_of("conv", kernel, 1, 0, 255, 2**24) == "int8"
    assert method_of("conv", kernel, 1, 0, 1023, 2**24) == "int32"
    assert method_of("conv", kernel, 1, 300, 400, 2**24) == "int32"
    assert method_of("conv", np.ones((3, 3, 1, 8), np.int8), 8, 0, 255, 2**24 - 1) == "float32"
    assert method_of("conv", np.ones((3, 3, 1, 8), np.int8), 8, 0, 255, 2**24) == "shifts"


@pytest.mark.parametrize("tile", [1, 3, 4])
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1]])
@pytest.mark.parametrize("policy", [Overflow.WRAP, Overflow.SATURATE])
def test_narrow_accumulators(policy, tile, shape):
    """Wrapping is the true sum modulo 2^b; saturation happens after every tile of input channels."""
    bits, half = 14, 1 << 13
    x, kernel, bias = layer(shape, 0, 255)
    got, overflows = conv(
        jnp.asarray(x),
        kernel=jnp.asarray(kernel),
        bias=jnp.asarray(bias),
        **shape,
        method="int32",
        low=0,
        high=255,
        accumulator_bits=bits,
        overflow=policy,
        channel_tile=tile,
    )
    per_group, groups = kernel.shape[2], shape["groups"]
    acc, count = bias.astype(np.int64), 0
    for start in range(0, per_group, tile):
        stop = min(start + tile, per_group)
        chosen = np.concatenate([np.arange(g * per_group + start, g * per_group + stop) for g in range(groups)])
        exact = acc + reference(x[..., chosen], kernel[:, :, start:stop], **shape)
        acc = (exact + half) % (2 * half) - half if policy is Overflow.WRAP else np.clip(exact, -half, half - 1)
        count += int((acc != exact).sum())
    np.testing.assert_array_equal(got, acc)
    assert overflows == count > 0
    if policy is Overflow.WRAP:
        total = bias + reference(x, kernel, **shape)
        np.testing.assert_array_equal(got, (total + half) % (2 * half) - half)


@pytest.mark.parametrize("method", ["float32", "int32"])
def test_dense(method):
    rng = np.random.default_rng(0)
    x, kernel = rng.integers(0, 256, (5, 20)).astype(np.int32), rng.integers(-128, 128, (20, 3)).astype(np.int8)
    arguments = {"accumulator_bits": 32, "overflow": Overflow.RAISE, "channel_tile": 20, "low": 0, "high": 255}
    got, overflows = dense(
        jnp.asarray(x), kernel=jnp.asarray(kernel), bias=jnp.arange(3, dtype=jnp.int32), method=method, **arguments
    )
    np.testing.assert_array_equal(got, x @ kernel.astype(np.int64) + np.arange(3))
    assert overflows == 0
