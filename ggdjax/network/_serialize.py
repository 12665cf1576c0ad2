"""Graphs as records of plain values, for files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggdjax._errors import GgdjaxError, near_matches
from ggdjax.network._graph import Graph, Node
from ggdjax.network._ops import OPS

if TYPE_CHECKING:
    import enum
    from collections.abc import Collection, Mapping


def graph_record(graph: Graph, *, omit: Collection[str] = ()) -> dict[str, Any]:
    """Return ``graph`` as dicts, tuples and plain values.

    Args:
        graph: a float or an integer graph.
        omit: names of attributes to leave out.
    """
    return {
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "nodes": [
            {
                "name": node.name,
                "op": node.op,
                "inputs": node.inputs,
                "output": node.output,
                "attrs": {name: value for name, value in node.attrs if name not in omit},
                "params": dict(node.params),
            }
            for node in graph.nodes
        ],
        "shapes": dict(graph.shapes),
    }


def graph_from_record(
    record: Mapping[str, Any],
    *,
    ops: Collection[str] = OPS,
    enums: Mapping[str, type[enum.StrEnum]] | None = None,
) -> Graph:
    """Return the graph of a record that went through JSON: equal to the one that `graph_record` was given.

    Args:
        record: what `graph_record` returned; lists stand for tuples.
        ops: the operations that the graph may hold.
        enums: attributes whose strings are members of an enum.

    Raises:
        GgdjaxError: an unknown operation, a tensor read before it is produced or produced twice, a name used twice, a
            tensor without a shape.
        KeyError, TypeError, AttributeError: the record has another structure; see `ggdjax._files.decoding`.
    """
    graph = Graph(
        nodes=tuple(_node(node, enums or {}) for node in record["nodes"]),
        inputs=_texts(record["inputs"]),
        outputs=_texts(record["outputs"]),
        shapes=tuple((name, tuple(_size(size) for size in shape)) for name, shape in record["shapes"].items()),
    )
    _check(graph, ops)
    return graph


def _node(record: Mapping[str, Any], enums: Mapping[str, type[enum.StrEnum]]) -> Node:
    name, op, output = _texts([record["name"], record["op"], record["output"]])
    # The rounding of a resize picks a neighbour: it is no rule of an accelerator.
    enums = {} if op == "resize" else enums
    return Node(
        name=name,
        op=op,
        inputs=_texts(record["inputs"]),
        output=output,
        attrs=tuple((key, enums.get(key, _static)(value)) for key, value in record["attrs"].items()),
        params=tuple(zip(record["params"], _texts(record["params"].values()), strict=True)),
    )


def _static(value: Any) -> Any:
    """Return a static argument, which is hashable: JSON's lists are tuples."""
    if isinstance(value, list | tuple):
        return tuple(_static(v) for v in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} is no static argument")


def _texts(values: Any) -> tuple[str, ...]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"expected names, found {values!r}")
    return tuple(values)


def _size(value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"expected a size or None, found {value!r}")
    return value


def _check(graph: Graph, ops: Collection[str]) -> None:
    known, names = set(graph.inputs), set()
    for node in graph.nodes:
        if node.op not in ops:
            raise GgdjaxError(f"node `{node.name}` has the unknown operation `{node.op}`; {near_matches(node.op, ops)}")
        for tensor in node.inputs:
            if tensor not in known:
                raise GgdjaxError(f"node `{node.name}` reads the tensor `{tensor}`, which nothing before it produces")
        if node.output in known:
            raise GgdjaxError(f"node `{node.name}` produces the tensor `{node.output}`, which is there already")
        if node.name in names:
            raise GgdjaxError(f"two nodes are called `{node.name}`")
        known.add(node.output)
        names.add(node.name)
    shaped = {name for name, _ in graph.shapes}
    for tensor in (*graph.outputs, *known):
        if tensor not in known:
            raise GgdjaxError(f"the output `{tensor}` is produced by no node")
        if tensor not in shaped:
            raise GgdjaxError(f"the tensor `{tensor}` has no shape")
