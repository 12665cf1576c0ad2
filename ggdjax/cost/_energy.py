"""Energy per operation: published figures, how widths between them are filled in, and the user's own table."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ggdjax._atomic import atomic_write
from ggdjax._errors import GgdjaxError, expect_path
from ggdjax._fields import from_fields

if TYPE_CHECKING:
    import os

#: (width in bits or capacity in bytes, energy in pJ), ascending.
Points = tuple[tuple[int, float], ...]

_KIB = 1024


@dataclass(frozen=True, kw_only=True)
class EnergyTable:
    """Energy of single operations in pJ, from which that of any width and buffer follows.

    The defaults are those of M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014,
    45 nm, 0.9 V. Between and beyond published points:

    - an integer addition costs ``c · bits`` and a multiplication ``c · weight bits · activation bits``, with c the
      geometric mean of that ratio over the points: the published ones are met within 10 % (additions) and 2 %
      (multiplications);
    - a floating-point operation exists at the tabulated widths only;
    - an access to a buffer follows a power law of its capacity from point to point (linear in the logarithms, the
      outer segments extended), which meets every point; DRAM does not depend on its capacity. A packed bit costs 1/64
      of an access of 64 bits.

    Raises:
        GgdjaxError: a point is not a positive finite number, points do not ascend, or there are too few of them.
    """

    source: str = "Horowitz, ISSCC 2014, 45 nm, 0.9 V"
    """Where the figures come from; shown beside results."""
    integer_add_pj: Points = ((8, 0.03), (32, 0.1))
    """(bits, pJ) of integer additions."""
    integer_multiply_pj: Points = ((8, 0.2), (32, 3.1))
    """(bits of both factors, pJ) of integer multiplications."""
    float_add_pj: Points = ((16, 0.4), (32, 0.9))
    """(bits, pJ) of floating-point additions."""
    float_multiply_pj: Points = ((16, 1.1), (32, 3.7))
    """(bits, pJ) of floating-point multiplications."""
    buffer_access_pj: Points = ((8 * _KIB, 10.0), (32 * _KIB, 20.0), (1024 * _KIB, 100.0))
    """(capacity in bytes, pJ) of an access of 64 bits to a memory on the chip; two points at least."""
    dram_access_pj: float = 1300.0
    """pJ of an access of 64 bits to DRAM. Published: 1.3 to 2.6 nJ; the lower end favours narrow widths least."""

    def __post_init__(self) -> None:
        if not isinstance(self.source, str):
            raise GgdjaxError(f"`source` must be a text that names where the figures come from, got {self.source!r}")
        if not _is_positive(self.dram_access_pj):
            raise GgdjaxError(f"`dram_access_pj` must be a positive number of pJ, got {self.dram_access_pj!r}")
        for name, least in _LEAST_POINTS.items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), least))

    def add_pj(self, bits: int, *, floating: bool = False) -> float:
        """Return the energy of an addition of that width.

        Raises:
            GgdjaxError: ``floating``, and the table has no such width.
        """
        if floating:
            return _tabulated("float_add_pj", self.float_add_pj, bits)
        return _per_unit(self.integer_add_pj, power=1) * bits

    def multiply_pj(self, weight_bits: int, activation_bits: int, *, floating: bool = False) -> float:
        """Return the energy of a product; floating-point factors have one width, the wider of both.

        Raises:
            GgdjaxError: ``floating``, and the table has no such width.
        """
        if floating:
            return _tabulated("float_multiply_pj", self.float_multiply_pj, max(weight_bits, activation_bits))
        return _per_unit(self.integer_multiply_pj, power=2) * weight_bits * activation_bits

    def buffer_pj_per_bit(self, capacity_bytes: int) -> float:
        """Return the energy of moving one bit to or from a buffer of that capacity."""
        points = self.buffer_access_pj
        k = sum(capacity_bytes > size for size, _ in points[1:-1])
        (size_0, energy_0), (size_1, energy_1) = points[k], points[k + 1]
        exponent = math.log(energy_1 / energy_0) / math.log(size_1 / size_0)
        return energy_0 * (capacity_bytes / size_0) ** exponent / 64

    @property
    def dram_pj_per_bit(self) -> float:
        """Energy of moving one bit to or from DRAM."""
        return self.dram_access_pj / 64

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EnergyTable:
        """Read a table from a JSON file: field names as in this class, points as ``[[8, 0.03], [32, 0.1]]``.

        Fields that the file leaves out keep their defaults.

        Raises:
            GgdjaxError: the file is missing or not such JSON; a field is unknown or out of range.
        """
        path = expect_path("path", path)
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise GgdjaxError(f"cannot read the energy table {path}: {error}") from None
        if not isinstance(fields, dict):
            raise GgdjaxError(f"{path} must hold one table of fields, got {type(fields).__name__}")
        return from_fields(cls, fields, path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write every field to a JSON file.

        Raises:
            GgdjaxError: the file cannot be written.
        """
        with atomic_write(path, "path") as part:
            part.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")


_LEAST_POINTS = {
    "integer_add_pj": 1,
    "integer_multiply_pj": 1,
    "float_add_pj": 1,
    "float_multiply_pj": 1,
    "buffer_access_pj": 2,
}


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _checked(name: str, points: Any, least: int) -> Points:
    try:
        checked = tuple((at, energy) for at, energy in points)
    except (TypeError, ValueError):
        raise GgdjaxError(f"`{name}` must be pairs such as [[8, 0.03], [32, 0.1]], got {points!r}") from None
    good = all(_is_positive(at) and _is_positive(energy) for at, energy in checked)
    if len(checked) < least or not good or any(a >= b for (a, _), (b, _) in pairwise(checked)):
        raise GgdjaxError(f"`{name}` must be at least {least} pair(s) of positive numbers, ascending, got {points!r}")
    return checked


def _tabulated(name: str, points: Points, bits: int) -> float:
    found = dict(points)
    if bits not in found:
        raise GgdjaxError(f"`{name}` has no floating-point width of {bits} bits; it has {', '.join(map(str, found))}")
    return found[bits]


def _per_unit(points: Points, *, power: int) -> float:
    """Return the geometric mean of ``energy / bits^power``: the largest error over two points is the least possible."""
    return math.exp(sum(math.log(energy / bits**power) for bits, energy in points) / len(points))
