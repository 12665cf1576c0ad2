"""How much a network computes and holds: multiply-accumulates and parameters, node by node."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ggdjax._errors import expect
from ggdjax.network._layer_shapes import layer_shape
from ggdjax.network._ops import PRODUCTS, QUANTIZABLE, STATISTICS

if TYPE_CHECKING:
    from ggdjax.network._graph import Node
    from ggdjax.network._network import Network


@dataclass(frozen=True, kw_only=True)
class NodeCount:
    """What one node costs for one image."""

    name: str
    op: str
    macs: int
    """Multiply-accumulates of a convolution, dense node or product of two tensors; 0 for every other node."""
    parameters: int
    """Numbers in the node's parameters (kernel and bias; scale and offset of an `affine`); shared ones count again."""


def node_counts(net: Network) -> tuple[NodeCount, ...]:
    """Return the cost of every node of ``net`` for one image, in the order of the graph.

    Multiply-accumulates are those of `ggdjax.cost.LayerShape`: padding included, the zeros of a transposed convolution
    not. The arrays in ``net.params`` may be abstract.

    Raises:
      GgdjaxError: a dimension other than the first depends on the batch size.
    """
    expect("net", net, "Network")
    return tuple(_count(net, node) for node in net.graph.nodes)


def count_macs(net: Network) -> int:
    """Return the multiply-accumulates of ``net`` for one image: the sum over `node_counts`.

    Example:
        >>> gd.network.count_macs(gd.trace(lambda x: x @ jnp.ones((4, 3)), jnp.zeros((1, 4))))
        12
    """
    return sum(count.macs for count in node_counts(net))


def count_parameters(net: Network) -> int:
    """Return the numbers in the parameters of ``net``, shared ones once."""
    expect("net", net, "Network")
    keys = {key for node in net.graph.nodes for role, key in node.params if role not in STATISTICS}
    return sum(prod(net.params[key].shape) for key in keys)


def _count(net: Network, node: Node) -> NodeCount:
    macs = layer_shape(net, node).macs if node.op in QUANTIZABLE | PRODUCTS else 0
    parameters = sum(prod(net.params[key].shape) for role, key in node.params if role not in STATISTICS)
    return NodeCount(name=node.name, op=node.op, macs=macs, parameters=parameters)
