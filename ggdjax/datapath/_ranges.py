"""Real ranges of tensors before anything runs, and the grids of what is kept between layers.

A tensor that is no feature map has no step of its own. Where it is needed in integers as it is (a summand, the input of
an average, a factor), it is kept as a wide fixed-point number on a grid 2^e of its own: the finest whose signed width
holds its proven range, or a multiple of the largest magnitude that calibration measured in that very tensor, whichever
is smaller. What is larger saturates, and `Program.run` counts it. The operands of an addition meet on the coarser of
their grids. (On one for all that meets, the first blocks of a residual stream, which grows from block to block, would
have few bits, and a ReLU6 none beside its unlimited input.)
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import GgdjaxError
from ggdjax.datapath._formats import Format
from ggdjax.network._ops import MOVES, QUANTIZABLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ggdjax.network import Graph, Node
    from ggdjax.quantization import QuantizedNetwork

Bounds = tuple[float, float]

#: How many times what calibration measured a number of few bits can hold.
HEADROOM = 2.0
#: Bits that suffice below what was measured: an error of 2^(−15) of a step of 8 bits. Wider numbers hold more above.
_ENOUGH_BITS = 27


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


class Ranges:
    """The proven range of every tensor, filled in as the graph is walked, and the grids of wide ones."""

    def __init__(self, measured: dict[str, Bounds], residual_bits: int) -> None:
        self.bounds: dict[str, Bounds] = {}
        """What a tensor cannot leave, whatever the input."""
        self._residual_bits = residual_bits
        self.measured = measured
        """The least and largest value that calibration saw, of every tensor that it looked at."""
        self.noise: dict[str, float] = {}
        """How far rounding may move what calibration saw of a layer's output."""
        self._formats: dict[str, Format] = {}

    def carry(self, tensor: str) -> Format:
        """Return the format in which ``tensor`` is kept; its range must be known."""
        if tensor not in self._formats:
            magnitude = self.magnitude(tensor, headroom_of(self._residual_bits))
            self._formats[tensor] = grid(magnitude, self._residual_bits, "carry", tensor)
        return self._formats[tensor]

    def meeting(self, tensors: Sequence[str]) -> Format:
        """Return the wide format in which tensors are added: the coarsest of theirs. Zeros are on any grid."""
        some = [tensor for tensor in tensors if self.magnitude(tensor)] or tensors
        return max(map(self.carry, some), key=lambda form: form.scale[0])

    def summand(self, tensor: str, window: int) -> Format:
        """Return the wide format of ``tensor``, made coarser until ``window`` of them sum up within 32 bits."""
        form = self.carry(tensor)
        spare = max(0, form.bits + math.ceil(math.log2(window)) - 32)
        low, high = form.low >> spare, form.high >> spare
        return replace(form, scale=(math.ldexp(form.scale[0], spare),), low=low, high=high)

    def expected(self, tensor: str, headroom: float = HEADROOM) -> Bounds:
        """Return the range that must be representable: what was measured, with headroom, within what is proven.

        Where terms cancel, rounding them moves a layer's output by more than its own size.
        """
        low, high = self.bounds[tensor]
        least, most = self.measured.get(tensor, (0.0, 0.0))
        # A tensor of zeros says nothing of other images; where nothing else is known of it, it is taken as 1.
        bounded = all(map(math.isfinite, (low, high))) or tensor not in self.measured
        spare = (headroom - 1) * max(-least, most) or (math.inf if bounded else 1.0)
        spare += self.noise.get(tensor, 0.0)
        return max(low, least - spare), min(high, most + spare)

    def magnitude(self, tensor: str, headroom: float = HEADROOM) -> float:
        """Return the largest magnitude that must be representable."""
        return max(map(abs, self.expected(tensor, headroom)))


def in_float(q: QuantizedNetwork, node: Node) -> bool:
    """Return whether a layer or product computes in float: a feature map that it reads, or its weights, lack a step."""
    quantizers = q.quantizers
    missing = any(quantizers.activations.get(tensor) is None for tensor in node.feature_maps)
    return missing or (node.op in QUANTIZABLE and quantizers.weights.get(node.name) is None)


def float_bounds(kernel: np.ndarray, bias: np.ndarray | float, source: Bounds) -> Bounds:
    """Return the range of a layer's output for inputs within ``source`` and zeros of padding."""
    rows = kernel.reshape(-1, kernel.shape[-1]).astype(np.float64)
    low, high = min(source[0], 0.0), max(source[1], 0.0)
    ends = rows * low, rows * high
    return float((np.minimum(*ends).sum(0) + bias).min()), float((np.maximum(*ends).sum(0) + bias).max())


def headroom_of(bits: int) -> float:
    """Return how many times what calibration measured a signed number of ``bits`` bits can hold."""
    return max(HEADROOM, 2.0 ** (bits - _ENOUGH_BITS))


def grid(magnitude: float, bits: int, role: str, what: str) -> Format:
    """Return signed fixed point of ``bits`` bits on the finest grid 2^e that holds ±magnitude."""
    if not math.isfinite(magnitude):
        raise GgdjaxError(
            f"the range of `{what}` is unknown: calibrate the network with images (`gd.calibrate`), or clip the tensor"
        )
    largest = (1 << (bits - 1)) - 1
    exponent = math.ceil(math.log2(magnitude / largest)) if magnitude > 0 else 0
    return Format(scale=(math.ldexp(1.0, exponent),), low=-largest - 1, high=largest, role=role)


def measured_ranges(q: QuantizedNetwork) -> dict[str, Bounds]:
    """Return the least and largest value that calibration saw, of every tensor that it looked at."""
    calibration = None if q.record is None else q.record.calibration
    if calibration is None:  # a file brought the steps
        return {}
    counted = calibration.histograms
    ends = (np.asarray(end, np.float64).tolist() for end in (counted.minimum, counted.maximum))
    return dict(zip(calibration.names, zip(*ends, strict=True), strict=True)) | calibration.ranges


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
            return _hull(*(_product(a, b) for a in (low, high) for b in others[0]))
        case "argmax":
            return 0.0, float(window - 1)
        case "sum":
            return low * window, high * window
        case "leaky_relu":
            return _hull(*(v if v >= 0 else v * node.attr("slope") for v in (low, high)), *([0.0] if low < 0 else []))
        case "prelu":
            slopes = np.asarray(params["slope"], np.float64)
            below = min(low, 0.0)
            return _hull(*(_product(below, float(s)) for s in (slopes.max(), slopes.min())), 0.0, max(high, 0.0))
        case "average_pool":
            # Padding counts as zeros.
            return min(low, 0.0), max(high, 0.0)
        case "round_to_grid":
            step = node.attr("step")
            return tuple(step * min(max(v / step, node.attr("low")), node.attr("high")) for v in (low, high))  # type: ignore[return-value]
        case _ if node.op in MOVES | {"mean"}:
            return low, high
        case _:
            return -math.inf, math.inf


def _product(x: float, y: float) -> float:
    """Return x · y, where nothing is infinite times zero."""
    return 0.0 if x == 0 or y == 0 else x * y


def _hull(*values: float) -> Bounds:
    return min(values), max(values)
