"""The one interpreter: it walks the graph once, and a numerics object says what each node means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ggdjax._errors import GgdjaxError, expect
from ggdjax.network._ops import OPS

if TYPE_CHECKING:
    from jaxtyping import Array

    from ggdjax.network._graph import Graph, Node


class Numerics(Protocol):
    """What a node computes: `Float`, or a class that overrides its `apply` for the nodes it changes."""

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Return the output of ``node``; ``params`` maps its roles (kernel, bias, …) to arrays."""
        ...


class Float:
    """Float32 arithmetic: every node is its operation in `ggdjax.network._ops`."""

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Return ``op(*inputs, **params, **attrs)``."""
        return OPS[node.op](*inputs, **params, **dict(node.attrs))


def run(
    graph: Graph,
    params: Mapping[str, Array],
    x: Array | Mapping[str, Array],
    numerics: Numerics,
    *,
    start: int = 0,
    stop: int | None = None,
) -> Any:
    """Run the nodes ``start`` to ``stop`` (exclusive) of ``graph`` and return what they lead to.

    Args:
      graph: the network.
      params: arrays by parameter key; may hold more than the graph uses.
      x: the input in the layout of the graph's own input; or a mapping from tensor names to arrays, which for
        ``start > 0`` must hold `graph.live(start)`.
      numerics: the meaning of the nodes, `Float()` for plain float32.
      start: index of the first node to run.
      stop: index of the first node not to run; None runs to the end.

    Returns:
      The output of the graph (a tuple if it has several) for ``stop=None``; otherwise the mapping of the
      tensors in `graph.live(stop)`, from which a later run can start. Pure: works under `jit`, `vmap` and
      `grad`.

    Raises:
      GgdjaxError: a tensor that the run needs is not in ``x``.
    """
    expect("graph", graph, "Graph")
    values = dict(x) if isinstance(x, Mapping) else {graph.inputs[0]: x}
    missing = [tensor for tensor in graph.live(start) if tensor not in values]
    if missing:
        raise GgdjaxError(f"`x` lacks {', '.join(missing)}: a run from node {start} needs {graph.live(start)}")
    for node in graph.nodes[start:stop]:
        roles = {role: params[key] for role, key in node.params}
        values[node.output] = numerics.apply(node, roles, *(values[tensor] for tensor in node.inputs))
    if stop is not None:
        return {tensor: values[tensor] for tensor in graph.live(stop)}
    outputs = tuple(values[tensor] for tensor in graph.outputs)
    return outputs[0] if len(outputs) == 1 else outputs
