"""Real ranges of tensors before anything runs, and the grids of what is carried between layers.

A tensor that is no feature map has no step of its own. Where it is needed in integers as it is (an operand of an
addition, the input of an average), it is carried as a wide fixed-point number on a grid 2^e. Tensors that meet in
additions, or differ only by operations that do not change values, form one stream with one grid, so that additions
need no rescaling. The grid is the finest whose signed width holds the stream: its worst case, or twice the largest
magnitude that calibration saw in one of the stream's feature maps, whichever is smaller (carried values saturate).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import GgdjaxError
from ggdjax.datapath._formats import Format

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ggdjax.network import Graph, Node
    from ggdjax.quantization import QuantizedNetwork

Bounds = tuple[float, float]

#: Operations that only move values or pick among them: they commute with every rounding.
MOVES = frozenset(
    {"reshape", "transpose", "slice", "pad", "concat", "broadcast", "max", "max_pool", "maximum", "minimum", "resize"}
)
#: Activation functions that are limits: they commute with rounding and cost nothing.
LIMITS = frozenset({"relu", "clip"})
#: Operations whose operands are carried.
CARRIED = frozenset(
    {"add", "sub", "mean", "sum", "average_pool", "leaky_relu", "prelu", "affine", "mul", "div"},
)
#: Headroom over calibration: what a stream holds beside its feature maps is seldom larger than twice them.
_HEADROOM = 2.0


def limits_of(node: Node) -> tuple[float | None, float | None]:
    """Return the limits of a ReLU or clip."""
    return (0.0, None) if node.op == "relu" else (node.attr("low"), node.attr("high"))


def window_of(graph: Graph, node: Node) -> int:
    """Return how many values a mean, sum or average pooling adds."""
    if node.op == "average_pool":
        return math.prod(node.attr("window"))
    shape = graph.shape(node.inputs[0])
    sizes = [shape[axis] for axis in node.attr("axes")]
    if None in sizes:
        raise GgdjaxError(f"`{node.name}` ({node.op}) averages over the batch, which has no integer form")
    return math.prod(size for size in sizes if size is not None)


class Streams:
    """The worst-case range of every tensor, filled in as the graph is walked, and the grid of each stream."""

    def __init__(self, q: QuantizedNetwork, residual_bits: int) -> None:
        self.graph = q.graph
        self.bounds: dict[str, Bounds] = {}
        self._residual_bits = residual_bits
        self._calibrated = _magnitudes(q)
        self._parent: dict[str, str] = {}
        for node in self.graph.nodes:
            joined = [t for t in node.inputs if self.graph.shape(t)] if _joins(node) else []
            for tensor in joined:
                self._parent[self._root(tensor)] = self._root(node.output)
        # Every tensor's root, and per stream the members that are carried as they are.
        self._members: dict[str, list[str]] = {}
        for node in self.graph.nodes:
            if node.op not in CARRIED:
                continue
            for tensor in (*node.inputs, *((node.output,) if node.op in {"add", "sub"} else ())):
                self._members.setdefault(self._root(tensor), []).append(tensor)
        self._formats: dict[str, Format] = {}

    def _root(self, tensor: str) -> str:
        while (parent := self._parent.get(tensor, tensor)) != tensor:
            tensor = parent
        return tensor

    def carry(self, tensor: str) -> Format:
        """Return the format in which ``tensor`` is carried; the ranges of its whole stream must be known."""
        root = self._root(tensor)
        if root not in self._formats:
            members = self._members.get(root, [tensor])
            largest = max(self.magnitude(member) for member in members)
            self._formats[root] = grid(largest, self._residual_bits, "carry", tensor)
        return self._formats[root]

    def summand(self, tensor: str, window: int) -> Format:
        """Return the carried format of ``tensor``, made coarser until ``window`` of them sum up within 32 bits."""
        form = self.carry(tensor)
        spare = max(0, form.bits + math.ceil(math.log2(window)) - 32)
        low, high = form.low >> spare, form.high >> spare
        return replace(form, scale=(math.ldexp(form.scale[0], spare),), low=low, high=high)

    def magnitude(self, tensor: str) -> float:
        """Return the largest magnitude that must be representable."""
        worst = max(map(abs, self.bounds[tensor]))
        seen = [m for name, m in self._calibrated.items() if self._root(name) == self._root(tensor)]
        return min(worst, _HEADROOM * max(seen)) if seen and max(seen) > 0 else worst

    def seen(self, tensor: str) -> float | None:
        """Return the largest magnitude that calibration saw in a feature map of the tensor's stream."""
        return max((m for name, m in self._calibrated.items() if self._root(name) == self._root(tensor)), default=None)


def grid(magnitude: float, bits: int, role: str, what: str) -> Format:
    """Return signed fixed point of ``bits`` bits on the finest grid 2^e that holds ±magnitude."""
    if not math.isfinite(magnitude):
        raise GgdjaxError(f"the range of `{what}` is unknown: quantize the tensor that enters it, or clip it")
    largest = (1 << (bits - 1)) - 1
    exponent = math.ceil(math.log2(magnitude / largest)) if magnitude > 0 else 0
    return Format(scale=(math.ldexp(1.0, exponent),), low=-largest - 1, high=largest, role=role)


def _joins(node: Node) -> bool:
    return node.op in MOVES | LIMITS or (node.op in {"add", "sub"} and len(node.inputs) == 2)


def _magnitudes(q: QuantizedNetwork) -> dict[str, float]:
    calibration = None if q.record is None else q.record.calibration
    if calibration is None:  # a file brought the steps
        return {}
    histograms = calibration.histograms
    largest = np.maximum(-np.asarray(histograms.minimum), np.asarray(histograms.maximum))
    return dict(zip(calibration.names, largest.tolist(), strict=True))


def bounds_of(node: Node, inputs: list[Bounds], params: Mapping[str, np.ndarray], window: int) -> Bounds:
    """Return the range of a node's output from those of its inputs (interval arithmetic).

    ``params`` are the node's own arrays by role; ``window`` is the number of values a sum adds.
    """
    (low, high), *others = inputs
    match node.op:
        case "relu" | "clip":
            bottom, top = limits_of(node)
            low, high = (max(v, bottom) if bottom is not None else v for v in (low, high))
            return tuple(min(v, top) if top is not None else v for v in (low, high))  # type: ignore[return-value]
        case "concat" | "maximum" | "minimum" if others:
            return min(b[0] for b in inputs), max(b[1] for b in inputs)
        case "maximum" | "minimum":
            constant = np.asarray(params["constant"], np.float64)
            return min(low, float(constant.min())), max(high, float(constant.max()))
        case "pad" if node.attr("mode") == "constant":
            return min(low, node.attr("value")), max(high, node.attr("value"))
        case "add" if others:
            return low + others[0][0], high + others[0][1]
        case "sub" if others:
            return low - others[0][1], high - others[0][0]
        case "mul" if others:
            return _hull(low * others[0][0], low * others[0][1], high * others[0][0], high * others[0][1])
        case "sum":
            return low * window, high * window
        case "leaky_relu":
            return _hull(*(v if v >= 0 else v * node.attr("slope") for v in (low, high)), *([0.0] if low < 0 else []))
        case "prelu":
            slopes = np.asarray(params["slope"], np.float64)
            return _hull(low * float(slopes.max()), low * float(slopes.min()), low * 0.0, max(high, 0.0))
        case "average_pool":
            # Padding counts as zeros.
            return min(low, 0.0), max(high, 0.0)
        case "abs":
            return 0.0, max(-low, high)
        case "sigmoid" | "hard_sigmoid":
            return 0.0, 1.0
        case "tanh" | "erf":
            return -1.0, 1.0
        case "silu" | "hard_swish":
            # The minima are −0.2785 and −0.375.
            return -0.5, max(high, 0.0)
        case _:
            return low, high


def _hull(*values: float) -> Bounds:
    return min(values), max(values)
