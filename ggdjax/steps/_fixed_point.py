"""Fixed point for weights and biases: w_hat = q · 2^(−F), q a signed b-bit integer, F an integer.

The best fractional length is F* = argmin_F Σ (w − Q_F(w))² over all integers F, found exactly:

* Below: where nothing overflows, every grid coarser than F is part of the grid of F, so no smaller F is better.
  With max|w| = m 2^e, ½ ≤ m < 1, nothing overflows at F = b − 2 − e; the search starts there.
* Above: the overload error Σ (|w| − largest)₊² only grows with F; once it alone exceeds the best total, no larger F
  is better, and the search stops. On ordinary weights that is after two to five candidates.

All products with powers of two are exact; rounding is half to even, overflow saturates.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from ggdjax._errors import GgdjaxError, expect_array
from ggdjax.ggd._arrays import checked_axes, is_concrete
from ggdjax.steps._source import float_dtype

BITS_MIN, BITS_MAX = 2, 32
#: 2^F and 2^(−F) are normal numbers of float32.
FRAC_BITS_MAX = 126
#: Values summed at a time: sums of millions of squares in float32 keep six digits.
BLOCK = 512


class FixedPointCode(enum.IntEnum):
    """What became of one group of values; `frac_bits` is usable in every case."""

    OK = 0
    ALL_ZERO = 1
    NONFINITE = 2
    AT_BOUND = 3

    @property
    def message(self) -> str:
        """What happened, and what to do."""
        return _MESSAGES[self]


_MESSAGES = {
    FixedPointCode.OK: "the least squared error over all fractional lengths",
    FixedPointCode.ALL_ZERO: "no value beside zero: frac_bits is b − 1, the range [−1, 1)",
    FixedPointCode.NONFINITE: "infinities or NaNs were left out of the search; look at the weights",
    FixedPointCode.AT_BOUND: f"frac_bits is at ±{FRAC_BITS_MAX}, the edge of float32: rescale the values",
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class FractionalLength:
    """The best F per group: w ≈ q 2^(−F) with least squared error."""

    frac_bits: Int[Array, "..."]  # F, from −126 to 126
    sqnr_db: Float[Array, "..."]  # 10 log10( Σ w² / Σ (w − w_hat)² ); inf where nothing is lost
    code: Int[Array, "..."]  # FixedPointCode


def best_fractional_length(
    w: ArrayLike, bits: ArrayLike, axis: int | tuple[int, ...] | None = None
) -> FractionalLength:
    """Return the fractional length of least squared error, the global minimum over all integers F.

    Args:
        w: weights or biases, any shape. Zeros never matter.
        bits: width(s) b of the signed integers, whole, 2 to 32; broadcast to the shape of the result.
        axis: axes that share one F; None for all (per layer). For one F per output channel of a kernel with the
            channels last: ``axis=tuple(range(w.ndim - 1))``.

    Returns:
        Arrays of the shape of ``w`` without `axis`. Of several equally good F the first of the search (see
        the module). Not differentiable.

    Raises:
        GgdjaxError: `bits` out of range, not whole, or of a shape that does not fit; `axis` out of range; `w` empty.

    Example:
        >>> w = jnp.array([0.11, -0.24, 0.07, -0.11, 0.13, 1.01])  # clips the last one to 0.875
        >>> int(gd.steps.best_fractional_length(w, bits=4).frac_bits), int(gd.steps.max_fractional_length(w, bits=4))
        (3, 2)
    """
    w, bits, axes = checked(w, bits, axis)
    return _search(w, bits, axes=axes)


def max_fractional_length(
    w: ArrayLike, bits: ArrayLike, axis: int | tuple[int, ...] | None = None
) -> Int[Array, "..."]:
    """Return ``F = b − 1 − ⌈log2 max|w|⌉``, the baseline of dynamic fixed point: the largest value just fits.

    P. Gysel, J. Pimentel, M. Motamedi, S. Ghiasi, "Ristretto", IEEE TNNLS 29(11), 2018: the integer part gets
    ``⌈log2 max|w|⌉`` bits and the sign one. (A value that rounds to 2^(b−1) saturates by one step.) Arguments and
    errors as `best_fractional_length`; values that are not finite are left out.
    """
    w, bits, axes = checked(w, bits, axis)
    return _largest_fits(w, bits, axes=axes)


def quantize_fixed_point(
    w: ArrayLike, frac_bits: ArrayLike, bits: ArrayLike
) -> tuple[Int[Array, "..."], Float[Array, "..."]]:
    """Return the integers q (int32) and w_hat = q · 2^(−F), of the shape of `w`.

    q = clip(round(w 2^F), −2^(b−1), 2^(b−1) − 1), rounded half to even; NaN becomes 0, ±inf the largest codes.

    Args:
        w: values of any shape.
        frac_bits: F, whole, −126 to 126; broadcasts against `w` by the rules of NumPy (per output channel with the
            channels last: a vector).
        bits: width b, whole, 2 to 32; broadcasts likewise.

    Raises:
        GgdjaxError: `bits` or `frac_bits` not whole, out of range, or of a shape that does not fit.

    Example:
        >>> q, w_hat = gd.steps.quantize_fixed_point(jnp.array([0.3, -0.8, 5.0]), frac_bits=2, bits=4)
        >>> q.tolist(), w_hat.tolist()
        ([1, -3, 7], [0.25, -0.75, 1.75])
    """
    w = _as_float(w)
    bits = _atomic("bits", bits, BITS_MIN, BITS_MAX)
    frac_bits = _atomic("frac_bits", frac_bits, -FRAC_BITS_MAX, FRAC_BITS_MAX)
    return _quantize(w, _fit_to("frac_bits", frac_bits, w.shape), _fit_to("bits", bits, w.shape))


def power_of_two(exponent: Int[Array, "..."], dtype: jnp.dtype = jnp.float32) -> Float[Array, "..."]:
    """Return 2^exponent, exact on every device (`jnp.exp2` is not), for exponents of normal numbers."""
    info = jnp.finfo(dtype)
    word = jnp.int32 if info.bits == 32 else jnp.int64
    return lax.bitcast_convert_type((exponent.astype(word) + (info.maxexp - 1)) << info.nmant, dtype)


@partial(jax.jit, static_argnames="axes")
def _search(w: Array, bits: Array, *, axes: tuple[int, ...]) -> FractionalLength:
    rows, shape = group_rows(w, axes)
    finite = jnp.isfinite(rows)
    rows, bits = jnp.where(finite, rows, 0.0), bits.reshape(-1)
    peak = jnp.abs(rows).max((1, 2))
    exponent = jnp.frexp(peak)[1].astype(jnp.int32)
    # In units of 2^e every value is below one, and no square over- or underflows.
    half = exponent // 2
    unit = rows * column(power_of_two(-half, rows.dtype)) * column(power_of_two(half - exponent, rows.dtype))
    largest = power_of_two(bits - 1, rows.dtype)
    low, high = column(-largest), column(largest - 1.0)
    first = jnp.clip(bits - 2 - exponent, -FRAC_BITS_MAX, FRAC_BITS_MAX)

    def energy(x: Array) -> Array:
        return jnp.square(x).sum(-1).sum(-1)

    def candidate(state: tuple) -> tuple:
        frac_bits, best, best_frac_bits, _ = state
        scale = frac_bits + exponent
        x = unit * column(power_of_two(scale, rows.dtype))
        back = column(power_of_two(-scale, rows.dtype))
        clipped = jnp.clip(x, low, high)
        error = energy((x - jnp.round(clipped)) * back)
        better = error < best
        best = jnp.where(better, error, best)
        best_frac_bits = jnp.where(better, frac_bits, best_frac_bits)
        open_ = (energy((x - clipped) * back) < best) & (frac_bits < FRAC_BITS_MAX)
        return jnp.minimum(frac_bits + 1, FRAC_BITS_MAX), best, best_frac_bits, open_

    start = (first, jnp.full(peak.shape, jnp.inf, rows.dtype), first, peak > 0)
    _, error, frac_bits, _ = lax.while_loop(lambda state: state[-1].any(), candidate, start)

    nonzero = peak > 0
    code = jnp.where(jnp.abs(frac_bits) == FRAC_BITS_MAX, FixedPointCode.AT_BOUND, FixedPointCode.OK)
    code = jnp.where(finite.all((1, 2)), code, FixedPointCode.NONFINITE)
    code = jnp.where(nonzero, code, FixedPointCode.ALL_ZERO)
    lost = nonzero & (error > 0)
    sqnr = (10.0 / np.log(10.0)) * jnp.log(energy(unit) / jnp.where(lost, error, 1.0))
    return FractionalLength(
        frac_bits=jnp.where(nonzero, frac_bits, bits - 1).reshape(shape),
        sqnr_db=jnp.where(lost, sqnr, jnp.inf).reshape(shape),
        code=code.astype(jnp.int32).reshape(shape),
    )


@partial(jax.jit, static_argnames="axes")
def _largest_fits(w: Array, bits: Array, *, axes: tuple[int, ...]) -> Array:
    peak = jnp.abs(jnp.where(jnp.isfinite(w), w, 0.0)).max(axes)
    mantissa, exponent = jnp.frexp(peak)
    ceiling = exponent.astype(jnp.int32) - (mantissa == 0.5).astype(jnp.int32)
    frac_bits = jnp.clip(bits - 1 - ceiling, -FRAC_BITS_MAX, FRAC_BITS_MAX)
    return jnp.where(peak > 0, frac_bits, bits - 1)


@jax.jit
def _quantize(w: Array, frac_bits: Array, bits: Array) -> tuple[Array, Array]:
    largest = power_of_two(bits - 1, w.dtype)
    x = jnp.round(jnp.where(jnp.isnan(w), 0.0, w) * power_of_two(frac_bits, w.dtype))
    # Above 24 bits 2^(b−1) − 1 is no float32: the last step down is taken on the integer. (At b = 32 the shift wraps
    # to −2^31, and one less wraps to the limit 2^31 − 1.)
    q = jnp.clip(x, -largest, largest - 1.0).astype(jnp.int32)
    q = jnp.minimum(q, jnp.left_shift(jnp.ones_like(bits), bits - 1) - 1)
    return q, q.astype(w.dtype) * power_of_two(-frac_bits, w.dtype)


def group_rows(w: Array, axes: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """Return the groups as [group, block, value], filled up with zeros, and the shape of a result."""
    kept = tuple(i for i in range(w.ndim) if i not in axes)
    shape = tuple(w.shape[i] for i in kept)
    rows = jnp.transpose(w, (*kept, *axes)).reshape(int(np.prod(shape)), -1)
    rows = jnp.pad(rows, ((0, 0), (0, -rows.shape[1] % BLOCK)))
    return rows.reshape(rows.shape[0], -1, BLOCK), shape


def column(x: Float[Array, " group"]) -> Float[Array, "group 1 1"]:
    """Return one number per group in the shape that goes with `group_rows`."""
    return x[:, None, None]


def _as_float(w: ArrayLike) -> Array:
    """Return an array of float32, or float64 where that is given."""
    w = jnp.asarray(expect_array("w", w))
    dtype = float_dtype(w)
    return w.astype(dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32)


def checked(
    w: ArrayLike, bits: ArrayLike, axis: int | tuple[int, ...] | None, *, largest: int = BITS_MAX
) -> tuple[Array, Array, tuple[int, ...]]:
    """Return the weights as floats, `bits` of the shape of the result as int32, and the axes, sorted."""
    w = _as_float(w)
    if w.size == 0:
        raise GgdjaxError(f"`w` has shape {w.shape}; expected at least one value")
    axes = checked_axes("w", w.ndim, axis)
    shape = tuple(w.shape[i] for i in range(w.ndim) if i not in axes)
    bits = _fit_to("bits", _atomic("bits", bits, BITS_MIN, largest), shape)
    return w, jnp.broadcast_to(bits, shape), axes


def _atomic(name: str, value: ArrayLike, low: int, high: int) -> Array:
    """Return integers as int32 (values that are being traced are not looked at)."""
    if is_concrete(value):
        given = np.asarray(value)
        bad = ~((given >= low) & (given <= high) & (given == np.round(given)))
        if bad.any():
            raise GgdjaxError(f"`{name}` is {given[bad].flat[0]}; expected integers from {low} to {high}")
    return jnp.asarray(value).astype(jnp.int32)


def _fit_to(name: str, value: Array, shape: tuple[int, ...]) -> Array:
    """Give `value` the rank of `shape`, which it must broadcast to."""
    try:
        fits = jnp.broadcast_shapes(value.shape, shape) == tuple(shape)
    except ValueError:
        fits = False
    if not fits:
        raise GgdjaxError(f"`{name}` has shape {value.shape}; expected a shape that broadcasts to {tuple(shape)}")
    return value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
