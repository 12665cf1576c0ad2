"""What XLA is slow at on a CPU, spelled out in operations that it is fast at; accelerators use XLA's own.

Each function computes what the operation of `ggdjax.network._ops` that calls it does, up to the rounding of float32
sums in another order. Measured in `experiments/benchmarks/float_throughput.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jax import lax

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Array

Ints = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]

#: Fewer input channels at most, and fewer output channels than this, leave the lanes of a CPU's convolution empty.
FEW_INPUTS, FEW_OUTPUTS = 4, 24
#: Most values in a window: those of 3 × 3 pixels in three colours.
SMALL_WINDOW = 27


def depthwise_by_shifts(x: Array, kernel: Array, *, strides: Ints, padding: Pads, dilation: Ints) -> Array:
    """Depthwise convolution over two axes as a sum of shifted products (``padding`` ≥ 0)."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    batch, _, columns, channels = x.shape
    height, width = (outputs(*axis) for axis in zip(x.shape[1:3], kernel.shape[:2], strides, dilation, strict=True))
    step = dilation[1]
    merged = strides[1] == 1
    if merged:
        # Columns and channels as one axis: long rows without a break.
        x, step = x.reshape(batch, -1, 1, columns * channels), step * channels
    taps = _repeated(kernel, width if merged else 1)
    total = None
    for i in range(taps.shape[0]):
        rows = lax.slice_in_dim(x, i * dilation[0], i * dilation[0] + (height - 1) * strides[0] + 1, strides[0], axis=1)
        for j in range(taps.shape[1]):
            if merged:
                window = lax.slice_in_dim(rows, j * step, j * step + width * channels, axis=3)
            else:
                window = lax.slice_in_dim(rows, j * step, j * step + (width - 1) * strides[1] + 1, strides[1], axis=2)
            term = window * taps[i, j][None, None, None]
            total = term if total is None else total + term
    return total.reshape(batch, height, width, channels)


def _repeated(kernel: Array, columns: int) -> Array:
    """Return the taps of a depthwise kernel, (rows, columns, channels), repeated for the columns of a result.

    By a product with rows of the identity: XLA would repeat whatever makes the kernel, such as its rounding, for every
    element of the result, for neither a broadcast nor a barrier keeps it out of a loop on the CPU.
    """
    rows, width, _, channels = kernel.shape
    identity = np.repeat(np.eye(rows * width, dtype=kernel.dtype), columns, axis=0)
    taps = jnp.matmul(identity, kernel.reshape(-1, channels), precision=lax.Precision.HIGHEST)
    return taps.reshape(rows, width, columns * channels)


def conv_of_few_channels(
    convolve: Callable[..., Array], x: Array, kernel: Array, *, strides: Ints, padding: Pads
) -> Array:
    """Convolve over two axes so that neighbouring columns of the result are channels of one wider convolution.

    With m columns at once the kernel grows to (m − 1) strides more columns, m times the output channels; every column's
    kernel stands at its own place among zeros. ``convolve`` takes x, kernel, ``window_strides`` and ``padding``.
    """
    taps, channels = kernel.shape[1], kernel.shape[-1]
    together = -(-FEW_OUTPUTS // channels)
    step = strides[1]
    shifted = [
        jnp.pad(kernel, ((0, 0), (k * step, (together - 1 - k) * step), (0, 0), (0, 0))) for k in range(together)
    ]
    low, high = padding[1]
    width = outputs(x.shape[2] + low + high, taps, step, 1)
    groups = -(-width // together)
    high = (groups * together - 1) * step + taps - x.shape[2] - low
    y = convolve(
        x,
        jnp.concatenate(shifted, axis=-1),
        window_strides=(strides[0], together * step),
        padding=(padding[0], (low, high)),
    )
    return y.reshape(*y.shape[:2], groups * together, channels)[:, :, :width]


def conv_of_small_windows(x: Array, kernel: Array, *, strides: Ints, padding: Pads) -> Array:
    """Convolve over two axes as one matrix product, of windows laid out side by side."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = (outputs(*axis, 1) for axis in zip(x.shape[1:3], kernel.shape[:2], strides, strict=True))
    ends = (height - 1) * strides[0] + 1, (width - 1) * strides[1] + 1
    windows = [
        x[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    ]
    matrix = kernel.reshape(-1, kernel.shape[-1])
    return jnp.matmul(jnp.concatenate(windows, axis=-1), matrix, precision=lax.Precision.HIGHEST)


def conv_by_rows(x: Array, kernel: Array, *, strides: Ints, padding: Pads, dilation: Ints) -> Array:
    """Convolve over two axes as one matrix product for each row of the kernel.

    Its transpose, the gradient by the kernel, is one, too; XLA's is a convolution whose window is the feature map.
    """
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    sizes = zip(x.shape[1:3], kernel.shape[:2], strides, dilation, strict=True)
    height, width = (outputs(*axis) for axis in sizes)
    ends = (height - 1) * strides[0] + 1, (width - 1) * strides[1] + 1
    total = None
    for i, taps in enumerate(kernel):
        rows = x[:, i * dilation[0] : i * dilation[0] + ends[0] : strides[0]]
        starts = (j * dilation[1] for j in range(kernel.shape[1]))
        windows = jnp.concatenate([rows[:, :, at : at + ends[1] : strides[1]] for at in starts], axis=-1)
        term = jnp.matmul(windows, taps.reshape(-1, taps.shape[-1]), precision=lax.Precision.HIGHEST)
        total = term if total is None else total + term
    return total


def pool_by_shifts(
    x: Array, combine: Callable[[Array, Array], Array], *, window: Ints, strides: Ints, dilation: Ints
) -> Array:
    """Combine the elements of every window, one spatial axis after the other; ``x`` is padded already."""
    for axis, (taps, stride, step) in enumerate(zip(window, strides, dilation, strict=True), start=1):
        count = outputs(x.shape[axis], taps, stride, step)
        starts = (k * step for k in range(taps))
        parts = [lax.slice_in_dim(x, at, at + (count - 1) * stride + 1, stride, axis=axis) for at in starts]
        x = parts[0]
        for part in parts[1:]:
            x = combine(x, part)
    return x


def outputs(size: int, taps: int, stride: int, step: int) -> int:
    """Return the number of windows along an axis of ``size`` elements, padding included."""
    return (size - step * (taps - 1) - 1) // stride + 1
