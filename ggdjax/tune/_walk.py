"""The float and the quantized network side by side, once over the graph, with the tensors of all images."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ggdjax._errors import GgdjaxError
from ggdjax.network import Float as FloatNumerics
from ggdjax.network import run
from ggdjax.quantization import FakeQuant, Quantizers
from ggdjax.quantization._batches import pad_batch
from ggdjax.quantization._rows import Rows
from ggdjax.tune._memory import quarter_of_host
from ggdjax.tune._segments import canonical, renamed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jax.sharding import Mesh
    from jaxtyping import Array, Float

    from ggdjax.network import Graph, Node
    from ggdjax.quantization import QuantizedNetwork


class Walk:
    """Both walks over the network: tensors of all images, as long as a node still reads them.

    What computes the quantized tensors from here on are ``params``, ``weights`` and ``biases``, which may be changed.
    """

    def __init__(
        self,
        q: QuantizedNetwork,
        images: np.ndarray,
        batch_size: int,
        memory_bytes: int | None,
        folder: str,
        mesh: Mesh | None = None,
    ) -> None:
        self.split = Rows(mesh)
        self.q, self.batch_size, self.folder = q, batch_size, folder
        self.memory_bytes = quarter_of_host() if memory_bytes is None else memory_bytes
        self.real, self.params = q.float_network.params, dict(q.params)
        self.weights, self.biases = dict(q.quantizers.weights), dict(q.quantizers.biases)
        self.count = len(images)
        source = q.graph.inputs[0]
        self.float: dict[str, np.ndarray] = {source: images}
        self.quantized: dict[str, np.ndarray] = {source: images}
        self._bytes = 2 * images.nbytes  # what both walks give back when it is read no more
        self._reached = 0

    def advance(self, stop: int) -> None:
        """Run both walks up to node ``stop`` of the graph; keep what is read later."""
        graph, start = self.q.graph, self._reached
        # Batches of one size with hardly any padding.
        size = self.split.whole(-(-self.count // -(-self.count // self.batch_size)))
        self._reached = stop
        segment = canonical(graph, start, stop)
        new = tuple(name for name in segment.graph.outputs if name not in segment.graph.inputs)
        cut = replace(segment.graph, outputs=new)
        quantizers = Quantizers(
            activations=renamed(self.q.quantizers.activations, segment.tensors),
            weights=renamed(self.weights, segment.nodes),
            biases=renamed(self.biases, segment.nodes),
        )
        params = [{key: own[name] for key, name in segment.params.items()} for own in (self.real, self.params)]
        given = self.split.everywhere((*params, quantizers))
        walks = (self.float, self.quantized)
        results: list[list[np.ndarray]] = [[], []]

        def started() -> Iterator[tuple[Any, int]]:
            for first in range(0, self.count if new else 0, size):
                values = [
                    {name: pad_batch(walk[segment.tensors[name]][first : first + size], size) for name in cut.inputs}
                    for walk in walks
                ]
                yield _run_both(cut, *given, *self.split.split(values)), first

        for both, first in self.split.read_each(started()):
            if not results[0]:
                results = [[self._array((self.count, *y.shape[1:])) for y in one] for one in both]
            for kept, one in zip(results, both, strict=True):
                for array, y in zip(kept, one, strict=True):
                    array[first : first + size] = y[: self.count - first]
        for walk, kept in zip(walks, results, strict=True):
            walk |= {segment.tensors[name]: array for name, array in zip(new, kept, strict=True)}
            for tensor in set(walk) - set(graph.live(stop)):
                self._bytes -= walk.pop(tensor).nbytes

    def held_bias(self, node: Node) -> Float[np.ndarray, " cout"]:
        """Return the present bias of a layer that has one, as integers add it."""
        bias = np.asarray(self.params[node.param("bias")], np.float32)
        quantizer = replace(self.q.quantizers, weights=self.weights, biases=self.biases).bias(node)
        return bias if quantizer is None else np.asarray(quantizer.decode(quantizer.encode(bias)))

    def _array(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array for a tensor of all images, in a file where memory is used up."""
        size = 4 * math.prod(shape)
        self._bytes += size
        if self._bytes <= self.memory_bytes:
            return np.empty(shape, np.float32)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            if hasattr(os, "posix_fallocate"):  # without it a full disk ends the process when the array is written
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                except OSError as error:
                    raise GgdjaxError(
                        f"temporary files cannot hold the tensors of {self.count} images ({error.strerror}): free "
                        "space, set TMPDIR, raise `memory_bytes`, or round on fewer images"
                    ) from error
            return np.memmap(file, np.float32, "w+", shape=shape)  # stays when the file is closed


@partial(jax.jit, static_argnums=0)
def _run_both(
    graph: Graph,
    real: dict[str, Array],
    rounded: dict[str, Array],
    quantizers: Quantizers,
    real_values: dict[str, Array],
    values: dict[str, Array],
) -> list[tuple[Array, ...]]:
    """Run a stretch of the graph in float and quantized."""
    walks = ((real, real_values, FloatNumerics()), (rounded, values, FakeQuant(quantizers)))
    return [tuple(jax.tree.leaves(run(graph, *walk))) for walk in walks]
