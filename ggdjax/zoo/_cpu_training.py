"""Convolutions for training on a CPU, where XLA's own, and their gradients above all, are slow for small kernels.

`convolve` stands in for `lax.conv_general_dilated` while a network is trained; the trained network has XLA's own.
Reverse mode only (`jax.custom_vjp`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from ggdjax.network._cpu_kernels import depthwise_by_shifts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Array, Float

Ints = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]


def with_fast_convolutions(net: nnx.Module) -> nnx.Module:
    """Return a copy whose convolutions are computed by `convolve`."""
    net = nnx.clone(net)
    for _, module in nnx.iter_graph(net):
        if isinstance(module, nnx.Conv):
            module.conv_general_dilated = convolve
    return net


def convolve(
    x: Float[Array, "batch height width cin"],
    kernel: Float[Array, "rows columns cin_per_group cout"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    rhs_dilation: Sequence[int],
    feature_group_count: int,
    **options: Any,
) -> Float[Array, "batch height_out width_out cout"]:
    """Return what `lax.conv_general_dilated` does for these arguments of Flax.

    One kernel per channel over two axes: by shifts. One pixel: by a matrix product. Others: XLA's.
    """
    strides, dilation, groups = tuple(window_strides), tuple(rhs_dilation), feature_group_count
    if isinstance(padding, str):
        window = [(size - 1) * step + 1 for size, step in zip(kernel.shape[:-2], dilation, strict=True)]
        padding = lax.padtype_to_pads(x.shape[1:-1], window, strides, padding)
    pads = tuple(map(tuple, padding))
    if x.ndim == 4 and 1 < groups == x.shape[-1] == kernel.shape[-1] and min(map(min, pads)) >= 0:
        return _depthwise(x, kernel, strides, pads, dilation)
    if groups == 1 and set(kernel.shape[:-2]) == {1} and not any(map(any, pads)):
        return x[(slice(None), *(slice(None, None, step) for step in strides))] @ kernel.reshape(kernel.shape[-2:])
    return lax.conv_general_dilated(
        x, kernel, strides, pads, rhs_dilation=dilation, feature_group_count=groups, **options
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _depthwise(x: Array, kernel: Array, strides: Ints, padding: Pads, dilation: Ints) -> Array:
    return depthwise_by_shifts(x, kernel, strides=strides, padding=padding, dilation=dilation)


def _forward(x: Array, kernel: Array, *static: Any) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise(x, kernel, *static), (x, kernel)


def _backward(
    strides: Ints, padding: Pads, dilation: Ints, kept: tuple[Array, Array], slope: Array
) -> tuple[Array, Array]:
    x, kernel = kept
    return _slope_of_input(kernel, slope, x.shape, strides, padding, dilation), _slope_of_kernel(
        x, slope, kernel.shape, strides, padding, dilation
    )


_depthwise.defvjp(_forward, _backward)


def _slope_of_input(kernel: Array, slope: Array, shape: Ints, strides: Ints, padding: Pads, dilation: Ints) -> Array:
    """Return the mirrored kernel's convolution with the slope, spread out by the strides."""
    pads = []
    for axis in (0, 1):
        reach = (kernel.shape[axis] - 1) * dilation[axis]
        low = reach - padding[axis][0]
        covered = (slope.shape[axis + 1] - 1) * strides[axis] + 1
        pads.append((low, shape[axis + 1] + reach - low - covered, strides[axis] - 1))
    spread = lax.pad(slope, jnp.zeros((), slope.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    return depthwise_by_shifts(spread, kernel[::-1, ::-1], strides=(1, 1), padding=((0, 0), (0, 0)), dilation=dilation)


def _slope_of_kernel(x: Array, slope: Array, shape: Ints, strides: Ints, padding: Pads, dilation: Ints) -> Array:
    """Return Σ x · slope per tap and channel, summed row by row into an array that stays in the cache."""
    rows, columns, _, channels = shape
    images, height, width, _ = slope.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    reach = (rows - 1) * dilation[0] + 1

    def add(total: Array, index: Array) -> tuple[Array, None]:
        image, row = index // height, index % height
        band = lax.dynamic_slice(x, (image, row * strides[0], 0, 0), (1, reach, x.shape[2], channels))[0]
        line = lax.dynamic_slice(slope, (image, row, 0, 0), (1, 1, width, channels))[0, 0]
        windows = [
            lax.slice_in_dim(band[i * dilation[0]], at, at + (width - 1) * strides[1] + 1, strides[1])
            for i in range(rows)
            for at in range(0, columns * dilation[1], dilation[1])
        ]
        return total + jnp.stack([window * line for window in windows]), None

    start = jnp.zeros((rows * columns, width, channels), slope.dtype)
    total, _ = lax.scan(add, start, jnp.arange(images * height))
    return total.sum(1).reshape(shape)
