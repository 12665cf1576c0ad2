"""The static graph of a network: hashable nodes over named tensors, channels last, batch size free."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ggdjax._errors import DataError, summary
from ggdjax.network._ops import OPS, PRODUCTS, QUANTIZABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Shape = tuple[int | None, ...]

#: Shapes are inferred at two batch sizes; a dimension that differs between them depends on the batch.
PROBE_BATCHES = (2, 3)


@dataclass(frozen=True, kw_only=True)
class Node:
    """``output = op(*inputs, **params, **attrs)``: one operation of the graph.

    ``op`` is a key of `ggdjax.network._ops.OPS`; ``inputs`` and ``output`` are tensor names; ``attrs`` are the
    static arguments, ``params`` pairs of (role in the operation, key in the params mapping), e.g.
    ``("kernel", "conv1/kernel")``.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    output: str
    attrs: tuple[tuple[str, Any], ...] = ()
    params: tuple[tuple[str, str], ...] = ()

    @property
    def feature_maps(self) -> tuple[str, ...]:
        """The inputs that quantization rounds: that of a convolution or dense node, both of a product."""
        return self.inputs if self.op in PRODUCTS else self.inputs[: self.op in QUANTIZABLE]

    def attr(self, name: str) -> Any:
        """Return the static argument ``name``."""
        return dict(self.attrs)[name]

    def param(self, role: str) -> str | None:
        """Return the key of the parameter that plays ``role``, or None where the node has none."""
        return dict(self.params).get(role)

    def with_attrs(self, **attrs: Any) -> Node:
        """Return this node with some static arguments replaced."""
        return replace(self, attrs=tuple(sorted((dict(self.attrs) | attrs).items())))

    def with_params(self, **params: str) -> Node:
        """Return this node with some parameter keys added or replaced."""
        return replace(self, params=tuple((dict(self.params) | params).items()))


@dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """A tensor that enters a convolution, dense layer or product of two tensors, and the nodes that read it so."""

    tensor: str
    readers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Nodes in topological order; every tensor is produced once, before it is read.

    ``shapes`` holds (tensor, shape) for every tensor; a dimension that depends on the batch size is None.
    Graphs are hashable and compare by value, so they serve as static arguments of `jax.jit`.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: tuple[tuple[str, Shape], ...] = field(repr=False)

    def __repr__(self) -> str:
        ops = Counter(node.op for node in self.nodes)
        named = ", ".join(f"{count} {op}" for op, count in ops.most_common(8))
        more = f" and {len(ops) - 8} more kinds" if len(ops) > 8 else ""
        return summary(
            self,
            inputs=", ".join(f"{name} {self.shape(name)}" for name in self.inputs),
            outputs=", ".join(f"{name} {self.shape(name)}" for name in self.outputs),
            nodes=f"{len(self.nodes)}: {named}{more}",
        )

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Once per graph: jit hashes its static arguments on every call.
        return hash((self.nodes, self.inputs, self.outputs, self.shapes))

    @cached_property
    def _shape_of(self) -> dict[str, Shape]:
        return dict(self.shapes)

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {node.name: k for k, node in enumerate(self.nodes)}

    def shape(self, tensor: str) -> Shape:
        """Return the shape of ``tensor``; batch-dependent dimensions are None."""
        return self._shape_of[tensor]

    def index(self, name: str) -> int:
        """Return the position of the node called ``name``."""
        return self._index_of[name]

    def node(self, name: str) -> Node:
        """Return the node called ``name``."""
        return self.nodes[self._index_of[name]]

    @cached_property
    def quantizable(self) -> tuple[Node, ...]:
        """The convolutions (depthwise ones included) and dense nodes, in order."""
        return tuple(node for node in self.nodes if node.op in QUANTIZABLE)

    def feature_maps(self) -> tuple[FeatureMap, ...]:
        """Return the distinct tensors that are rounded where nodes read them, in the order of their first reader."""
        readers: dict[str, list[str]] = {}
        for node in self.nodes:
            for tensor in dict.fromkeys(node.feature_maps):
                readers.setdefault(tensor, []).append(node.name)
        return tuple(FeatureMap(tensor=tensor, readers=tuple(names)) for tensor, names in readers.items())

    @cached_property
    def _producers(self) -> dict[str, Node]:
        return {node.output: node for node in self.nodes}

    @cached_property
    def _order_of(self) -> dict[str, int]:
        return {node.output: k for k, node in enumerate(self.nodes)}

    @cached_property
    def _readers(self) -> dict[str, tuple[Node, ...]]:
        readers: dict[str, tuple[Node, ...]] = {}
        for node in self.nodes:
            for tensor in dict.fromkeys(node.inputs):
                readers[tensor] = (*readers.get(tensor, ()), node)
        return readers

    def producer(self, tensor: str) -> Node | None:
        """Return the node whose output is ``tensor``; None for an input of the graph."""
        return self._producers.get(tensor)

    def readers(self, tensor: str) -> tuple[Node, ...]:
        """Return the nodes that read ``tensor``, in order, each once."""
        return self._readers.get(tensor, ())

    def only_reader(self, tensor: str) -> Node | None:
        """Return the node that alone reads ``tensor``; None where none or several do, or it is an output."""
        readers = self.readers(tensor)
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def feature_maps_from(self, tensor: str) -> set[str]:
        """Return the feature maps that ``tensor`` is or becomes, through nodes that round none."""
        reached, found = [tensor], set()
        for current in reached:
            for node in self.readers(current):
                if current in node.feature_maps:
                    found.add(current)
                elif node.output not in reached:
                    reached.append(node.output)
        return found

    def common_root(self, node: Node, elementwise: Callable[[Node], bool]) -> tuple[str, tuple[Node, ...]] | None:
        """Return the nearest tensor that all inputs of ``node`` are functions of, and the nodes from it to ``node``.

        None where they are of several: walking back, nodes that are not ``elementwise`` are not passed.
        """
        nodes, inputs = [node], set(node.inputs)
        while len(inputs) > 1:
            latest = max(inputs, key=lambda tensor: self._order_of.get(tensor, -1))
            between = self.producer(latest)
            if between is None or not elementwise(between):
                return None
            nodes.append(between)
            inputs = (inputs - {latest}) | set(between.inputs)
        return inputs.pop(), tuple(reversed(nodes))

    def without_dead_nodes(self) -> Graph:
        """Return the graph without the nodes and shapes that no output needs."""
        needed, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if node.output in needed:
                kept.append(node)
                needed.update(node.inputs)
        known = {*self.inputs, *(node.output for node in kept)}
        shapes = tuple(entry for entry in self.shapes if entry[0] in known)
        return replace(self, nodes=tuple(reversed(kept)), shapes=shapes)

    def live(self, index: int) -> tuple[str, ...]:
        """Return the tensors known before node ``index`` that the nodes from there on need, or outputs.

        These are what `run(..., start=index)` asks for and `run(..., stop=index)` gives.
        """
        known = dict.fromkeys((*self.inputs, *(node.output for node in self.nodes[:index])))
        needed = {tensor for node in self.nodes[index:] for tensor in node.inputs} | set(self.outputs)
        return tuple(tensor for tensor in known if tensor in needed)

    def up_to_logits(self) -> Graph:
        """Return the graph that ends before a final softmax.

        Raises:
            DataError: several outputs, so that it is not said which are the logits.
        """
        if len(self.outputs) != 1:
            raise DataError(f"the network has {len(self.outputs)} outputs; expected one, the logits")
        last = self.nodes[-1]
        if last.op != "softmax" or self.outputs != (last.output,):
            return self
        return replace(self, nodes=self.nodes[:-1], outputs=last.inputs)


def infer_shape(
    node: Node, param_shapes: Mapping[str, tuple[int, ...]], *input_shapes: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the shape of ``node``'s output for concrete input shapes, by abstract evaluation."""
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in input_shapes]
    params = {role: jax.ShapeDtypeStruct(param_shapes[key], jnp.float32) for role, key in node.params}
    attrs = dict(node.attrs)

    def call(inputs: list[Any], params: dict[str, Any]) -> Any:
        return OPS[node.op](*inputs, **params, **attrs)

    return jax.eval_shape(call, inputs, params).shape


def merge_probes(first: Sequence[int], second: Sequence[int]) -> Shape:
    """Return the shape that two probes of different batch size agree on; where they do not, None."""
    return tuple(a if a == b else None for a, b in zip(first, second, strict=True))
