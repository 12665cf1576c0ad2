"""A large batch as several independent chunks in one program.

On a CPU chunks run side by side, so that what one operation leaves idle another one uses, and a chunk's feature maps
are read again before they have left the caches. Accelerators fill themselves, and take the batch as it is.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax

from ggdjax.network._interpreter import Numerics, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jaxtyping import Array

    from ggdjax.network._graph import Graph

#: More chunks take longer to compile, each a fraction of a second.
CHUNKS = 4
#: Values of all tensors of one chunk below which the single operations become too short (`float_throughput`).
LEAST_VALUES = 7_500_000


def chunks_of(graph: Graph, images: int) -> list[slice]:
    """Return the chunks of a batch: one where it is small, or where some tensor or output has no batch axis first."""
    shapes = [shape for _, shape in graph.shapes]
    if any(None in shape[1:] for shape in shapes) or any(graph.shape(t)[:1] != (None,) for t in graph.outputs):
        return [slice(0, images)]
    values = images * sum(math.prod(shape[1:]) for shape in shapes if shape[:1] == (None,))
    count = max(1, min(CHUNKS, images, values // LEAST_VALUES))
    ends = [images * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


def run_in_chunks(graph: Graph, params: Mapping[str, Array], x: Array, numerics: Callable[[], Numerics]) -> Any:
    """Return what `run` does, in chunks on a CPU; ``numerics`` makes the meaning of the nodes of one chunk."""
    # A symbolic batch size (`jax.export`) has no number: one chunk.
    images = x.shape[0]
    chunks = chunks_of(graph, images) if isinstance(images, int) else [slice(None)]

    def whole(x: Array) -> Any:
        return run(graph, params, x, numerics())

    def by_chunks(x: Array) -> Any:
        parts = [whole(x[chunk]) for chunk in chunks]
        return jax.tree.map(lambda *rows: jnp.concatenate(rows), *parts)

    return whole(x) if len(chunks) == 1 else lax.platform_dependent(x, cpu=by_chunks, default=whole)
