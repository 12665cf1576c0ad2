"""Limits of feature maps that the network proves: what no image can exceed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ggdjax.network import Graph, Network, Node

Interval = tuple[float, float]
_ANY: Interval = (-math.inf, math.inf)


def proven_limits(net: Network, inputs: Interval = _ANY) -> dict[str, Interval]:
    """Return the least and the largest value that each tensor can have; infinite where nothing proves one.

    Proofs start at ``inputs``, the range of the network's input, and at clip (ReLU6), ReLU, minimum and maximum with
    constants, hard sigmoid, sigmoid, tanh and softmax, and pass through what picks, moves, averages or adds values.
    Padding with zeros, in pooling too, puts zero among them.
    """
    found = dict.fromkeys(net.graph.inputs, inputs)
    for node in net.graph.nodes:
        given = [found.get(tensor, _ANY) for tensor in node.inputs]
        if node.params:
            found[node.output] = _limited(node, given[0], net) if node.op in _BY_CONSTANT else _ANY
        else:
            found[node.output] = _RULES[node.op](node, given) if node.op in _RULES else _ANY
    return found


#: Limits by a constant, one or one per channel: what equalization makes of ReLU6.
_BY_CONSTANT: dict[str, Callable[..., float]] = {"minimum": min, "maximum": max}


def _limited(node: Node, interval: Interval, net: Network) -> Interval:
    constant, function = np.asarray(net.params[node.param("constant")]), _BY_CONSTANT[node.op]
    return function(interval[0], float(constant.min())), function(interval[1], float(constant.max()))


def _hull(*intervals: Interval) -> Interval:
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def _clip(node: Node, inputs: list[Interval]) -> Interval:
    (low, high), least, most = inputs[0], node.attr("low"), node.attr("high")
    least, most = -math.inf if least is None else least, math.inf if most is None else most
    return min(max(low, least), most), max(min(high, most), least)


def _average(node: Node, inputs: list[Interval]) -> Interval:
    padded = any(map(any, node.attr("padding"))) or any(node.attr("overhang"))
    return _hull(inputs[0], (0.0, 0.0)) if padded else inputs[0]


def _pad(node: Node, inputs: list[Interval]) -> Interval:
    return _hull(inputs[0], (node.attr("value"),) * 2) if node.attr("mode") == "constant" else inputs[0]


def _add(_: Node, inputs: list[Interval]) -> Interval:
    return (sum(low for low, _ in inputs), sum(high for _, high in inputs)) if len(inputs) == 2 else _ANY


def _same(_: Node, inputs: list[Interval]) -> Interval:
    return inputs[0]


def _always(low: float, high: float) -> Callable[[Node, list[Interval]], Interval]:
    return lambda node, inputs: (low, high)


_RULES: dict[str, Callable[[Node, list[Interval]], Interval]] = {
    "add": _add,
    "atan": _always(-math.pi / 2, math.pi / 2),
    "average_pool": _average,
    "broadcast": _same,
    "clip": _clip,
    "concat": lambda _, inputs: _hull(*inputs),
    "gather": _same,
    "hard_sigmoid": _always(0.0, 1.0),
    "max": _same,
    "max_pool": _same,
    "mean": _same,
    "pad": _pad,
    "relu": lambda _, inputs: (max(inputs[0][0], 0.0), max(inputs[0][1], 0.0)),
    "reshape": _same,
    "sigmoid": _always(0.0, 1.0),
    "slice": _same,
    "softmax": _always(0.0, 1.0),
    "tanh": _always(-1.0, 1.0),
    "transpose": _same,
}


def is_input(graph: Graph, name: str) -> bool:
    """Return whether a feature map is an input of the network, in whatever order of axes."""
    before = graph.producer(name)
    return name in graph.inputs or (
        before is not None and before.op == "transpose" and before.inputs[0] in graph.inputs
    )
