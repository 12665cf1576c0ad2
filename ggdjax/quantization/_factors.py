"""Roundings in front of the products of two tensors, as hardware with narrow multipliers has them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ggdjax.network import Node
from ggdjax.network._ops import ELEMENTWISE

if TYPE_CHECKING:
    from ggdjax.network import Graph
    from ggdjax.quantization._calibration import Calibration


def round_factors(graph: Graph, calibration: Calibration, bits: int) -> Graph:
    """Return the graph with every factor of a product of two tensors rounded to signed fixed point of ``bits`` bits.

    The grid is the finest 2^e that holds what calibration measured. Products that write an activation function, such as
    x · sigmoid(x), are none: integer hardware has a table for them.
    """
    counted = calibration.histograms
    low, high = (np.asarray(end, np.float64) for end in (counted.minimum, counted.maximum))
    largest = dict(zip(calibration.names, np.maximum(-low, high).tolist(), strict=True))
    largest |= {tensor: max(-least, most) for tensor, (least, most) in calibration.ranges.items()}
    nodes: list[Node] = []
    shapes = dict(graph.shapes)
    end = 1 << (bits - 1)
    for node in graph.nodes:
        inputs = node.inputs
        if node.op == "mul" and len(inputs) == 2 and not _is_function(graph, node):
            for tensor in dict.fromkeys(inputs):
                rounded = f"{tensor}.rounded"
                if rounded not in shapes and largest.get(tensor, 0.0) > 0:
                    step = math.ldexp(1.0, math.ceil(math.log2(largest[tensor] / (end - 1))))
                    attrs = (("high", float(end - 1)), ("low", float(-end)), ("step", step))
                    rounding = Node(name=rounded, op="round_to_grid", inputs=(tensor,), output=rounded, attrs=attrs)
                    nodes.append(rounding)
                    shapes[rounded] = graph.shape(tensor)
            inputs = tuple(f"{t}.rounded" if f"{t}.rounded" in shapes else t for t in inputs)
        nodes.append(replace(node, inputs=inputs))
    return replace(graph, nodes=tuple(nodes), shapes=tuple(shapes.items()))


def _is_function(graph: Graph, node: Node) -> bool:
    """Return whether a product is an elementwise function of one tensor, both factors being so."""

    def elementwise(other: Node) -> bool:
        shape = graph.shape(other.output)
        return other.op in ELEMENTWISE and all(graph.shape(tensor) == shape for tensor in other.inputs)

    return graph.common_root(node, elementwise) is not None
