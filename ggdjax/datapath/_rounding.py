"""What integer hardware does where real numbers would have a fraction or no bound: the enums and their arithmetic.

Truth table of `rounding_shift(x, 1, rounding)`, that is x / 2 rounded:

    x              -7  -6  -5  -3  -2  -1   1   2   3   5   6   7
    x / 2        -3.5  -3-2.5-1.5  -1-0.5 0.5   1 1.5 2.5   3 3.5
    HALF_AWAY      -4  -3  -3  -2  -1  -1   1   1   2   3   3   4
    HALF_EVEN      -4  -3  -2  -2  -1   0   0   1   2   2   3   4
    HALF_UP        -3  -3  -2  -1  -1   0   1   1   2   3   3   4
    FLOOR          -4  -3  -3  -2  -1  -1   0   1   1   2   3   3
    TOWARD_ZERO    -3  -3  -2  -1  -1   0   0   1   1   2   3   3

Truth table of a 4-bit accumulator (codes −8 … 7):

    sum            -17  -9  -8   7   8  16
    WRAP            -1   7  -8   7  -8   0
    SATURATE        -8  -8  -8   7   7   7
    RAISE        refused at compile time as soon as a sum outside −8 … 7 is possible

Everything on arrays is int32 and uint32: no 64-bit type is needed, so that results are the same with and without x64
and on every backend. `exact_round` states the same of Python's fractions.
"""

from __future__ import annotations

import enum
from fractions import Fraction
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

if TYPE_CHECKING:
    from jaxtyping import Array, Int, UInt


class Rounding(enum.StrEnum):
    """How a fraction is dropped; the table stands at the top of this module."""

    HALF_AWAY = "half_away"
    """To the nearest integer, halves away from zero: C's `round`, Jacob et al. (CVPR 2018)."""
    HALF_EVEN = "half_even"
    """To the nearest integer, halves to the even one: IEEE 754, ONNX, and this package's fake quantization."""
    HALF_UP = "half_up"
    """To the nearest integer, halves towards plus infinity: add half, then shift. The cheapest hardware that rounds."""
    FLOOR = "floor"
    """Towards minus infinity: the bare arithmetic shift."""
    TOWARD_ZERO = "toward_zero"
    """Towards zero: C's integer division."""


class Overflow(enum.StrEnum):
    """What becomes of a sum that the accumulator cannot hold."""

    WRAP = "wrap"
    """Two's complement: the sum modulo 2^b, whatever the order of additions."""
    SATURATE = "saturate"
    """The nearest end of the range, at the end of each partial sum."""
    RAISE = "raise"
    """Compiling refuses a layer whose worst case does not fit."""


class Requantization(enum.StrEnum):
    """How accumulators become codes."""

    MULTIPLIER_AND_SHIFT = "multiplier_and_shift"
    """round(acc · m0 · 2^(−r)): any ratio of steps (Jacob et al., CVPR 2018)."""
    SHIFT = "shift"
    """round(acc · 2^(−r)): every ratio of steps must be a power of two."""


def rounding_shift(x: Int[Array, "..."], shift: Array | np.ndarray | int, rounding: Rounding) -> Int[Array, "..."]:
    """Return x / 2^shift rounded, exactly.

    Args:
        x: int32.
        shift: 0 to 62, an integer or an int32 array that broadcasts against x.
        rounding: the rule.

    Example:
        >>> x = jnp.array([-3, -1, 1, 3])
        >>> [gd.datapath.rounding_shift(x, 1, gd.datapath.Rounding(rule)).tolist() for rule in ("half_even", "floor")]
        [[-2, 0, 0, 2], [-2, -1, 0, 1]]
    """
    if not isinstance(shift, jax.Array) and np.min(shift) > 0 and np.max(shift) < 32:
        return _shift_word(x, jnp.asarray(shift, jnp.int32), False, rounding)
    low = lax.bitcast_convert_type(x, jnp.uint32)
    return _shift_pair(x >> 31, low, jnp.asarray(shift, jnp.int32), rounding)


def requantize(
    acc: Int[Array, "..."],
    multiplier: np.ndarray,
    shift: np.ndarray,
    rounding: Rounding,
    low: int = -(2**31),
    high: int = 2**31 - 1,
) -> Int[Array, "..."]:
    """Return clip(round(acc · multiplier · 2^(−shift)), low, high), exactly.

    Args:
        acc: int32.
        multiplier: concrete int32 array that broadcasts against acc, 0 to 2^31 − 1.
        shift: concrete int32 array of the multiplier's shape, 0 to 62.
        rounding: the rule.
        low: least result, int32.
        high: largest result, int32.
    """
    return jnp.clip(_scaled(acc, multiplier, shift, rounding, max(-low, high + 1) <= _NARROW), low, high)


def _scaled(acc: Array, multiplier: np.ndarray, shift: np.ndarray, rounding: Rounding, narrow: bool) -> Array:
    """Return the rounded product by the least work; ``narrow``: saturation at ±2^29 will do."""
    if multiplier.max() == multiplier.min() == 1:
        return rounding_shift(acc, shift, rounding)
    if multiplier.max() < 1 << 16 and shift.min() > 16 and shift.max() < 48:
        return _requantize_short(acc, multiplier, shift, rounding)
    # The same ratio with its multiplier as long as it gets: more of the product lies in its upper word.
    spare = 31 - np.frexp(multiplier.astype(np.float64))[1].astype(np.int32)
    long, far = multiplier << spare, shift + spare
    if far.min() > 32 and far.max() < 64:
        upper, lower = _product_pair(acc, jnp.asarray(long))
        return _shift_word(upper, jnp.asarray(far - 32), lower != 0, rounding)
    if narrow and far.min() > 2 and far.max() < 34:
        return _shift_narrow(*_product_pair(acc, jnp.asarray(long)), far, rounding)
    return _shift_pair(*_product_pair(acc, jnp.asarray(multiplier)), jnp.asarray(shift), rounding)


def rounding_product(
    x: Int[Array, "..."], y: Int[Array, "..."], shift: int, rounding: Rounding, low: int, high: int
) -> Int[Array, "..."]:
    """Return clip(round(x · y · 2^(−shift)), low, high), exactly.

    Args:
        x: int32, above −2^31.
        y: int32 that broadcasts against x, above −2^31.
        shift: 0 to 62.
        rounding: the rule.
        low: least result, int32.
        high: largest result, int32.
    """
    pair = _product_pair(x * jnp.sign(y), jnp.abs(y))
    if max(-low, high + 1) <= _NARROW and 2 < shift < 34:
        return jnp.clip(_shift_narrow(*pair, np.int32(shift), rounding), low, high)
    return jnp.clip(_shift_pair(*pair, jnp.int32(shift), rounding), low, high)


def _requantize_short(acc: Array, multiplier: np.ndarray, shift: np.ndarray, rounding: Rounding) -> Array:
    """Do the same for multipliers of 16 bits: the product's upper 32 of 48 bits are one int32.

    acc = 2^16·h + l with l in [0, 2^16), so acc·m = 2^16·t + u with t = h·m + (l·m >> 16) and u in [0, 2^16), and
    |t| < 2^31 since |acc·m| < 2^47.
    """
    m = jnp.asarray(multiplier)
    product = lax.bitcast_convert_type(acc & 0xFFFF, jnp.uint32) * lax.bitcast_convert_type(m, jnp.uint32)
    top = (acc >> 16) * m + lax.bitcast_convert_type(product >> 16, jnp.int32)
    return _shift_word(top, jnp.asarray(shift - 16), (product & 0xFFFF) != 0, rounding)


def _shift_word(x: Array, shift: Array, rest: Array | bool, rounding: Rounding) -> Array:
    """Return (x + ε) / 2^shift rounded, int32, 1 ≤ shift ≤ 31, with 0 < ε < 1 where ``rest``, else ε = 0."""
    if rounding in {Rounding.FLOOR, Rounding.TOWARD_ZERO}:
        floor = x >> shift
        if rounding is Rounding.FLOOR:
            return floor
        inexact = rest | ((floor << shift) != x)
        return floor + ((x < 0) & inexact).astype(jnp.int32)
    # floor((x + 2^(shift−1)) / 2^shift) without the sum that could overflow.
    halves = x >> (shift - 1)
    up = (halves + 1) >> 1
    if rounding is Rounding.HALF_UP:
        return up
    tie = ((halves & 1) == 1) & ~jnp.asarray(rest) & ((halves << (shift - 1)) == x)
    return up - (tie & _down_at_tie(up, x < 0, rounding)).astype(jnp.int32)


def _down_at_tie(up: Array, negative: Array, rounding: Rounding) -> Array:
    return negative if rounding is Rounding.HALF_AWAY else (up & 1) == 1


def _product_pair(x: Array, m: Array) -> tuple[Array, Array]:
    """Return the 64-bit product of int32 by non-negative int32 as (upper int32, lower uint32).

    By halves of 16 bits (Warren, Hacker's Delight, section 8-2); no sum here leaves int32.
    """
    xl, ml = x & 0xFFFF, m & 0xFFFF
    xh, mh = x >> 16, m >> 16
    lowest = lax.bitcast_convert_type(xl, jnp.uint32) * lax.bitcast_convert_type(ml, jnp.uint32)
    middle = xh * ml + lax.bitcast_convert_type(lowest >> 16, jnp.int32)
    upper = xh * mh + (middle >> 16) + ((xl * mh + (middle & 0xFFFF)) >> 16)
    return upper, lax.bitcast_convert_type(x * m, jnp.uint32)


def _shift_narrow(high: Array, low: Array, shift: np.ndarray, rounding: Rounding) -> Array:
    """Return the 64-bit number (high, low) / 2^shift rounded, saturated to ±2^29; 3 ≤ shift ≤ 33.

    All but the last two of its fraction's bits are dropped first; what they were only matters at ties.
    """
    dropped = jnp.asarray(shift - 2)
    unsigned = dropped.astype(jnp.uint32)
    word = (high << (32 - dropped)) | lax.bitcast_convert_type(low >> unsigned, jnp.int32)
    fits = (high >> dropped) == (word >> 31)
    word = jnp.where(fits, word, (high >> 31) ^ _INT32_MAX)
    rest = fits & ((low & ((jnp.uint32(1) << unsigned) - 1)) != 0)
    return _shift_word(word, jnp.int32(2), rest, rounding)


def _shift_pair(high: Array, low: Array, shift: Array, rounding: Rounding) -> Array:
    """Return the 64-bit number (high, low) / 2^shift rounded, saturated to int32; shift 0 to 62."""
    negative = high < 0
    quotient, above = _shift_down(high, low, shift)
    back = jnp.minimum(shift, 63)
    # The remainder's top bit (one half) and whether anything is below it.
    before, _ = _shift_down(high, low, jnp.maximum(back - 1, 0))
    half = ((before & 1) == 1) & (shift > 0)
    below_mask_high = jnp.where(shift > 33, _ones(shift - 33), jnp.uint32(0))
    below_mask_low = _ones(jnp.clip(shift - 1, 0, 32))
    below = ((lax.bitcast_convert_type(high, jnp.uint32) & below_mask_high) != 0) | ((low & below_mask_low) != 0)
    match rounding:
        case Rounding.FLOOR:
            add = jnp.zeros_like(half)
        case Rounding.TOWARD_ZERO:
            add = negative & (half | below)
        case Rounding.HALF_UP:
            add = half
        case Rounding.HALF_AWAY:
            add = half & (below | ~negative)
        case Rounding.HALF_EVEN:
            add = half & (below | ((quotient & 1) == 1))
    # `above` is what the quotient's sign extension should be; where it is not, the quotient left int32.
    fits = above == (quotient >> 31)
    result = jnp.where(quotient == _INT32_MAX, quotient, quotient + add.astype(jnp.int32))
    return jnp.where(fits, result, jnp.where(negative, _INT32_MIN, _INT32_MAX))


_INT32_MAX, _INT32_MIN = 2**31 - 1, -(2**31)
#: Results within [−2^29, 2^29) are narrow: they leave room for two bits of fraction in an int32.
_NARROW = 1 << 29


def _ones(count: Int[Array, "..."]) -> UInt[Array, "..."]:
    """Return 2^count − 1 for 0 ≤ count ≤ 32."""
    inside = jnp.clip(count, 0, 31).astype(jnp.uint32)
    return jnp.where(count >= 32, jnp.uint32(0xFFFFFFFF), (jnp.uint32(1) << inside) - jnp.uint32(1))


def _shift_down(high: Array, low: Array, shift: Array) -> tuple[Array, Array]:
    """Return the lower and the upper int32 of (high, low) >> shift, arithmetic; shift 0 to 63."""
    s = jnp.clip(shift, 0, 31)
    unsigned = s.astype(jnp.uint32)
    carried = jnp.where(s == 0, 0, high << jnp.where(s == 0, 0, 32 - s))
    near = lax.bitcast_convert_type(low >> unsigned, jnp.int32) | carried
    far = high >> jnp.clip(shift - 32, 0, 31)
    beyond = shift >= 32
    return jnp.where(beyond, far, near), jnp.where(beyond, high >> 31, high >> s)


def exact_round(x: Fraction, rounding: Rounding) -> int:
    """Return the integer that ``rounding`` makes of ``x``."""
    floor = x.numerator // x.denominator
    rest = x - floor
    half = Fraction(1, 2)
    match rounding:
        case Rounding.FLOOR:
            up = False
        case Rounding.TOWARD_ZERO:
            up = x < 0 and rest > 0
        case Rounding.HALF_UP:
            up = rest >= half
        case Rounding.HALF_AWAY:
            up = rest > half or (rest == half and x >= 0)
        case Rounding.HALF_EVEN:
            up = rest > half or (rest == half and floor % 2 == 1)
    return floor + up


def wrap(x: Int[Array, "..."], bits: int) -> Int[Array, "..."]:
    """Return int32 x modulo 2^bits in two's complement; bits 1 to 32."""
    return (x << (32 - bits)) >> (32 - bits)


def saturate(x: Int[Array, "..."], bits: int) -> Int[Array, "..."]:
    """Return int32 x limited to two's complement of ``bits`` bits, 1 to 32."""
    return jnp.clip(x, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
