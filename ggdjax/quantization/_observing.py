"""The pass of a calibration: one batch through the float network, and what is counted of its feature maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from ggdjax.ggd._histogram import histogram_counts
from ggdjax.network import Float, run
from ggdjax.network._chunks import chunks_of
from ggdjax.network._ops import LIMITS, MOVES
from ggdjax.quantization._numerics import ROUNDED
from ggdjax.quantization._positions import extremes, run_length, spread_positions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Array, Int
    from jaxtyping import Float as Real

    from ggdjax.ggd import Counter, Histogram
    from ggdjax.network import Graph, Node

Ends = tuple["Real[Array, '']", "Real[Array, '']"]
"""Least and largest value; ∞ and −∞: of none."""


def tensors_with_ranges(graph: Graph) -> tuple[str, ...]:
    """Return the tensors whose range a calibration measures: what integers hold beside codes of feature maps.

    These are the inputs of everything that is no layer and does more than move or limit values, and the outputs.
    """
    read = [
        t
        for node in graph.nodes
        if node.op not in ROUNDED | MOVES | LIMITS or dict(node.attrs).get("method", "nearest") != "nearest"
        for t in node.inputs
    ]
    counted = {feature_map.tensor for feature_map in graph.feature_maps()}
    return tuple(t for t in dict.fromkeys((*read, *graph.outputs)) if t not in counted)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Sample:
    """What is counted of one feature map."""

    values: Real[Array, "image ..."]
    ends: Ends | None
    """Of all values; None: ``values`` are all."""
    each: int = field(metadata={"static": True})
    """How many values every one stands for."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one run tells."""

    samples: dict[str, Sample]
    """By feature map, each once, however many layers read it."""
    ranges: dict[str, Ends]
    """By tensor of `tensors_with_ranges`."""
    channels: dict[str, Histogram]


class _Observe(Float):
    """Float arithmetic that keeps what is counted of every quantizable feature map, and the ranges of other tensors.

    See `observe`.
    """

    def __init__(
        self,
        graph: Graph,
        images: Int[Array, ""] | None,
        numbers: Int[Array, " batch"] | None,
        values: Mapping[str, int],
        *,
        per_channel: bool,
    ) -> None:
        self._ranged, self._chooses = tensors_with_ranges(graph), any(node.op == "select" for node in graph.nodes)
        self._images, self._numbers, self._values, self._per_channel = images, numbers, values, per_channel
        self.seen = Seen(samples={}, ranges={}, channels={})

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Look at the node's inputs, then compute in float."""
        for name, x in zip(node.feature_maps, inputs, strict=False):
            if name not in self.seen.samples:
                self._count(name, x)
        for name, x in zip(node.inputs, inputs, strict=True):
            self.measure(name, x)
        return super().apply(node, params, *inputs)

    def _count(self, name: str, x: Array) -> None:
        by_image = self._numbers is not None and x.shape[:1] == self._numbers.shape
        each = run_length(x.shape, self._values.get(name)) if by_image else 1
        counted, ends = x, None
        if each > 1 and self._numbers is not None:
            counted, ends = spread_positions(x, each, self._numbers), extremes(x)
        self.seen.samples[name] = Sample(values=counted, ends=ends, each=each)
        if self._per_channel:
            first = None if self._images is None else self._images * (x.size // x.shape[-1] // len(x))
            self.seen.channels[name] = histogram_counts(x, tuple(range(x.ndim - 1)), first)

    def measure(self, name: str, x: Array) -> None:
        """Measure the range of ``name``: where a choice may discard others, 0 / 0 say, of its finite values."""
        if name not in self._ranged or name in self.seen.ranges:
            return
        if not self._chooses:
            self.seen.ranges[name] = extremes(x)
            return
        finite = jnp.isfinite(x)
        least, most = jnp.min(x, initial=jnp.inf, where=finite), jnp.max(x, initial=-jnp.inf, where=finite)
        self.seen.ranges[name] = (least, most)


def observe(
    graph: Graph,
    params: Mapping[str, Array],
    x: Real[Array, "batch ..."],
    counters: Mapping[str, Counter],
    *,
    images: Int[Array, ""] | None = None,
    numbers: Int[Array, " batch"] | None = None,
    values: Mapping[str, int] | None = None,
    per_channel: bool = False,
) -> tuple[dict[str, Counter], Seen]:
    """Run a batch, and return the counts with its feature maps added, and what else was seen.

    Args:
        graph: its batch normalization folded.
        params: of its nodes.
        x: images; what does not count is a copy of one of them.
        counters: by feature map.
        images: how many of ``x`` count, the first ones; None: all.
        numbers: what tells images apart. Without them no feature map is known to be by image, and all is counted.
        values: of which feature maps how many values of an image are enough, at `spread_positions`.
        per_channel: also count each channel (last axis) by itself.
    """

    def look(x: Array, images: Array | None, numbers: Array | None) -> Seen:
        numerics = _Observe(graph, images, numbers, values or {}, per_channel=per_channel)
        for name, y in zip(graph.outputs, jax.tree.leaves(run(graph, params, x, numerics)), strict=True):
            numerics.measure(name, y)
        return numerics.seen

    # All values of all chunks would be held together.
    few = numbers is not None and values and not per_channel
    chunks = chunks_of(graph, len(x)) if few else [slice(None)]

    def by_chunks(x: Array, images: Array | None, numbers: Array) -> Seen:
        counts = [None if images is None else jnp.clip(images - c.start, 0, c.stop - c.start) for c in chunks]
        return _joined([look(x[c], count, numbers[c]) for c, count in zip(chunks, counts, strict=True)])

    found = (x, images, numbers)
    seen = look(*found) if len(chunks) == 1 else lax.platform_dependent(*found, cpu=by_chunks, default=look)
    counted = dict(counters)
    for name, sample in seen.samples.items():
        size = sample.values.size // len(x)
        counted[name] = counted[name].add(sample.values, None if images is None else images * size, sample.each)
        if sample.ends is not None:
            counted[name] = counted[name].widen(*sample.ends)
    return counted, seen


def _joined(parts: Sequence[Seen]) -> Seen:
    """Return what was seen of all images, in order."""
    first = parts[0]

    def ends(pairs: Sequence[Ends]) -> Ends:
        low, high = zip(*pairs, strict=True)
        return jnp.min(jnp.stack(low)), jnp.max(jnp.stack(high))

    def sample(name: str) -> Sample:
        own = [part.samples[name] for part in parts]
        whole = None if own[0].ends is None else ends([s.ends for s in own if s.ends is not None])
        return Sample(values=jnp.concatenate([s.values for s in own]), ends=whole, each=own[0].each)

    return Seen(
        samples={name: sample(name) for name in first.samples},
        ranges={name: ends([part.ranges[name] for part in parts]) for name in first.ranges},
        channels={},
    )
