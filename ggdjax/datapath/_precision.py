"""What wide integers lose before they become codes: a bound for every feature map, before anything runs.

A tensor kept between layers has a grid of its range over 2^residual_bits. Where that range is 10^8 times what the
codes after it depend on (a sigmoid behind a sum that is rarely huge, a channel that is scaled up again), the grid is
coarser than those codes need, and no width of 30 bits helps. Roundings are followed through the integer graph in units
of each tensor's own integers, the worst case of each operation (those of the terms of a sum are independent: their
squares add up). Codes start anew: rounding them is what quantization does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ggdjax.network._ops import MOVES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ggdjax.datapath._formats import Format
    from ggdjax.network import Node

#: LSB that may be lost before a code is rounded, which moves no code by more than one, and one in eight at most where
#: numbers lie anywhere; of wider codes than 8 bits as much of their range. A sound network loses 10^(−5).
_MOST_LOST, _FEWEST_CODES = 1 / 8, 256
#: Operations that round their output, and those that take each of its values from an input.
_ROUND = frozenset({"in_float", "interpolate", "offset", "quantize", "requantize", "requantize_by_sign", "wide_mul"})
_TAKE = MOVES | {"saturate", "spread", "max_pool"}


@dataclass(frozen=True, kw_only=True)
class Loss:
    """How far integers may be from what exact arithmetic gives, and where most of that was rounded."""

    error: float = 0.0
    """In units of the tensor's integers."""
    origin: str = ""
    """Integer tensor."""

    def matters(self, form: Format) -> bool:
        """Return whether it is more than codes of this format bear."""
        return self.error > _MOST_LOST * max(1.0, (form.high - form.low) / _FEWEST_CODES)

    def scaled(self, factor: float) -> Loss:
        """Return it in other units."""
        return Loss(error=self.error * factor, origin=self.origin)

    def rounded(self, tensor: str) -> Loss:
        """Add the rounding of ``tensor``, of half a unit."""
        return Loss(error=self.error + 0.5, origin=self.origin if self.error > 0.5 else tensor)


def losses(
    nodes: Sequence[Node],
    formats: Mapping[str, Format],
    shapes: Mapping[str, Sequence[int | None]],
    gains: Mapping[str, Callable[[float], float]],
    largest: Mapping[str, float],
) -> dict[str, Loss]:
    """Return what every tensor loses, in units of its integers; of codes, before their own rounding.

    Args:
        nodes: of the integer graph, in order.
        formats: of its tensors.
        shapes: of its tensors.
        gains: of an interpolated table, by its output: the error of the result for an error of the index, in integers.
        largest: magnitude of each tensor's integers that calibration saw; a tensor of zeros has no grid of its own.
    """
    held: dict[str, Loss] = {}
    lost: dict[str, Loss] = {}
    for node in nodes:
        inputs = [held.get(tensor, Loss()) for tensor in node.inputs]
        found, form = _after(node, inputs, shapes, gains, largest), formats[node.output]
        if not largest[node.output]:
            found = Loss()
        elif form.role != "code" and node.op in _ROUND and not _exact(node):
            found = found.rounded(node.output)
        held[node.output] = Loss() if form.role == "code" else found
        if form.role == "code" and node.op in _TAKE:  # of codes
            found = max((found, *(lost[t] for t in node.inputs if t in lost)), key=lambda loss: loss.error)
        lost[node.output] = replace(found, error=min(found.error, float(form.high - form.low)))
    return lost


def _exact(node: Node) -> bool:
    """Return whether a requantization only multiplies, or a scaling has no offset."""
    rounded = {"requantize": "shift", "offset": "constant"}.get(node.op)
    return rounded is not None and not any(node.attr(rounded))


def _after(
    node: Node,
    inputs: list[Loss],
    shapes: Mapping[str, Sequence[int | None]],
    gains: Mapping[str, Callable[[float], float]],
    largest: Mapping[str, float],
) -> Loss:
    """Return the loss of a node's output from those of its inputs."""
    if not any(loss.error for loss in inputs):
        return Loss()
    match node.op:
        case "requantize":
            return inputs[0].scaled(_ratio(node, "multiplier", "shift"))
        case "requantize_by_sign":
            below = _ratio(node, "negative_multiplier", "negative_shift")
            return inputs[0].scaled(max(_ratio(node, "multiplier", "shift"), below))
        case "add" | "sub":
            return _sum(inputs)
        case "mul" | "wide_mul":
            scale = math.ldexp(1.0, -node.attr("dropped_bits")) if node.op == "wide_mul" else 1.0
            other = [largest[tensor] * scale for tensor in reversed(node.inputs)]
            return _sum([loss.scaled(y) for loss, y in zip(inputs, other, strict=True)])
        case "sum_over":
            shape = shapes[node.inputs[0]]
            return inputs[0].scaled(math.sqrt(math.prod(shape[axis] or 1 for axis in node.attr("axes"))))
        case "sum_pool":
            return inputs[0].scaled(math.sqrt(math.prod(node.attr("window"))))
        case "interpolate":
            loss = inputs[0]
            gain = gains.get(node.output)
            return Loss(error=gain(loss.error), origin=loss.origin) if gain else Loss()
        case "offset":
            return inputs[0]
        case _ if node.op in _TAKE:
            return max(inputs, key=lambda loss: loss.error)
        case _:  # layers and tables of codes, what is an index or in float
            return Loss()


def _sum(inputs: list[Loss]) -> Loss:
    largest = max(inputs, key=lambda loss: loss.error)
    return Loss(error=sum(loss.error for loss in inputs), origin=largest.origin)


def _ratio(node: Node, multiplier: str, shift: str) -> float:
    """Return the largest factor of a requantization."""
    factors = np.abs(np.asarray(node.attr(multiplier), np.float64))
    return float(np.ldexp(factors, -np.asarray(node.attr(shift))).max())
