"""What an integer stands for, and how one format becomes another: multiplier and shift."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from ggdjax._errors import GgdjaxError
from ggdjax.datapath._rounding import Requantization, Rounding, exact_round

#: Largest shift of a 64-bit product.
_LARGEST_SHIFT = 62


@dataclass(frozen=True, kw_only=True)
class Format:
    """``x = scale · q`` with integer ``low ≤ q ≤ high``.

    Integers are centred: real zero is the integer 0. Where the quantizer has a zero point (only the affine scheme),
    the stored code is ``q + zero_point``.
    """

    scale: tuple[float, ...]
    """One positive number, or one per channel (last axis)."""
    low: int
    high: int
    zero_point: int = 0
    role: str = "code"
    """``code`` of a feature map, ``acc`` of a layer, ``carry`` between layers, ``index`` of a table, ``factor`` of a
    product, ``logit`` of the network."""
    activation: tuple[bool, bool] = (False, False)
    """Whether an activation function, not the width, sets ``low`` and ``high``."""

    @property
    def bits(self) -> int:
        """Width of the integers: two's complement, unsigned where ``low`` is not negative."""
        return bits_of(self.low + self.zero_point, self.high + self.zero_point)

    @property
    def signed(self) -> bool:
        """Whether stored integers can be negative."""
        return self.low + self.zero_point < 0

    def code_of(self, value: float, rounding: Rounding) -> int:
        """Return the integer of a real number, limited to the range; needs a single scale."""
        if math.isinf(value):
            return self.high if value > 0 else self.low
        q = exact_round(Fraction(value) / Fraction(self.scale[0]), rounding)
        return min(max(q, self.low), self.high)

    def holds(self, *limits: float | None) -> bool:
        """Return whether each limit is an integer of the grid, or none that the range reaches; needs a single scale."""
        inside = (v for v in limits if v is not None and self.scale[0] * self.low < v < self.scale[0] * self.high)
        return all((Fraction(v) / Fraction(self.scale[0])).denominator == 1 for v in inside)

    def limited(self, low: float | None, high: float | None, rounding: Rounding) -> Format:
        """Return the format of clip(x, low, high): rounding is monotone, so it commutes with the limits."""
        bottom, top = self.activation
        limits = {"low": self.low, "high": self.high}
        if low is not None:
            bottom = bottom or low >= self.scale[0] * self.low
            limits["low"] = self.code_of(low, rounding)
        if high is not None:
            top = top or high <= self.scale[0] * self.high
            limits["high"] = max(self.code_of(high, rounding), limits["low"])
        return replace(self, **limits, activation=(bottom, top))


def tensor_of(integers: str, form: Format) -> str:
    """Return the tensor of the network that an integer tensor of this format stands for."""
    return integers.rpartition(f".{form.role}")[0]


def bits_of(low: int, high: int) -> int:
    """Return the width that holds ``low`` to ``high``: unsigned if neither is negative, else two's complement."""
    if low >= 0:
        return max(high.bit_length(), 1)
    return max((-low - 1).bit_length(), high.bit_length()) + 1


def signed_bits(low: int, high: int) -> int:
    """Return the width in two's complement that holds ``low`` to ``high``."""
    return max((-low - 1).bit_length() if low < 0 else 0, max(high, 0).bit_length()) + 1


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """``multiplier · 2^(−shift)``, an approximation of a ratio of scales."""

    multiplier: int
    shift: int


def ratio_of(value: float, bits: int, kind: Requantization, what: str) -> Ratio:
    """Return m and r with m · 2^(−r) ≈ value: m has ``bits`` significant bits, its relative error is at most 2^(−bits).

    A power of two has m = 1. Where the value is too large for r ≥ 0, m is shifted left instead, which takes no wider
    multiplier in hardware. Of 2^31 and more, 2^31 − 1 is enough: every integer but 0 saturates.

    Raises:
        GgdjaxError: the value is no power of two where only shifts are allowed.
    """
    mantissa, exponent = math.frexp(value)
    if mantissa != 0.5 and kind is Requantization.SHIFT:
        raise GgdjaxError(
            f"{what}: the ratio of scales {value:.6g} is no power of two, but `requantization` is 'shift'; "
            "take steps that are powers of two or 'multiplier_and_shift'"
        )
    if exponent > 31:
        return Ratio(multiplier=(1 << 31) - 1, shift=0)
    multiplier, shift = round(math.ldexp(mantissa, bits)), bits - exponent
    if shift > _LARGEST_SHIFT:
        multiplier, shift = multiplier >> (shift - _LARGEST_SHIFT), _LARGEST_SHIFT
    while multiplier and multiplier % 2 == 0 and shift > 0:
        multiplier, shift = multiplier // 2, shift - 1
    if shift < 0:
        multiplier, shift = min(multiplier << -shift, (1 << 31) - 1), 0
    return Ratio(multiplier=multiplier, shift=shift)
