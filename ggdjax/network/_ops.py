"""The operations of a graph: one pure function each, channels last, and the registry that names them.

Every function takes activations as positional arguments, parameters and static arguments by keyword. Axis 0
is the batch (free), the last axis the channels of anything spatial; what lies between is spatial, of any
rank.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from ggdjax._division import divide
from ggdjax.network._cpu_kernels import (
    FEW_INPUTS,
    FEW_OUTPUTS,
    SMALL_WINDOW,
    conv_by_rows,
    conv_of_few_channels,
    conv_of_small_windows,
    depthwise_by_shifts,
    pool_by_shifts,
)
from ggdjax.network._resize import resize

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from jaxtyping import Array, Float

Ints = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]

#: TF32 and bfloat16 passes are the default of some accelerators; a reference asks for float32.
PRECISION = lax.Precision.HIGHEST

#: The operations whose input is a feature map and whose kernel is a weight in the sense of quantization.
QUANTIZABLE = frozenset({"conv", "dense"})
#: The operations whose inputs are all feature maps: they sum products of two of them.
PRODUCTS = frozenset({"matmul"})
#: Operations that only move values or pick among them: they commute with every rounding.
MOVES = frozenset(
    {
        "broadcast",
        "concat",
        "gather",
        "max",
        "max_pool",
        "maximum",
        "minimum",
        "pad",
        "reshape",
        "resize",
        "slice",
        "transpose",
    }
)
#: Operations on each value by itself.
ELEMENTWISE = frozenset(
    {
        "abs",
        "add",
        "affine",
        "atan",
        "clip",
        "div",
        "erf",
        "exp",
        "hard_sigmoid",
        "hard_swish",
        "leaky_relu",
        "log",
        "maximum",
        "minimum",
        "mul",
        "power",
        "prelu",
        "relu",
        "select",
        "sigmoid",
        "silu",
        "sqrt",
        "sub",
        "tanh",
    }
)
#: Activation functions that are limits: they commute with rounding too.
LIMITS = frozenset({"relu", "clip"})


def conv(
    x: Float[Array, "batch *space cin"],
    *,
    kernel: Float[Array, "*window cin_per_group cout"],
    bias: Float[Array, " cout"] | None = None,
    strides: Ints,
    padding: Pads,
    dilation: Ints,
    groups: int,
    input_dilation: Ints | None = None,
) -> Float[Array, "batch *space_out cout"]:
    """Convolve as all frameworks do (cross-correlate); zero ``padding``: (before, after) per dimension.

    ``input_dilation`` − 1 zeros stand between neighbours of the input: a transposed convolution is that, with its
    kernel reversed.
    """
    spatial = x.ndim - 2
    plain_input = input_dilation is None or max(input_dilation) == 1
    pointwise = plain_input and groups == 1 and all(n == 1 for n in kernel.shape[:-2]) and not any(map(any, padding))
    if pointwise and max(strides) == 1:
        return dense(x, kernel=kernel.reshape(kernel.shape[-2:]), bias=bias)
    letters = "DHW"[-spatial:] if spatial <= 3 else "".join(map(str, range(spatial)))
    general = partial(
        lax.conv_general_dilated,
        lhs_dilation=input_dilation,
        rhs_dilation=dilation,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=groups,
        precision=PRECISION,
    )
    plain = partial(general, window_strides=strides, padding=padding)
    depthwise = groups == x.shape[-1] == kernel.shape[-1] and groups > 1
    few = groups == 1 and kernel.shape[-2] <= FEW_INPUTS
    on_cpu = None
    if pointwise:
        # On the CPU only: XLA's GPU compiler aborts where two of them stand side by side (openxla/xla issue 47381).
        on_cpu = partial(_pointwise, strides=strides)
    elif plain_input and spatial == 2 and min(map(min, padding)) >= 0:
        if depthwise:
            on_cpu = partial(depthwise_by_shifts, strides=strides, padding=padding, dilation=dilation)
        elif few and max(dilation) == 1 and kernel.shape[-2] > 1 and prod(kernel.shape[:-1]) <= SMALL_WINDOW:
            on_cpu = partial(conv_of_small_windows, strides=strides, padding=padding)
        elif few and max(dilation) == 1 and kernel.shape[-1] < FEW_OUTPUTS:
            on_cpu = partial(conv_of_few_channels, general, strides=strides, padding=padding)

    def convolve(x: Array, kernel: Array) -> Array:
        return plain(x, kernel) if on_cpu is None else lax.platform_dependent(x, kernel, cpu=on_cpu, default=plain)

    if groups == 1 and plain_input and not pointwise and spatial == 2 and min(map(min, padding)) >= 0:
        along_kernel = partial(conv_by_rows, strides=strides, padding=padding, dilation=dilation)
        y = _with_slope(convolve, along_kernel)(x, kernel)
    else:
        y = convolve(x, kernel)
    return y if bias is None else y + _as_rank(bias, y.ndim)


def _with_slope(convolve: Callable[..., Array], along_kernel: Callable[..., Array]) -> Callable[..., Array]:
    """Return ``convolve``, whose derivative by the kernel is ``along_kernel`` on a CPU: the same, transposed faster."""
    function = jax.custom_jvp(convolve)

    def tangent(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Any]:
        (x, kernel), (dx, dkernel) = primals, tangents
        terms = []
        if not isinstance(dx, SymbolicZero):
            terms.append(convolve(dx, kernel))
        if not isinstance(dkernel, SymbolicZero):
            terms.append(lax.platform_dependent(x, dkernel, cpu=along_kernel, default=convolve))
        y = function(x, kernel)
        return y, sum(terms[1:], terms[0])

    function.defjvp(tangent, symbolic_zeros=True)
    return function


def spread(x: Array, *, factors: Ints) -> Array:
    """Put ``factors`` − 1 zeros between neighbours along the spatial axes."""
    interior = ((0, 0, 0), *((0, 0, factor - 1) for factor in factors), (0, 0, 0))
    return lax.pad(x, np.zeros((), x.dtype), interior)


def _pointwise(x: Array, kernel: Array, *, strides: Ints) -> Array:
    """Convolve with one pixel as a matrix product."""
    thinned = x[(slice(None), *(slice(None, None, step) for step in strides))]
    return dense(thinned, kernel=kernel.reshape(kernel.shape[-2:]))


def dense(
    x: Float[Array, "batch *rest cin"],
    *,
    kernel: Float[Array, "cin cout"],
    bias: Float[Array, " cout"] | None = None,
) -> Float[Array, "batch *rest cout"]:
    """Multiply the last axis by a matrix."""
    y = jnp.matmul(x, kernel, precision=PRECISION)
    return y if bias is None else y + _as_rank(bias, y.ndim)


def matmul(x: Float[Array, "*batch row sum"], y: Float[Array, "*batch sum col"]) -> Float[Array, "*batch row col"]:
    """Return the matrix products of two tensors; batches repeat where one has a single one."""
    return jnp.matmul(x, y, precision=PRECISION)


#: Parameters of `affine` that it does not compute with: what batch normalization says about its result.
STATISTICS = frozenset({"mean", "deviation"})


def affine(
    x: Float[Array, "*batch chan"],
    *,
    scale: Float[Array, " chan"],
    offset: Float[Array, " chan"],
    mean: Float[Array, " chan"] | None = None,
    deviation: Float[Array, " chan"] | None = None,
) -> Float[Array, "*batch chan"]:
    """Scale and shift each channel: batch normalization in inference.

    ``mean`` and ``deviation`` (β and |γ|) are those of the result on the training images; nothing is computed with
    them here.
    """
    del mean, deviation
    return x * _as_rank(scale, x.ndim) + _as_rank(offset, x.ndim)


def max_pool(x: Array, *, window: Ints, strides: Ints, padding: Pads, dilation: Ints) -> Array:
    """Return the maximum of each window; padding never wins."""
    return pool(x, -jnp.inf, lax.max, window, strides, padding, dilation)


def pool(
    x: Array, start: float, combine: Callable, window: Ints, strides: Ints, padding: Pads, dilation: Ints
) -> Array:
    """Combine the elements of each window; padding is ``start``, the neutral element."""

    def general(x: Array) -> Array:
        return lax.reduce_window(
            x,
            np.asarray(start, x.dtype),
            combine,
            (1, *window, 1),
            (1, *strides, 1),
            ((0, 0), *padding, (0, 0)),
            window_dilation=(1, *dilation, 1),
        )

    def by_shifts(x: Array) -> Array:
        padded = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=start)
        return pool_by_shifts(padded, combine, window=window, strides=strides, dilation=dilation)

    return lax.platform_dependent(x, cpu=by_shifts, default=general)


def average_pool(
    x: Array,
    *,
    window: Ints,
    strides: Ints,
    padding: Pads,
    dilation: Ints,
    overhang: Ints,
    count_padding: bool,
) -> Array:
    """Return the mean of each window.

    ``overhang`` is what ceil mode adds behind ``padding``: it is never counted; ``count_padding`` says
    whether padding is.
    """
    padded = [(low, high + over) for (low, high), over in zip(padding, overhang, strict=True)]
    total = pool(x, 0.0, lax.add, window, strides, tuple(padded), dilation)
    if not any(overhang) and (count_padding or not any(map(any, padding))):
        return total / prod(window)
    counts = window_counts(x.shape[1:-1], total.shape[1:-1], window, strides, padding, dilation, count_padding)
    return total / counts[None, ..., None]


def window_counts(
    space: Ints, space_out: Ints, window: Ints, strides: Ints, padding: Pads, dilation: Ints, count_padding: bool
) -> np.ndarray:
    """Return how many positions each pooling window counts: a product over the axes, at least 1."""
    counts = np.ones((), np.float32)
    for size, outputs, taps, stride, (low, high), step in zip(
        space, space_out, window, strides, padding, dilation, strict=True
    ):
        at = np.arange(outputs)[:, None] * stride + np.arange(taps)[None, :] * step
        inside = (at < low + size + high) if count_padding else (at >= low) & (at < low + size)
        # A window that lies in the padding altogether sums to 0 and counts nothing: its mean is 0, not 0/0.
        counts = np.multiply.outer(counts, np.maximum(inside.sum(1), 1).astype(np.float32))
    return counts


def local_response_norm(x: Array, *, size: int, alpha: float, beta: float, bias: float) -> Array:
    """Divide by (bias + alpha/size · Σ squares over ``size`` channels)^beta (Krizhevsky et al. 2012)."""
    before = (size - 1) // 2
    around = [(0, 0)] * (x.ndim - 1) + [(before, size - 1 - before)]
    ones = (1,) * x.ndim
    squares = lax.reduce_window(x * x, 0.0, lax.add, (*ones[:-1], size), ones, around)
    return x / (bias + (alpha / size) * squares) ** beta


def _binary(function: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def call(x: Array, y: Array | None = None, *, constant: Array | None = None, reverse: bool = False) -> Array:
        other = _as_rank(constant, x.ndim) if y is None else y
        return function(other, x) if reverse else function(x, other)

    call.__doc__ = f"Return {function.__name__}(x, y); y may be ``constant``; ``reverse`` exchanges the two."
    return call


def _unary(function: Callable[[Array], Array]) -> Callable[..., Array]:
    def call(x: Array) -> Array:
        return function(x)

    call.__doc__ = f"Return {function.__name__}(x), elementwise."
    return call


def _reduction(function: Callable[..., Array]) -> Callable[..., Array]:
    def call(x: Array, *, axes: Ints, keepdims: bool) -> Array:
        return function(x, axis=axes, keepdims=keepdims)

    call.__doc__ = f"Return the {function.__name__} over ``axes``."
    return call


def argmax(x: Array, *, axes: Ints, keepdims: bool) -> Array:
    """Return the first index of the largest element along the one axis of ``axes``, as float32."""
    return jnp.argmax(x, axis=axes[0], keepdims=keepdims).astype(jnp.float32)


def gather(x: Array, *, axis: int, indices: Ints) -> Array:
    """Pick elements along ``axis``, each any number of times."""
    return jnp.take(x, np.asarray(indices, np.int32), axis=axis)


def concat(*inputs: Array, axis: int) -> Array:
    """Join the inputs along ``axis``."""
    return jnp.concatenate(inputs, axis=axis)


def clip(x: Array, *, low: float | None, high: float | None) -> Array:
    """Limit to [low, high]; None is no limit. ReLU6 is clip to [0, 6]."""
    return jnp.clip(x, low, high)


def leaky_relu(x: Array, *, slope: float) -> Array:
    """Return x where x ≥ 0, slope · x elsewhere."""
    return jnp.where(x >= 0, x, slope * x)


def prelu(x: Array, *, slope: Array) -> Array:
    """Return x where x ≥ 0, slope · x elsewhere; ``slope`` is a parameter that broadcasts."""
    return jnp.where(x >= 0, x, _as_rank(slope, x.ndim) * x)


def select(
    x: Array,
    *branches: Array,
    threshold: float,
    strict: bool,
    above: Array | None = None,
    below: Array | None = None,
) -> Array:
    """Return the first branch where x > threshold (≥ where not ``strict``), the second elsewhere.

    Either may be a constant, ``above`` or ``below``, and is no branch then.
    """
    rest = iter(branches)
    first, second = (next(rest) if value is None else _as_rank(value, x.ndim) for value in (above, below))
    return jnp.where(x > threshold if strict else x >= threshold, first, second)


def hard_sigmoid(x: Array, *, alpha: float, beta: float) -> Array:
    """Return alpha · x + beta, limited to [0, 1]."""
    return jnp.clip(alpha * x + beta, 0.0, 1.0)


def hard_swish(x: Array) -> Array:
    """Return x · clip(x + 3, 0, 6) / 6 (Howard et al. 2019)."""
    return x * hard_sigmoid(x, alpha=1 / 6, beta=0.5)


def silu(x: Array) -> Array:
    """Return x · sigmoid(x)."""
    return x * jax.nn.sigmoid(x)


def round_to_grid(x: Array, *, step: float, low: float, high: float) -> Array:
    """Return x rounded, half to even, to an integer of steps from ``low`` to ``high`` of them.

    Bit by bit what ONNX Runtime gives from a pair of QuantizeLinear and DequantizeLinear. The gradient is one inside
    the limits and zero outside, as that of ``ggdjax.Quantizer``.
    """
    quotient, nearest = divide(x, step)
    code = jnp.clip(quotient, low, high)
    rounded = step * (code + lax.stop_gradient(jnp.clip(nearest, low, high) - code))
    # Without a choice between them, compilers fuse this product and a sum behind it into one operation, rounded once.
    return jnp.where(jnp.isnan(x), x, rounded)


def power(x: Array, *, exponent: float) -> Array:
    """Return x to a constant power."""
    return x * x if exponent == 2 else x**exponent


def softmax(x: Array, *, axes: Ints) -> Array:
    """Return exp(x) / Σ exp(x) over ``axes``."""
    return jax.nn.softmax(x, axis=axes)


def pad(x: Array, *, padding: Pads, mode: str, value: float) -> Array:
    """Pad every axis by (before, after), negative to crop; ``mode``: constant, reflect, edge or wrap."""
    crop = tuple(slice(max(-low, 0), size - max(-high, 0)) for size, (low, high) in zip(x.shape, padding, strict=True))
    grow = [(max(low, 0), max(high, 0)) for low, high in padding]
    fill = {"constant_values": value} if mode == "constant" else {}
    return jnp.pad(x[crop], grow, mode=mode, **fill)


def reshape(x: Array, *, shape: Ints) -> Array:
    """Give another shape; −1 stands for what is left (the batch, as a rule)."""
    return x.reshape(shape)


def transpose(x: Array, *, axes: Ints) -> Array:
    """Reorder the axes: axis i of the result is axis ``axes[i]`` of x."""
    return jnp.transpose(x, axes)


def broadcast(x: Array, *, shape: tuple[int | None, ...]) -> Array:
    """Repeat axes of size 1 up to ``shape``; None leaves an axis as it is."""
    return jnp.broadcast_to(x, tuple(size if want is None else want for size, want in zip(x.shape, shape, strict=True)))


def slice_(x: Array, *, slices: tuple[tuple[int | None, int | None, int], ...]) -> Array:
    """Take (start, stop, step) of every axis, Python's rules."""
    return x[tuple(slice(*limits) for limits in slices)]


def _as_rank(constant: Array, rank: int) -> Array:
    """Put axes of size 1 in front until ``constant`` has ``rank`` axes."""
    return constant.reshape((1,) * (rank - constant.ndim) + constant.shape)


OPS: dict[str, Callable[..., Array]] = {
    "abs": _unary(jnp.abs),
    "add": _binary(jnp.add),
    "affine": affine,
    "argmax": argmax,
    "atan": _unary(jnp.arctan),
    "average_pool": average_pool,
    "broadcast": broadcast,
    "clip": clip,
    "concat": concat,
    "conv": conv,
    "dense": dense,
    "div": _binary(jnp.divide),
    "erf": _unary(lax.erf),
    "exp": _unary(jnp.exp),
    "gather": gather,
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": hard_swish,
    "leaky_relu": leaky_relu,
    "local_response_norm": local_response_norm,
    "log": _unary(jnp.log),
    "matmul": matmul,
    "max": _reduction(jnp.max),
    "max_pool": max_pool,
    "maximum": _binary(jnp.maximum),
    "mean": _reduction(jnp.mean),
    "minimum": _binary(jnp.minimum),
    "mul": _binary(jnp.multiply),
    "pad": pad,
    "power": power,
    "prelu": prelu,
    "relu": _unary(jax.nn.relu),
    "reshape": reshape,
    "resize": resize,
    "round_to_grid": round_to_grid,
    "select": select,
    "sigmoid": _unary(jax.nn.sigmoid),
    "silu": silu,
    "slice": slice_,
    "softmax": softmax,
    "sqrt": _unary(jnp.sqrt),
    "sub": _binary(jnp.subtract),
    "sum": _reduction(jnp.sum),
    "tanh": _unary(jnp.tanh),
    "transpose": transpose,
}


def supported_ops() -> tuple[str, ...]:
    """Return the names of the operations that a graph may hold."""
    return tuple(sorted(OPS))
