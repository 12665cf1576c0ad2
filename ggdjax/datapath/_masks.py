"""Masks: constants far below everything else, which softmax takes to 0 and no maximum chooses.

−∞, −10^9 and the like stand for "never". A format that held them would leave nothing to the values that count. Where
all that reads them is softmax, exp, max or argmax, a number just below the others does the same: by `_MARGIN` below
the least that calibration measured beside the mask, whose exponential is a 10^28th of the largest. So does it in an
output of the network, where masked classes are to come last.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np

from ggdjax._errors import UnsupportedError
from ggdjax.network import Node
from ggdjax.network._rewrites import scale_and_offset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ggdjax.network import Graph
    from ggdjax.quantization import QuantizedNetwork

Bounds = tuple[float, float]

_MARGIN = 64.0
#: Taken for the size of numbers that no calibration measured.
_UNKNOWN = 1e3
#: Stands for ∞ where it is not known yet what it is added to.
_NEVER = 1e9
#: What takes numbers far below the others for none, and from where on a number is far below them. A maximum may be over
#: masks alone, or over all that an offset was added to, and is the offset then.
_ENDS = {"softmax": 1e3, "exp": 1e3, "argmax": 1e3, "max": 1e6, "max_pool": 1e6}
#: A mask is beyond so many times the range of what it is added to, too.
_TIMES = 4.0
_MOVING = frozenset({"reshape", "transpose", "slice", "gather", "broadcast", "pad", "concat"})
_SUMS = frozenset({"add", "sub"})
_SCALINGS = _SUMS | {"mul", "div", "affine"}


def bounded(
    q: QuantizedNetwork, graph: Graph, measured: Mapping[str, Bounds], *, logits: bool
) -> tuple[Graph, dict, dict[str, Bounds]]:
    """Return the graph, parameters and measured ranges with masks that are just below what they are added to.

    ``logits``: a softmax or argmax of the outputs follows.

    Raises:
        UnsupportedError: an infinite constant that anything else reads.
    """
    masks = _Masks(q, graph, measured, logits=logits)
    for node in graph.nodes:
        masks.take(node)
    rewritten = replace(graph, nodes=tuple(masks.nodes), shapes=tuple(masks.shapes.items()))
    return rewritten, masks.params, masks.measured


class _Gain(NamedTuple):
    """What a difference is multiplied by until only the largest counts, and what is far from the others there."""

    factor: float
    far: float
    infinite: bool = True
    """Whether ∞ is far, too: an output of the network would not be what it says."""


class _Masks:
    def __init__(self, q: QuantizedNetwork, graph: Graph, measured: Mapping[str, Bounds], *, logits: bool) -> None:
        self.graph, self.nodes, self.shapes = graph, [], dict(graph.shapes)
        self.params, self.measured = dict(q.params), dict(measured)
        #: Tensor -> on which sides of the others its masks are.
        self.masked: dict[str, set[int]] = {}
        self.gains: dict[tuple[str, int], _Gain | None] = {}
        for tensor in reversed([*graph.inputs, *(node.output for node in graph.nodes)]):
            for side in (-1, 1):
                found = [self._gain(node, tensor, side) for node in graph.readers(tensor)]
                if tensor in graph.outputs:
                    found.append(
                        _Gain(1.0, _ENDS["softmax"])
                        if logits and side < 0
                        else _Gain(1.0, _ENDS["max"], infinite=False)
                    )
                known = [gain for gain in found if gain is not None]
                self.gains[tensor, side] = None
                if known and len(known) == len(found):
                    self.gains[tensor, side] = _Gain(
                        min(g.factor for g in known), max(g.far for g in known), all(g.infinite for g in known)
                    )

    def _constant(self, node: Node) -> np.ndarray | None:
        key = node.param("constant")
        return None if key is None else np.asarray(self.params[key], np.float64)

    def _scaling(self, node: Node) -> tuple[np.ndarray, np.ndarray] | None:
        """Return what a node of one input multiplies it by and adds to it."""
        if node.op == "affine":
            scale, offset = (np.asarray(self.params[node.param(role)], np.float64) for role in ("scale", "offset"))
            return scale, offset
        constant = self._constant(node) if node.op in _SCALINGS and len(node.inputs) == 1 else None
        return None if constant is None else scale_and_offset(node, constant)

    def _gain(self, node: Node, tensor: str, side: int) -> _Gain | None:
        """Return what a difference in ``tensor`` becomes on its way through ``node`` to where only the largest counts.

        None: ``node``, or what follows, takes numbers far on that ``side`` for what they are.
        """
        after = self.gains.get((node.output, side))
        if node.op in _ENDS:
            return _Gain(1.0, _ENDS[node.op]) if side < 0 else None
        if node.op in _MOVING or (node.op == "select" and tensor != node.inputs[0]):
            return after
        if node.op in _SUMS and len(node.inputs) == 2 and node.inputs[0] != node.inputs[1]:
            return after if node.op == "add" or tensor == node.inputs[0] else self.gains.get((node.output, -side))
        scaling = self._scaling(node)
        factors = None if scaling is None else scaling[0][scaling[0] != 0]
        if factors is None or not factors.size or (np.sign(factors) != np.sign(factors[0])).any():
            return None
        after = after if factors[0] > 0 else self.gains.get((node.output, -side))
        return None if after is None else after._replace(factor=after.factor * float(np.abs(factors).min()))

    def take(self, node: Node) -> None:
        """Append a node, its masks bounded."""
        if node.op in _SUMS and len(node.inputs) == 1:
            node = self._with_constant(node)
        elif node.op in _SUMS:
            node = self._with_tensor(node)
        elif node.op == "select":
            node = self._choice(node)
        self.nodes.append(node)
        self._follow(node)

    def _near(self, node: Node, values: np.ndarray, span: float, beside: Bounds | None = None) -> np.ndarray:
        """Return ``values``, what of them is far away put just beyond the others.

        Args:
            node: that adds them to numbers that vary by ``span``, or chooses between them and numbers ``beside``.
        """
        near = values
        for side in (-1, 1):
            # As if all masks were below.
            own = -side * near
            least = 0.0 if beside is None else min(-side * end for end in beside)
            gain = self.gains[node.output, side]
            if (gain is None or not gain.infinite) and np.isneginf(own).any():
                raise self._infinite(node)
            if gain is None:
                continue
            far = own < least - max(gain.far, _TIMES * span)
            if not far.any():
                continue
            if beside is None:  # the masked ones come closer by as much as the others vary
                least = own[~far].min(initial=0.0) - span
            near = -side * np.maximum(own, least - _MARGIN / gain.factor)
            self.masked.setdefault(node.output, set()).add(side)
        return near

    def _infinite(self, node: Node) -> UnsupportedError:
        """Return the error that says who reads an infinite number."""
        readers = self.graph.readers(node.output)
        readers = [n for n in readers if n.op not in _ENDS] or readers
        what = f"`{readers[0].name}` ({readers[0].op}) reads" if readers else "is an output of the network"
        return UnsupportedError(
            f"`{node.name}` ({node.op}) makes numbers infinite in `{node.output}`, which {what}: integers take an "
            "infinite number only where softmax, max or argmax follow; choose a finite one, or an output behind them"
        )

    def _replaced(self, node: Node, role: str, value: np.ndarray) -> Node:
        key = f"{node.output}/{role}.near"
        self.params[key] = jnp.asarray(value, jnp.float32)
        return node.with_params(**{role: key})

    def _with_constant(self, node: Node) -> Node:
        scale, offset = self._scaling(node)  # type: ignore[misc]
        beside = self.measured.get(node.inputs[0])
        near = self._near(node, offset, 2 * _UNKNOWN if beside is None else beside[1] - beside[0])
        if near is offset:
            return node
        return self._replaced(node, "constant", -near if node.op == "sub" and (scale > 0).all() else near)

    def _choice(self, node: Node) -> Node:
        branches = iter(node.inputs[1:])
        given = {role: node.param(role) or next(branches) for role in ("above", "below")}
        ranges = [self.measured.get(name) for role, name in given.items() if node.param(role) is None]
        beside = (ranges[0] if ranges else (0.0, 0.0)) or (-_UNKNOWN, _UNKNOWN)
        for role in ("above", "below"):
            if (key := node.param(role)) is not None:
                values = np.asarray(self.params[key], np.float64)
                if ranges or np.isfinite(values).all():
                    near = self._near(node, values, beside[1] - beside[0], beside) if ranges else values
                else:  # a mask by itself: what it is added to decides how far it is
                    self._near(node, values, 0.0)
                    near = np.clip(values, -_NEVER, _NEVER)
                node = node if near is values else self._replaced(node, role, near)
        return node

    def _with_tensor(self, node: Node) -> Node:
        """Limit a summand that is far beyond the other: a mask that the network computes, or is given."""
        for index, sign in ((0, 1), (1, 1 if node.op == "add" else -1)):
            x, other = node.inputs[index], node.inputs[1 - index]
            if x not in self.measured or other not in self.measured:
                continue
            ends, span = self.measured[x], self.measured[other][1] - self.measured[other][0]
            limits = {}
            for side, role in ((-1, "low"), (1, "high")):
                gain = self.gains[node.output, side * sign]
                if gain is not None and side * ends[(side + 1) // 2] > max(gain.far, _TIMES * span):
                    limits[role] = side * (span + _MARGIN / gain.factor)
            if limits:
                held = f"{node.output}.mask{index}"
                attrs = tuple(sorted(({"low": None, "high": None} | limits).items()))
                self.nodes.append(Node(name=held, op="clip", inputs=(x,), output=held, attrs=attrs))
                self.shapes[held] = self.shapes[x]
                self.measured[held] = (
                    max(ends[0], limits.get("low", -np.inf)),
                    min(ends[1], limits.get("high", np.inf)),
                )
                inputs = [*node.inputs]
                inputs[index] = held
                node = replace(node, inputs=tuple(inputs))
                self.masked[node.output] = {side * sign for side, role in ((-1, "low"), (1, "high")) if role in limits}
        return node

    def _follow(self, node: Node) -> None:
        """Put the range of an output right that calibration measured with masks as they were, or without them."""
        if self.masked.keys().isdisjoint((node.output, *node.inputs)):
            return
        sides = self.masked.get(node.output, set())
        if not sides and node.op not in _ENDS:
            scaling = self._scaling(node)
            turned = {node.inputs[1]} if node.op == "sub" and len(node.inputs) == 2 else set()
            turned |= set(node.inputs) if scaling is not None and (scaling[0] < 0).all() else set()
            sides = {side * (-1 if t in turned else 1) for t in node.inputs for side in self.masked.get(t, ())}
        found = self._range(node, [self.measured.get(tensor) for tensor in node.inputs])
        if found is None:
            return
        low, high = self.measured.get(node.output, found)
        low, high = found[0] if -1 in sides else max(low, found[0]), found[1] if 1 in sides else min(high, found[1])
        self.measured[node.output] = (min(low, found[1]), max(high, found[0]))
        self.masked |= {node.output: sides} if sides else {}

    def _range(self, node: Node, given: list[Bounds | None]) -> Bounds | None:
        """Return the range of a node's output from those of its inputs; None where it is not known."""
        if node.op == "select":
            branches, given = iter(given[1:]), []
            for role in ("above", "below"):
                key = node.param(role)
                values = None if key is None else np.asarray(self.params[key], np.float64)
                given.append(next(branches) if values is None else (float(values.min()), float(values.max())))
        known = [ends for ends in given if ends is not None]
        if len(known) < len(given):
            return None
        lows, highs = [low for low, _ in known], [high for _, high in known]
        if node.op in _MOVING | {"select", "max", "max_pool"}:
            if node.op == "pad" and node.attr("mode") == "constant":
                lows, highs = [*lows, node.attr("value")], [*highs, node.attr("value")]
            return min(lows), max(highs)
        if node.op == "add" and len(known) == 2:
            return sum(lows), sum(highs)
        if node.op == "sub" and len(known) == 2:
            return lows[0] - highs[1], highs[0] - lows[1]
        if (scaling := self._scaling(node)) is None:
            return None
        ends = [scaling[0] * end + scaling[1] for end in known[0]]
        return float(np.min(ends)), float(np.max(ends))
