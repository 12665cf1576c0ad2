"""Activation functions as tables: which tensors are a function of one number of another, and that function's integers.

Swish, GELU, mish and their like are one node in some files and a handful of additions, limits, products and quotients
in others. Both are a function y = f(t) of one number, and a table holds it whatever wrote it down. `Functions` finds
t: walking back from y, everything between is elementwise, with constants that are one number.

A table has 2^lookup_bits cells over the range of t, and hardware interpolates within a cell by the bits of t below the
index, by a parabola through the function's values at both ends of the cell and in its middle:

    y = T[i] + (T[i+1] − T[i]) · f / 2^r + C[i] · f / 2^r · (2^r − f) / 2^r,    i = (t − first) >> r,
                                                                                f = (t − first) mod 2^r,

each quotient rounded. The error of a cell of width h is at most about h³/125 · max|f'''|; a straight line's, h²/8 ·
max|f''|, makes one code in 10⁵ another one, which changes others in all layers after it. Cells begin at multiples of a
power of two, so that the kinks of the common functions (at 0, ±1, ±3) are ends of cells. Where a function jumps, or
bends within little of its range, up to two finer tables of what is lacking there are added. Where t itself has few
values, as codes have, r is 0 and the table holds the result for each: exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import UnsupportedError
from ggdjax.datapath._formats import Format
from ggdjax.datapath._ops import MOST_SHIFT
from ggdjax.network._ops import LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jaxtyping import Float, Int

    from ggdjax.network import Graph, Node

Bounds = tuple[float, float]


def _binary(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def call(x: np.ndarray, y: np.ndarray | None = None, *, constant: float = 0.0, reverse: bool = False) -> np.ndarray:
        other = constant if y is None else y
        return function(other, x) if reverse else function(x, other)

    return call


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _hard_sigmoid(x: np.ndarray, *, alpha: float, beta: float) -> np.ndarray:
    return np.clip(alpha * x + beta, 0.0, 1.0)


def _select(
    x: np.ndarray,
    *branches: np.ndarray,
    threshold: float,
    strict: bool,
    above: float | None = None,
    below: float | None = None,
) -> np.ndarray:
    rest = iter(branches)
    first, second = (next(rest) if value is None else value for value in (above, below))
    return np.where(x > threshold if strict else x >= threshold, first, second)


#: The elementwise operations of `ggdjax.network._ops`, in float64: tables must not depend on a backend's functions. No
#: rounding is among them: a table would interpolate over its steps.
_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "abs": np.abs,
    "add": _binary(np.add),
    "affine": lambda x, *, scale, offset: x * scale + offset,
    "atan": np.arctan,
    "clip": lambda x, *, low, high: np.clip(x, low, high),
    "div": _binary(np.divide),
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "exp": np.exp,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": lambda x: x * _hard_sigmoid(x, alpha=1 / 6, beta=0.5),
    "leaky_relu": lambda x, *, slope: np.where(x >= 0, x, slope * x),
    "log": np.log,
    "maximum": _binary(np.maximum),
    "minimum": _binary(np.minimum),
    "mul": _binary(np.multiply),
    "power": lambda x, *, exponent: np.power(x, exponent),
    "prelu": lambda x, *, slope: np.where(x >= 0, x, slope * x),
    "relu": lambda x: np.maximum(x, 0.0),
    "select": _select,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "sqrt": np.sqrt,
    "sub": _binary(np.subtract),
    "tanh": np.tanh,
}

#: Of one tensor and numbers, exact without a table; they join the table of the function before them.
_EXACT = LIMITS | {"add", "affine", "div", "leaky_relu", "maximum", "minimum", "mul", "prelu", "sub"}


@dataclass(frozen=True, kw_only=True)
class Function:
    """``f`` with ``output = f(root)``, elementwise."""

    root: str
    nodes: tuple[Node, ...]
    """In order, from the root to the output."""
    constants: Mapping[str, float]
    """By parameter key."""

    def __call__(self, t: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
        """Return f(t), float64."""
        values = {self.root: np.asarray(t, np.float64)}
        with np.errstate(all="ignore"):
            for node in self.nodes:
                constants = {role: self.constants[key] for role, key in node.params}
                inputs = (values[tensor] for tensor in node.inputs)
                values[node.output] = _FUNCTIONS[node.op](*inputs, **dict(node.attrs), **constants)
        return values[self.nodes[-1].output]

    def change(self, by: float, low: float, high: float) -> float:
        """Return how far an error of ``by`` in t moves f(t) at most, both between ``low`` and ``high``.

        A jump at 0 does not count: few values of t are that near.
        """
        if (by := min(by, high - low)) == 0:
            return 0.0
        size = by * np.geomspace(1 + 1e-6, max(-low / by, high / by, 2.0), _POINTS)
        points = np.concatenate([size, -size])
        before, at, after = (self(np.clip(t, low, high)) for t in (points - by, points, points + by))
        moved = np.abs([before - at, after - at])
        return float(np.max(moved, initial=0.0, where=np.isfinite(moved)))


class Functions:
    """The tensors of a graph that are a function of one number of another tensor, and need a table for it."""

    def __init__(self, graph: Graph, params: Mapping[str, np.ndarray]) -> None:
        self._graph, self._params = graph, params
        self._known: dict[str, Function | None] = {}

    def of(self, tensor: str) -> Function | None:
        """Return the function that makes ``tensor``; None where it takes no table, or two tensors meet."""
        if tensor not in self._known:
            self._known[tensor] = self._find(tensor)
        return self._known[tensor]

    def _find(self, tensor: str) -> Function | None:
        node = self._graph.producer(tensor)
        if node is None or not self._elementwise(node):
            return None
        reciprocal = node.op == "div" and dict(node.attrs).get("reverse", False)
        if len(node.inputs) == 1 and node.op in _EXACT and not reciprocal:
            before = self.of(node.inputs[0])
            return None if before is None else self._joined(before, (node,))
        found = self._graph.common_root(node, self._elementwise)
        if found is None:
            return None
        root, nodes = found
        before = self.of(root)
        return self._function(root, nodes) if before is None else self._joined(before, nodes)

    def _elementwise(self, node: Node) -> bool:
        """Return whether a node is elementwise with constants that are one number."""
        shape = self._graph.shape(node.output)
        return (
            node.op in _FUNCTIONS
            and all(self._graph.shape(tensor) == shape for tensor in node.inputs)
            and all(np.ptp(self._params[key]) == 0 for _, key in node.params)
        )

    def _joined(self, before: Function, nodes: tuple[Node, ...]) -> Function:
        return self._function(before.root, (*before.nodes, *(node for node in nodes if node not in before.nodes)))

    def _function(self, root: str, nodes: tuple[Node, ...]) -> Function:
        keys = {key for node in nodes for _, key in node.params}
        constants = {key: float(np.asarray(self._params[key], np.float64).flat[0]) for key in keys}
        return Function(root=root, nodes=nodes, constants=constants)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A function over the integers of ``index``: its values at the ends of cells of them, in the format ``sums``."""

    values: Int[np.ndarray, " cells_and_one"]
    curve: Int[np.ndarray, " cells"]
    """Four times how far the function lies above the chord in the middle of each cell."""
    first: int
    """Integer of the first value; a multiple of 2^cell_bits."""
    cell_bits: int
    index: Format
    sums: Format


#: Widths of what is interpolated, and of what is multiplied by the bits of an input below the index.
_RESULT_BITS, _DIFFERENCE_BITS = 30, 27
#: A table is corrected where it is wrong by more than 2^(−15) of its largest value, at any of 7 points of a cell.
_EXACT_BITS, _LOOKS = 15, 7
#: Two corrections narrow a jump down from the range to less than 2^(−24) of it.
_MOST_TABLES = 3
#: How many times the largest result within the measured range a table holds.
_MOST_GROWTH = 4.0
#: Points at which a function is looked at, and the share of the range where a jump at zero, which no table has, ends.
_POINTS, _SMALLEST = 4097, 2.0**-20


def tables(
    function: Function, expected: Bounds, proven: Bounds, measured: Bounds, *, lookup_bits: int, bits: int
) -> tuple[tuple[Table, ...], float]:
    """Return interpolated tables on one grid whose sum is a function, and by how much it is not, where it was measured.

    One table, where its cells are fine enough.

    A further one corrects the sum of those before it in the part of the range where they are inexact: functions that
    bend within little of a wide range, and jumps.

    Args:
        function: what it holds.
        expected: the range of its input that the table is made for; less is taken where the function is flat.
        proven: the range that its input cannot leave.
        measured: the least and largest input that calibration saw.
        lookup_bits: of the index.
        bits: of the index and what is interpolated by.

    Raises:
        UnsupportedError: the function has no finite value somewhere in the measured range.
    """
    what = function.nodes[-1]
    low, high = expected
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UnsupportedError(
            f"the input `{function.root}` of `{what.name}` ({what.op}) has no known range: "
            "calibrate the network with images (`gd.calibrate`), or clip the tensor"
        )
    low, high = _tame(function, expected, measured)
    # What lies beyond an end that was moved has the value at it.
    ends = (low if low > expected[0] else -math.inf, high if high < expected[1] else math.inf)
    # Cells may begin below, and end above, what the input can be, where a function may have no value, or a huge one.
    edges = [end if end == limit else free for end, limit, free in zip((low, high), proven, ends, strict=True)]
    seen = np.abs(function(_points(low, high)))
    most = _MOST_GROWTH * float(np.max(seen, initial=0.0, where=np.isfinite(seen)))
    low, high, flat = _without_flat_ends(function, (low, high), proven)

    def tamed(t: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
        y = function(np.clip(t, *ends))
        return np.where(np.abs(y) <= most, y, function(np.clip(t, *edges)))

    lookup_bits, bits = min(lookup_bits, bits), min(bits, lookup_bits + MOST_SHIFT)
    step, shift = _cells(low, high, lookup_bits, bits)
    first = (math.floor(low / step) >> shift) << shift
    # What lies beyond an end has the value at it, which a table holds where cells begin.
    last = -((-math.ceil(high / step)) >> shift << shift)
    index = Format(scale=(step,), low=first, high=last, role="index", activation=flat)
    pieces = [_Piece.of(tamed, index, shift)]
    if not (np.isfinite(pieces[0].values).all() and np.isfinite(pieces[0].bend).all()):
        raise UnsupportedError(
            f"`{what.name}` ({what.op}) is infinite or undefined within the range {low:.4g} to {high:.4g} of "
            f"`{function.root}`: clip the tensor before it"
        )
    while len(pieces) < _MOST_TABLES and (finer := _correction(tamed, pieces, lookup_bits, bits)) is not None:
        pieces.append(finer)
    largest = max(float(np.abs(piece.values).max()) for piece in pieces)
    fine = _RESULT_BITS if largest == 0 else _RESULT_BITS - 1 - math.floor(math.log2(largest)) - 1
    steepest = max(float(np.abs(rise).max(initial=0)) for p in pieces for rise in (np.diff(p.values), p.bend))
    while math.ldexp(steepest, fine) >= (1 << _DIFFERENCE_BITS) - 1:
        fine -= 1
    least, most = (min(max(end, low), high) for end in measured)
    t = _points(least, most, smallest=_SMALLEST)
    error = float(np.abs(function(t) - sum(piece(t) for piece in pieces)).max())
    return tuple(piece.table(fine) for piece in pieces), error


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A table in real numbers."""

    index: Format
    shift: int
    values: Float[np.ndarray, " cells_and_one"]
    bend: Float[np.ndarray, " cells"]
    """Four times how far the middle of each cell lies above its chord."""

    @classmethod
    def of(cls, function: Callable, index: Format, shift: int, *, correction: bool = False) -> _Piece:
        """Return the table of a function; a correction is 0 at its first end and over its last cell."""
        ends = _ends_of(index, shift)
        values, middle = function(ends), function((ends[:-1] + ends[1:]) / 2)
        if correction:
            values[[0, -2, -1]], middle[-1] = 0.0, 0.0
        return cls(index=index, shift=shift, values=values, bend=4 * middle - 2 * (values[:-1] + values[1:]))

    def __call__(self, t: Float[np.ndarray, "*point"]) -> Float[np.ndarray, "*point"]:
        """Return what interpolation gives; beyond the ends, what stands there."""
        ends = _ends_of(self.index, self.shift)
        place = np.clip((t - ends[0]) / (ends[1] - ends[0]), 0, len(self.bend))
        cell = np.minimum(place.astype(int), len(self.bend) - 1)
        rest = place - cell
        chord = self.values[cell] + rest * (self.values[cell + 1] - self.values[cell])
        return chord + self.bend[cell] * rest * (1 - rest)

    def table(self, fine: int) -> Table:
        """Return its integers, of 2^(−fine)."""
        values, curve = (np.rint(np.ldexp(v, fine)).astype(np.int32) for v in (self.values, self.bend))
        # The parabola passes its ends by at most a quarter of its curve.
        beyond = int(np.abs(curve).max(initial=0)) // 4 + 2
        low, high = int(values.min()) - beyond, int(values.max()) + beyond
        return Table(
            values=values,
            curve=curve,
            first=self.index.low,
            cell_bits=self.shift,
            index=self.index,
            sums=Format(scale=(math.ldexp(1.0, -fine),), low=low, high=high, role="acc"),
        )


def _ends_of(index: Format, shift: int) -> Float[np.ndarray, " cells_and_one"]:
    """Return the real numbers at which cells begin and end."""
    return index.scale[0] * (index.low + (np.arange(((index.high - index.low) >> shift) + 2, dtype=np.int64) << shift))


def _cells(low: float, high: float, lookup_bits: int, bits: int) -> tuple[float, int]:
    """Return the step of an index that 31 bits hold, and the shift by which at most 2^lookup_bits cells cover a range.

    The number of cells includes both ends.
    """
    least, cells = 2.0**-100, (1 << lookup_bits) - 3
    by_width = max(high - low, least) / (cells << (bits - lookup_bits))
    by_size = max(abs(low), abs(high), least) / (1 << 29)
    step = math.ldexp(1.0, math.ceil(math.log2(max(by_width, by_size))))
    return step, max(0, math.ceil(math.log2(max(high - low, step) / (step * cells))))


def _correction(function: Callable, pieces: list[_Piece], lookup_bits: int, bits: int) -> _Piece | None:
    """Return a finer table of what the tables lack, where they are inexact; None where they are exact enough.

    They are exact at the ends of the last one's cells. So is 0 at both ends of the correction, and beyond them.
    """
    last = pieces[-1]
    ends = _ends_of(last.index, last.shift)

    def lacking(t: Float[np.ndarray, "*point"]) -> Float[np.ndarray, "*point"]:
        return function(t) - sum(piece(t) for piece in pieces)

    # Not beyond the first index and the last.
    inside = np.linspace(0, 1, _LOOKS + 2)[1:-1]
    t = np.minimum(ends[:-1, None] + np.diff(ends)[:, None] * inside, last.index.scale[0] * last.index.high)
    worst = np.abs(lacking(t)).max(axis=1)
    (cells,) = np.nonzero(~(worst <= math.ldexp(float(np.abs(pieces[0].values).max()), -_EXACT_BITS)))
    if not cells.size or 2 * (cells[-1] + 1 - cells[0]) > len(ends):
        return None
    low, high = ends[cells[0]], ends[cells[-1] + 1]
    step, shift = _cells(low, high, lookup_bits, bits)
    if math.ldexp(step, shift) >= math.ldexp(last.index.scale[0], last.shift):
        return None
    index = Format(scale=(step,), low=int(low / step), high=int(high / step), role="index", activation=(True, True))
    # The end is the last index, and begins a cell that nothing else lies in.
    found = _Piece.of(lacking, index, shift, correction=True)
    return found if np.isfinite(found.values).all() and np.isfinite(found.bend).all() else None


def exact_table(function: Function, source: Format, form: Format) -> Int[np.ndarray, " entries"]:
    """Return the integers in ``form`` of the function at each integer of ``source``."""
    codes = np.arange(source.low, source.high + 1, dtype=np.float64)
    y = function(source.scale[0] * codes)
    if np.isnan(y).any():
        what = function.nodes[-1]
        raise UnsupportedError(f"`{what.name}` ({what.op}) is undefined at codes of `{function.root}`: clip it before")
    return np.clip(np.rint(y / form.scale[0]), form.low, form.high).astype(np.int32)


def range_of(function: Function, ends: Bounds) -> Bounds:
    """Return the least and largest value of a function over a range; infinite where it is not known."""
    low, high = ends
    if not (math.isfinite(low) and math.isfinite(high)):
        return -math.inf, math.inf
    y = function(_points(low, high))
    if not np.isfinite(y).all():
        return -math.inf, math.inf
    # Between two points a function turns by no more than the largest step between neighbours.
    between = float(np.abs(np.diff(y)).max(initial=0.0))
    return float(y.min()) - between, float(y.max()) + between


def _points(low: float, high: float, smallest: float = 2.0**-40) -> Float[np.ndarray, " point"]:
    """Return points of the range, evenly spaced and, towards zero, by size from a share of its own."""
    even = np.linspace(low, high, _POINTS)
    size = np.geomspace(smallest, 1.0, _POINTS) * max(abs(low), abs(high), 2.0**-100)
    return np.unique(np.concatenate([even, np.clip(size, low, high), np.clip(-size, low, high)]))


def _tame(function: Function, expected: Bounds, measured: Bounds) -> Bounds:
    """Return the expected range without undefined parts, poles and steep rises beside the measured.

    Headroom that makes the result more than `_MOST_GROWTH` times what was measured costs the bits of what was.
    """
    least, most = (min(max(end, expected[0]), expected[1]) for end in measured)
    if not least <= most:
        return expected
    seen = np.abs(function(_points(least, most)))
    if not np.isfinite(seen).all():
        return expected
    t = np.union1d(_points(*expected), [v for v in (0.0, least, most) if expected[0] <= v <= expected[1]])
    wild = ~(np.abs(function(t)) <= (_MOST_GROWTH * seen.max() or np.finfo(np.float64).max))
    below, above = t[wild & (t < least)], t[wild & (t > most)]
    low = t[t > below[-1]][0] if below.size else expected[0]
    high = t[t < above[0]][-1] if above.size else expected[1]
    return float(low), float(high)


def _without_flat_ends(function: Function, expected: Bounds, proven: Bounds) -> tuple[float, float, tuple[bool, bool]]:
    """Return the range without the ends in which the function does not change, and at which ends nothing is lost.

    That is so where the function stays what it is there up to the end of the proven range.
    """
    low, high = expected
    t = _points(low, high)
    y = function(t)
    if not np.isfinite(y).all():
        return low, high, (False, False)
    tolerance = math.ldexp(float(np.abs(y).max()), -_RESULT_BITS - 2)
    far = 2.0**20 * max(abs(low), abs(high), 1.0)
    below, above = _points(max(proven[0], -far), low), _points(high, min(proven[1], far))
    lossless = tuple(
        bool((np.abs(function(beyond) - end) <= tolerance).all()) for beyond, end in ((below, y[0]), (above, y[-1]))
    )
    (from_low,) = np.nonzero(np.abs(y - y[0]) > tolerance)
    (from_high,) = np.nonzero(np.abs(y - y[-1]) > tolerance)
    first = max(from_low[0] - 1, 0) if from_low.size and lossless[0] else 0
    last = min(from_high[-1] + 1, len(t) - 1) if from_high.size and lossless[1] else len(t) - 1
    # Where the whole changes by hardly more than the tolerance, the flat ends overlap.
    first, last = min(first, last), max(first, last)
    return float(t[first]), float(t[last]), lossless  # type: ignore[return-value]
