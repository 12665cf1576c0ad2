"""Selective update: of what gradient tuning changed, only the layers whose change holds on other images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ggdjax.network import Graph
    from ggdjax.quantization import QuantizedNetwork


def selected(
    graph: Graph, q: QuantizedNetwork, tuned: QuantizedNetwork, measured: Callable[[QuantizedNetwork], float]
) -> tuple[QuantizedNetwork, float, tuple[str, ...]]:
    """Put the layers back, last to first, without whose change the loss is lower.

    A layer's kernel, bias and the step of its input go together; a step that several layers read goes with the first.

    Args:
        graph: of the layers.
        q: the start.
        tuned: what all changes together give.
        measured: the loss on images that tuned nothing.

    Returns:
        The network, its loss, and the layers that were put back.
    """
    loss, back, owner = measured(tuned), [], {}
    for node in graph.quantizable:
        owner.setdefault(node.inputs[0], node.name)
    for node in reversed(graph.quantizable):
        name, source = node.name, node.inputs[0]
        own = {"activations": source if owner[source] == name else None, "weights": name, "biases": name}
        quantizers = {}
        for kind, key in own.items():
            old, new = getattr(q.quantizers, kind), getattr(tuned.quantizers, kind)
            quantizers[kind] = {**new, key: old[key]} if key in old else new
        params = {**tuned.params, **{key: q.params[key] for _, key in node.params}}
        without = replace(tuned, params=params, quantizers=replace(tuned.quantizers, **quantizers))
        if (found := measured(without)) < loss:
            tuned, loss = without, found
            back.append(name)
    return tuned, loss, tuple(back)
