"""A network cut before the first reader of each feature map, run and compiled segment by segment.

Tuning runs suffixes of the network again and again. A suffix is a chain of segments; each is compiled once, and equal
segments (the blocks of a ResNet) share one program, because a segment names its tensors, nodes and parameters by
position. Candidates are rows of the batch: every step is an array with one value per row, so that one call runs any
mixture of images and steps, and all calls have one shape.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ggdjax.network import Graph, run
from ggdjax.network._counts import node_counts
from ggdjax.quantization import FakeQuant, Quantizers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Array, Float

    from ggdjax.network import Network
    from ggdjax.network._graph import Shape
    from ggdjax.quantization import QuantizedNetwork
    from ggdjax.steps import Quantizer

#: Both axes of the mesh share the rows of a batch: candidates times images.
AXES = ("candidate", "data")
State = dict[str, "Array"]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What is tuned together: one feature map and the layers that read it."""

    tensor: str
    readers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of the graph by position, and its own names: tensors, nodes, parameter keys by canonical name."""

    graph: Graph
    tensors: dict[str, str]
    nodes: dict[str, str]
    params: dict[str, str]


class Segments:
    """The segments of one network, their compiled programs, and the time it took to compile them."""

    def __init__(self, network: Network, rows: int, mesh: Mesh) -> None:
        self.network, self.rows = network, rows
        graph = network.graph
        self.units = tuple(Unit(tensor=fm.tensor, readers=fm.readers) for fm in graph.feature_maps())
        self.cuts = [graph.index(unit.readers[0]) for unit in self.units]
        ends = [*self.cuts[1:], len(graph.nodes)]
        self._segments = [canonical(graph, a, b) for a, b in zip(self.cuts, ends, strict=True)]
        self._head = canonical(graph, 0, self.cuts[0])
        self._sharding = NamedSharding(mesh, PartitionSpec(AXES))
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._programs: dict[Any, Any] = {}
        # By identity, beside what is placed, so that no identity is given anew: a search calls with the same ones again
        # and again, and placing them takes longer than a small segment.
        self._on_devices: dict[int, tuple[Any, Array]] = {}
        self._unchanged: dict[int, tuple[Quantizer, Quantizer]] = {}
        self.compile_seconds = 0.0

    def live(self, unit: int) -> tuple[str, ...]:
        """Return the tensors from which a run can start at ``unit``."""
        return self.network.graph.live(self.cuts[unit])

    def bytes_per_image(self, unit: int) -> int:
        """Return the size of what is known of one image before ``unit``."""
        return 4 * sum(values_of(self.network.graph.shape(tensor)) for tensor in self.live(unit))

    @cached_property
    def suffix_share(self) -> np.ndarray:
        """The share of the network's multiply-accumulates from each unit on."""
        macs = np.asarray([count.macs for count in node_counts(self.network)], np.float64)
        return np.asarray([macs[cut:].sum() / macs.sum() for cut in self.cuts])

    def forget(self) -> None:
        """Let go of the parameters that are kept on the devices: those of earlier visits would only take memory."""
        self._on_devices.clear()
        self._unchanged.clear()

    def place(self, rows: Any) -> Array:
        """Put an array with one row per image and candidate onto the devices of the mesh."""
        return jax.device_put(rows, self._sharding)

    def take(self, state: State, index: np.ndarray) -> State:
        """Return the rows ``index`` of a state: images repeated for their candidates."""
        program = self._program(("take", tuple(sorted(state))), _take, state, index)
        return program(state, jax.device_put(index, self._replicated))

    def head(self, q: QuantizedNetwork, quantizers: Quantizers, images: Array) -> State:
        """Return the state before the first unit."""
        return self._run(self._head, q, quantizers, {}, {self.network.graph.inputs[0]: images})

    def run(
        self,
        unit: int,
        q: QuantizedNetwork,
        quantizers: Quantizers,
        state: State,
        factor: tuple[str, Float[np.ndarray, " row"]] | None = None,
    ) -> State:
        """Run one segment: the state before ``unit`` becomes the state before the next, or the logits.

        ``factor`` multiplies the step of one feature map, row by row.
        """
        segment = self._segments[unit]
        return self._run(segment, q, quantizers, dict([factor]) if factor else {}, state)

    def logits(
        self,
        unit: int,
        q: QuantizedNetwork,
        quantizers: Quantizers,
        state: State,
        factor: tuple[str, Float[np.ndarray, " row"]] | None = None,
    ) -> Float[Array, "row class"]:
        """Run all segments from ``unit`` on."""
        for i in range(unit, len(self.units)):
            state = self.run(i, q, quantizers, state, factor)
        logits = state[self.network.graph.outputs[0]]
        return logits.reshape(self.rows, -1)

    def _run(
        self,
        segment: Segment,
        q: QuantizedNetwork,
        quantizers: Quantizers,
        factors: Mapping[str, np.ndarray],
        state: State,
    ) -> State:
        graph = segment.graph
        if not graph.nodes:
            return state
        own = {short: q.params[key] for short, key in segment.params.items()}
        values = {name: state[segment.tensors[name]] for name in graph.inputs}
        activations = {}
        for feature_map in graph.feature_maps():
            name = segment.tensors[feature_map.tensor]
            if (quantizer := quantizers.activations.get(name)) is not None:
                rank = len(self.network.graph.shape(name))
                activations[feature_map.tensor] = self._by_row(quantizer, factors.get(name), rank)
        own_quantizers = Quantizers(
            activations=activations,
            weights=renamed(quantizers.weights, segment.nodes),
            biases=renamed(quantizers.biases, segment.nodes),
        )
        program = self._program(graph, _run_segment, own, own_quantizers, values)
        outputs = program(own, own_quantizers, values)
        return {segment.tensors[name]: value for name, value in zip(graph.outputs, outputs, strict=True)}

    def _by_row(self, quantizer: Quantizer, factor: np.ndarray | None, rank: int) -> Quantizer:
        """Return the quantizer with one step per row (and channel, where it has one per channel)."""
        if factor is None:
            known = self._unchanged.get(id(quantizer))
            if known is None:
                known = quantizer, self._by_row(quantizer, np.ones(self.rows, np.float32), rank)
                self._unchanged[id(quantizer)] = known
            return known[1]
        step = np.asarray(quantizer.step)
        step = step.reshape((1,) * (rank - step.ndim) + step.shape)
        rows = self.place(step * factor.reshape((-1,) + (1,) * (rank - 1)))
        return replace(quantizer, step=rows)

    def _program(self, key: Any, function: Any, *arguments: Any) -> Any:
        """Return the function compiled for these shapes; the time of compiling is counted."""
        shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(arguments))
        full = (key, jax.tree.structure(arguments), shapes)
        if full not in self._programs:
            start = time.perf_counter()
            if isinstance(key, Graph):
                jitted = jax.jit(lambda *a: function(key, *a), out_shardings=self._sharding)
            else:
                jitted = jax.jit(function, out_shardings=self._sharding)
            placed = [self._placed(argument) for argument in arguments]
            self._programs[full] = jitted.lower(*placed).compile()
            self.compile_seconds += time.perf_counter() - start
        compiled = self._programs[full]
        return lambda *a: compiled(*(self._placed(argument) for argument in a))

    def _placed(self, tree: Any) -> Any:
        """Return arrays where the programs expect them: rows split over the mesh, everything else on every device."""

        def place(leaf: Any) -> Array:
            by_row = np.ndim(leaf) > 1 and leaf.shape[0] == self.rows
            if getattr(leaf, "sharding", None) == (self._sharding if by_row else self._replicated):
                return leaf
            if by_row:
                return self.place(leaf)
            known = self._on_devices.get(id(leaf))
            if known is None:
                known = leaf, jax.device_put(leaf, self._replicated)
                self._on_devices[id(leaf)] = known
            return known[1]

        return jax.tree.map(place, tree)


def _run_segment(graph: Graph, own: dict[str, Array], quantizers: Quantizers, values: State) -> tuple[Array, ...]:
    return tuple(jax.tree.leaves(run(graph, own, values, FakeQuant(quantizers))))


def _take(state: State, index: Array) -> State:
    return {name: jnp.take(value, index, axis=0) for name, value in state.items()}


def renamed(quantizers: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return what there is under the names, by their canonical ones."""
    return {short: quantizers[name] for short, name in names.items() if name in quantizers}


def values_of(shape: Shape) -> int:
    """Return the values of one image in a tensor of that shape."""
    return math.prod(size for size in shape if size is not None)


def canonical(graph: Graph, start: int, stop: int) -> Segment:
    """Return the nodes ``start`` to ``stop`` with names by position, so that equal stretches compare equal."""
    inputs = graph.live(start)
    outputs = graph.live(stop) if stop < len(graph.nodes) else graph.outputs
    tensors: dict[str, str] = {}
    params: dict[str, str] = {}

    def short(names: dict[str, str], letter: str, name: str) -> str:
        return names.setdefault(name, f"{letter}{len(names)}")

    for name in inputs:
        short(tensors, "t", name)
    nodes = []
    for k, node in enumerate(graph.nodes[start:stop]):
        nodes.append(
            replace(
                node,
                name=f"n{k}",
                inputs=tuple(short(tensors, "t", name) for name in node.inputs),
                output=short(tensors, "t", node.output),
                params=tuple((role, short(params, "p", key)) for role, key in node.params),
            )
        )
    canonical = Graph(
        nodes=tuple(nodes),
        inputs=tuple(tensors[name] for name in inputs),
        outputs=tuple(short(tensors, "t", name) for name in outputs),
        shapes=tuple((new, graph.shape(old)) for old, new in tensors.items()),
    )
    return Segment(
        graph=canonical,
        tensors={new: old for old, new in tensors.items()},
        nodes={f"n{k}": node.name for k, node in enumerate(graph.nodes[start:stop])},
        params={new: old for old, new in params.items()},
    )


def strong(quantizers: Quantizers) -> Quantizers:
    """Return the quantizers with arrays of one plain type, so that every layer's program has the same signature."""
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf, np.float32)), quantizers)
