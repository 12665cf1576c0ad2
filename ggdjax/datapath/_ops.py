"""The operations of an integer program: pure functions over int32 arrays, channels last.

Each takes its node's static arguments and parameters by keyword, like those of `ggdjax.network._ops`. Layers return
their accumulators together with the number of sums that overflowed.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jax import lax

from ggdjax.datapath import _rounding as rules
from ggdjax.datapath._rounding import Overflow, Rounding
from ggdjax.network import _ops as float_ops

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from jaxtyping import Array, Float, Int

Ints = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]


def quantize(x: Float[Array, "..."], *, scale: float, low: int, high: int) -> Int[Array, "..."]:
    """Return the codes of real values, halves to even, as fake quantization rounds them."""
    limits = jnp.clip(x / jnp.float32(scale), float(low), float(high))
    return jnp.clip(jnp.round(limits).astype(jnp.int32), low, high)


def in_float(
    *inputs: Int[Array, "..."],
    layer: str,
    unit: float | tuple[float, ...],
    scale: float,
    low: int,
    high: int,
    **given: Any,
) -> Int[Array, "..."]:
    """Return what a layer or product in float makes of integers in units of ``unit``, as integers in ``scale``.

    The one operation whose integers depend, in their last bits, on the backend. ``given`` are its parameters and
    attributes.
    """
    units = unit if isinstance(unit, tuple) else (unit,)
    real = (x.astype(jnp.float32) * jnp.float32(each) for x, each in zip(inputs, units, strict=True))
    return quantize(float_ops.OPS[layer](*real, **given), scale=scale, low=low, high=high)


def requantize(
    x: Int[Array, "..."],
    *,
    multiplier: Ints,
    shift: Ints,
    shape: Ints,
    low: int,
    high: int,
    rounding: Rounding,
) -> Int[Array, "..."]:
    """Return clip(round(x · multiplier · 2^(−shift)), low, high); ``shape`` is the factors' shape, last axes of x."""
    m, s = (np.asarray(v, np.int32).reshape((1,) * (x.ndim - len(shape)) + shape) for v in (multiplier, shift))
    return rules.requantize(x, m, s, rounding, low, high)


def requantize_by_sign(
    x: Int[Array, "..."],
    *,
    multiplier: Ints,
    shift: Ints,
    negative_multiplier: Ints,
    negative_shift: Ints,
    negative_shape: Ints,
    low: int,
    high: int,
    rounding: Rounding,
) -> Int[Array, "..."]:
    """Requantize by one ratio where x ≥ 0, by another, of any sign, below: leaky ReLU and PReLU.

    ``negative_shape`` is the shape of the other's factors, last axes of x.
    """
    clipped = partial(requantize, low=low, high=high, rounding=rounding)
    above = clipped(x, multiplier=multiplier, shift=shift, shape=(len(multiplier),))
    factors = np.asarray(negative_multiplier, np.int32)
    signs = np.sign(factors).reshape((1,) * (x.ndim - len(negative_shape)) + negative_shape)
    size = tuple(np.abs(factors).tolist())
    below = clipped(x * signs, multiplier=size, shift=negative_shift, shape=negative_shape)
    return jnp.where(x >= 0, above, below)


def saturate(x: Int[Array, "..."], *, low: int, high: int) -> Int[Array, "..."]:
    """Return clip(x, low, high)."""
    return jnp.clip(x, low, high)


def lookup(x: Int[Array, "..."], *, table: Int[Array, " entries"], first: int) -> Int[Array, "..."]:
    """Return ``table[x − first]``."""
    return jnp.take(table, x - first, mode="clip")


#: Most bits of an input below a table's index.
MOST_SHIFT = 18


def interpolate(
    x: Int[Array, "..."],
    *,
    table: Int[Array, " cells_and_one"],
    curve: Int[Array, " cells"],
    first: int,
    cell_bits: int,
) -> Int[Array, "..."]:
    """Return the parabola through the table at i = (x − first) >> cell_bits and at i + 1, by the bits of x below.

    ``curve`` is four times how far each parabola lies above its chord in the middle.
    """
    away = x - first
    cell = away >> cell_bits
    rest = away - (cell << cell_bits)
    here, there, bend = (
        jnp.take(array, at, mode="clip") for array, at in ((table, cell), (table, cell + 1), (curve, cell))
    )
    rest = rest << (MOST_SHIFT - cell_bits)

    def part(d: Array, f: Array) -> Array:
        """Return d · f / 2^18, halves up: of 27 and 18 bits, whose product's lower 14 bits are dropped first."""
        low = lax.bitcast_convert_type(d & 0x3FFF, jnp.uint32) * lax.bitcast_convert_type(f, jnp.uint32)
        return ((d >> 14) * f + lax.bitcast_convert_type(low >> 14, jnp.int32) + 8) >> 4

    return here + part(there - here, rest) + part(part(bend, rest), (1 << MOST_SHIFT) - rest)


def add(x: Int[Array, "..."], y: Int[Array, "..."]) -> Int[Array, "..."]:
    """Return x + y on a common grid."""
    return x + y


def sub(x: Int[Array, "..."], y: Int[Array, "..."]) -> Int[Array, "..."]:
    """Return x − y on a common grid."""
    return x - y


def mul(x: Int[Array, "..."], y: Int[Array, "..."]) -> Int[Array, "..."]:
    """Return x · y."""
    return x * y


def matmul(
    x: Int[Array, "*batch row sum"], y: Int[Array, "*batch sum col"], *, ranges: tuple[tuple[int, int], ...]
) -> Int[Array, "*batch row col"]:
    """Return the matrix products of two tensors of codes within ``ranges``, which 32 bits hold."""
    magnitude = x.shape[-1] * math.prod(max(-low, high) for low, high in ranges)

    def on_cpu(x: Array, y: Array) -> Array:
        if magnitude < 1 << 24:
            return float_ops.matmul(x.astype(jnp.float32), y.astype(jnp.float32)).astype(jnp.int32)
        return jnp.matmul(x, y, preferred_element_type=jnp.int32)

    def by_int8(x: Array, y: Array) -> Array:
        first, second = (_int8_digits(v, *ends) for v, ends in zip((x, y), ranges, strict=True))
        terms = [
            a_weight * b_weight * jnp.matmul(a, b, preferred_element_type=jnp.int32)
            for a, a_weight in first
            for b, b_weight in second
        ]
        return sum(terms[1:], terms[0])

    return lax.platform_dependent(x, y, cpu=on_cpu, default=by_int8)


def wide_mul(
    x: Int[Array, "..."], y: Int[Array, "..."], *, dropped_bits: int, low: int, high: int, rounding: Rounding
) -> Int[Array, "..."]:
    """Return clip(round(x · y · 2^(−dropped_bits)), low, high), of the exact product of up to 62 bits."""
    return rules.rounding_product(x, y, dropped_bits, rounding, low, high)


def offset(x: Int[Array, "..."], *, sign: Ints, constant: Ints, shape: Ints) -> Int[Array, "..."]:
    """Return ±x + constant, of the shape of x's last axes; sign 0 drops x."""
    signs, constants = (np.asarray(v, np.int32).reshape((1,) * (x.ndim - len(shape)) + shape) for v in (sign, constant))
    return x * signs + constants


def argmax(x: Int[Array, "..."], *, axes: Ints, keepdims: bool) -> Int[Array, "..."]:
    """Return the first index of the largest along the one axis of ``axes``."""
    return jnp.argmax(x, axis=axes[0], keepdims=keepdims).astype(jnp.int32)


def sum_over(x: Int[Array, "..."], *, axes: Ints, keepdims: bool) -> Int[Array, "..."]:
    """Return the sum over ``axes``."""
    return jnp.sum(x, axis=axes, keepdims=keepdims, dtype=jnp.int32)


def sum_pool(x: Array, *, window: Ints, strides: Ints, padding: Pads, dilation: Ints) -> Array:
    """Return the sum of each window, padded with zeros."""
    return float_ops.pool(x, 0, lax.add, window, strides, padding, dilation)


def max_pool(x: Array, *, window: Ints, strides: Ints, padding: Pads, dilation: Ints) -> Array:
    """Return the maximum of each window; padding never wins."""
    return float_ops.pool(x, -(2**31), lax.max, window, strides, padding, dilation)


def spread(x: Int[Array, "batch *space chan"], *, factors: Ints) -> Int[Array, "batch *space_out chan"]:
    """Put ``factors`` − 1 zeros between neighbours."""
    return float_ops.spread(x, factors=factors)


def conv(
    x: Int[Array, "batch *space cin"],
    *,
    kernel: Int[Array, "*window cin_per_group cout"],
    bias: Int[Array, " cout"],
    strides: Ints,
    padding: Pads,
    dilation: Ints,
    groups: int,
    method: str,
    low: int,
    high: int,
    accumulator_bits: int,
    overflow: Overflow,
    channel_tile: int,
) -> tuple[Int[Array, "batch *space_out cout"], Int[Array, ""]]:
    """Return bias + Σ x · kernel as the accumulator holds it, and how often it overflowed.

    ``method`` names the fast path, chosen where it is exact: see `METHODS`. ``low`` and ``high`` bound x.
    """
    sums = partial(METHODS[method], strides=strides, padding=padding, dilation=dilation, low=low, high=high)

    def part(start: int) -> Array:
        stop = start + channel_tile
        return sums(_channels(x, groups, start, stop), kernel[..., start:stop, :], groups=groups)

    return _accumulate(part, kernel.shape[-2], channel_tile, bias, x.ndim, accumulator_bits, overflow)


def dense(
    x: Int[Array, "batch *rest cin"],
    *,
    kernel: Int[Array, "cin cout"],
    bias: Int[Array, " cout"],
    method: str,
    low: int,
    high: int,
    accumulator_bits: int,
    overflow: Overflow,
    channel_tile: int,
) -> tuple[Int[Array, "batch *rest cout"], Int[Array, ""]]:
    """Return bias + x · kernel as the accumulator holds it, and how often it overflowed; see `conv`."""

    def part(start: int) -> Array:
        stop = start + channel_tile
        return _matrix_product(x[..., start:stop], kernel[start:stop], method, low, high)

    return _accumulate(part, kernel.shape[0], channel_tile, bias, x.ndim, accumulator_bits, overflow)


def _accumulate(
    part: Callable[[int], Array], channels: int, tile: int, bias: Array, ndim: int, bits: int, overflow: Overflow
) -> tuple[Array, Array]:
    """Start from the bias, add the partial sums of all tiles of input channels, apply the policy after each."""
    acc = bias.reshape((1,) * (ndim - 1) + bias.shape)
    overflows = jnp.int32(0)
    for start in range(0, channels, tile):
        exact = part(start) + acc
        match overflow:
            case Overflow.RAISE:
                acc = exact
            case Overflow.SATURATE:
                acc = rules.saturate(exact, bits)
            case Overflow.WRAP:
                acc = rules.wrap(exact, bits)
        if overflow is not Overflow.RAISE:
            overflows = overflows + jnp.sum(acc != exact, dtype=jnp.int32)
    return acc, overflows


def _channels(x: Array, groups: int, start: int, stop: int) -> Array:
    """Return the input channels ``start`` to ``stop`` of every group."""
    per_group = x.shape[-1] // groups
    if start == 0 and stop >= per_group:
        return x
    grouped = x.reshape(*x.shape[:-1], groups, per_group)[..., start:stop]
    return grouped.reshape(*x.shape[:-1], -1)


def _numbers(x: Array, kernel: Array) -> lax.ConvDimensionNumbers:
    spatial = x.ndim - 2
    letters = "DHW"[-spatial:] if spatial <= 3 else "".join(map(str, range(spatial)))
    return lax.conv_dimension_numbers(x.shape, kernel.shape, (f"N{letters}C", f"{letters}IO", f"N{letters}C"))


def _direct(
    x: Array, kernel: Array, *, strides: Ints, padding: Pads, dilation: Ints, groups: int, **kind: object
) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=padding,
        rhs_dilation=dilation,
        dimension_numbers=_numbers(x, kernel),
        feature_group_count=groups,
        **kind,  # type: ignore[arg-type]
    )


def _by_float32(x: Array, kernel: Array, *, low: int, high: int, **shape: object) -> Array:
    """Convolve in float32: exact while every partial sum stays below 2^24, which compiling has proven."""
    del low, high
    return float_ops.conv(x.astype(jnp.float32), kernel=kernel.astype(jnp.float32), **shape).astype(jnp.int32)


def _by_int8(x: Array, kernel: Array, *, low: int, high: int, padding: Pads, **shape: object) -> Array:
    """Convolve int8 by int8 into int32; unsigned codes less 128 (so that the largest is 127), and 128 · Σ kernel added.

    Zeros are padded beforehand, as 0 − 128, since the convolution's own padding would mean code 128. The padding stays
    where it is: XLA (0.10.2, CPU) would make it the convolution's, whose int8 sums are wrong for outputs of 1 by 1 and
    2 by 2.
    """
    away = 0 if low >= -128 and high <= 127 else max(high, 0) - 127
    narrow = (x - away).astype(jnp.int8)
    narrow = lax.optimization_barrier(jnp.pad(narrow, ((0, 0), *padding, (0, 0)), constant_values=-away))
    y = _direct(
        narrow,
        kernel,
        padding=((0, 0),) * len(padding),
        preferred_element_type=jnp.int32,
        **shape,
    )
    return _moved_back(y, kernel, away)


def _moved_back(y: Array, kernel: Array, away: int) -> Array:
    """Return the sums for codes as they are of the sums for codes less ``away``."""
    if not away:
        return y
    total = jnp.sum(kernel, axis=tuple(range(kernel.ndim - 1)), dtype=jnp.int32)
    return y + (away * total).reshape((1,) * (y.ndim - 1) + total.shape)


def _by_int32(x: Array, kernel: Array, *, low: int, high: int, **shape: object) -> Array:
    """Convolve in int32: always exact modulo 2^32, and slow."""
    del low, high
    return _direct(x, kernel.astype(jnp.int32), **shape)


def _by_shifts(
    x: Array, kernel: Array, *, low: int, high: int, strides: Ints, padding: Pads, dilation: Ints, groups: int
) -> Array:
    """Sum shifted products in int32, one per position of the window, grouped products by broadcasting.

    The fastest for depthwise convolutions on the CPU; and the one that other backends use for all of them, since
    their integer convolutions cannot be relied on: it needs only slices and exact integer matrix products.
    """
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    sums = partial(_sum_of_shifts, strides=strides, dilation=dilation, groups=groups)
    if kernel.shape[-2] == 1 and kernel.shape[-1] == x.shape[-1] == groups:  # depthwise: no matrix product
        return sums(x, kernel)
    return _by_int8_products(sums, x, kernel, low, high)


def _by_int8_products(product: Callable[[Array, Array], Array], x: Array, kernel: Array, low: int, high: int) -> Array:
    """Return a product that is linear in ``x``, from int8 numbers: matrix units multiply those, into int32.

    Codes of 8 bits are one number, unsigned ones less 128 (so that the largest is 127) and with 128 · Σ kernel added;
    wider ones several.
    """
    low, high = min(low, 0), max(high, 0)
    away = high - 127 if high - low < 256 and not -128 <= low <= high <= 127 else 0
    terms = [weight * product(digit, kernel) for digit, weight in _int8_digits(x - away, low - away, high - away)]
    y = sum(terms[1:], terms[0])
    return _moved_back(y, kernel, away)


def _int8_digits(x: Array, low: int, high: int) -> tuple[tuple[Array, int], ...]:
    """Return int8 arrays and their weights, whose weighted sum ``x`` is: digits from −128 to 127 to the base 256."""
    digits, weight = [], 1
    x = x.astype(jnp.int32)
    while low < -128 or high > 127:
        digit = ((x + 128) & 255) - 128
        digits.append((digit.astype(jnp.int8), weight))
        x, low, high = (x - digit) >> 8, (low - 127) >> 8, (high + 128) >> 8
        weight *= 256
    return (*digits, (x.astype(jnp.int8), weight))


def _sum_of_shifts(x: Array, kernel: Array, *, strides: Ints, dilation: Ints, groups: int) -> Array:
    """Return the products with every position of the window, summed; ``x`` is padded already.

    Codes of a convolution without groups are put side by side first: one long product, in place of an int32 tensor for
    every position.
    """
    window, per_group = kernel.shape[:-2], kernel.shape[-2]
    space = tuple(
        (size - step * (taps - 1) - 1) // stride + 1
        for size, taps, stride, step in zip(x.shape[1:-1], window, strides, dilation, strict=True)
    )
    beside = groups == 1 and x.dtype == jnp.int8
    total, parts = None, []
    for at in np.ndindex(*window):
        first = tuple(i * step for i, step in zip(at, dilation, strict=True))
        last = tuple(f + (n - 1) * stride + 1 for f, n, stride in zip(first, space, strides, strict=True))
        shifted = lax.slice(x, (0, *first, 0), (x.shape[0], *last, x.shape[-1]), (1, *strides, 1))
        if beside:
            parts.append(shifted)
            continue
        term = _grouped_product(shifted, kernel[at], groups, per_group)
        total = term if total is None else total + term
    if beside:
        return _grouped_product(jnp.concatenate(parts, -1), kernel.reshape(-1, kernel.shape[-1]), 1, per_group)
    return total


def _grouped_product(x: Array, kernel: Int[Array, "cin_per_group cout"], groups: int, per_group: int) -> Array:
    """Return the product of x's last axis, in groups, by the groups' matrices."""
    if groups == 1:
        return _product(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
    if per_group == 1 and kernel.shape[-1] == x.shape[-1]:
        return x * kernel.astype(jnp.int32).reshape((1,) * (x.ndim - 1) + (-1,))
    grouped = x.reshape(*x.shape[:-1], groups, per_group)
    matrices = kernel.reshape(per_group, groups, -1)
    y = _product(grouped, matrices, (((grouped.ndim - 1,), (0,)), ((grouped.ndim - 2,), (1,))))
    return jnp.moveaxis(y, 0, -2).reshape(*x.shape[:-1], -1)


def _product(x: Array, kernel: Array, numbers: Any) -> Array:
    """Return the product in int32, from int8 where both are; wider kernels are split as codes are."""
    if x.dtype != jnp.int8:
        return lax.dot_general(x, kernel.astype(jnp.int32), numbers, preferred_element_type=jnp.int32)
    narrow = kernel.dtype == jnp.int8
    digits = ((kernel, 1),) if narrow else _int8_digits(kernel, np.iinfo(kernel.dtype).min, np.iinfo(kernel.dtype).max)
    terms = [weight * lax.dot_general(x, d, numbers, preferred_element_type=jnp.int32) for d, weight in digits]
    return sum(terms[1:], terms[0])


def _matrix_product(x: Array, kernel: Array, method: str, low: int, high: int) -> Array:
    numbers = (((x.ndim - 1,), (0,)), ((), ()))

    def on_cpu(x: Array, kernel: Array) -> Array:
        if method == "float32":
            return float_ops.dense(x.astype(jnp.float32), kernel=kernel.astype(jnp.float32)).astype(jnp.int32)
        return lax.dot_general(x, kernel.astype(jnp.int32), numbers, preferred_element_type=jnp.int32)

    def by_int8(x: Array, kernel: Array) -> Array:
        return _by_int8_products(partial(_product, numbers=numbers), x, kernel, low, high)

    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=by_int8)


def _on_cpu(method: Callable[..., Array]) -> Callable[..., Array]:
    """Use ``method`` on the CPU, shifted products elsewhere."""

    def call(x: Array, kernel: Array, **arguments: object) -> Array:
        return lax.platform_dependent(
            x, kernel, cpu=partial(method, **arguments), default=partial(_by_shifts, **arguments)
        )

    return call


#: Ways to compute the sums of a convolution; all give the same integers where they are allowed.
METHODS: dict[str, Callable[..., Array]] = {
    "float32": _on_cpu(_by_float32),
    "int8": _on_cpu(_by_int8),
    "int32": _on_cpu(_by_int32),
    "shifts": _by_shifts,
}


def method_of(op: str, kernel: np.ndarray, groups: int, low: int, high: int, magnitude: int) -> str:
    """Return the fastest exact way to compute a layer's sums on a CPU.

    Args:
        op: ``conv`` or ``dense``.
        kernel: its codes.
        groups: of a convolution.
        low: smallest code of the input.
        high: largest code of the input.
        magnitude: largest Σ |x| |kernel| that an output can have.
    """
    if magnitude < 1 << 24:
        return "float32"
    if op == "conv" and groups > 1 and kernel.shape[-2] == 1 and kernel.shape[-1] == groups:
        return "shifts"
    # Padding is code 0, whether or not the limits hold it.
    if op == "conv" and kernel.dtype == np.int8 and max(high, 0) - min(low, 0) < 256:
        return "int8"
    return "int32"
