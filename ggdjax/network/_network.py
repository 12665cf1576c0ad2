"""A network: the static graph with its parameters, callable in the layout of the model's own input."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax import _files
from ggdjax._errors import DataError, GgdjaxError, expect_array, summary
from ggdjax._exported import serializable
from ggdjax._tables import html_table
from ggdjax.network._chunks import run_in_chunks
from ggdjax.network._interpreter import Float
from ggdjax.network._serialize import graph_from_record, graph_record

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from jax.typing import ArrayLike
    from jaxtyping import Array

    from ggdjax.network._graph import Graph, Shape


@serializable(lambda static: graph_record(*static), lambda record: (graph_from_record(record),))
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Network:
    """A pytree: ``params`` (arrays by key) are its leaves, ``graph`` is static.

    ``net(x)`` runs in float32, compiled once per batch size; ``x`` and the result have the layout of the
    model's own input and output (batch first; channels first for an ONNX file), whatever the graph does
    inside.

    Example:
        >>> net = gd.trace(lambda x: jax.nn.relu(x @ jnp.ones((4, 3))), jnp.zeros((1, 4)))
        >>> net(jnp.ones((2, 4))).tolist()
        [[4.0, 4.0, 4.0], [4.0, 4.0, 4.0]]
        >>> [node.op for node in net.graph.nodes]
        ['dense', 'relu']
    """

    graph: Graph = field(metadata={"static": True})
    params: dict[str, Array]

    def __repr__(self) -> str:
        count = sum(math.prod(np.shape(value)) for value in self.params.values())
        return summary(self, graph=self.graph, parameters=f"{count:,}")

    def _repr_html_(self) -> str:
        rows = (
            {
                "node": node.name,
                "operation": node.op,
                "inputs": ", ".join(node.inputs),
                "shape": self.graph.shape(node.output),
                "parameters": ", ".join(f"{role} {np.shape(self.params[key])}" for role, key in node.params),
            }
            for node in self.graph.nodes
        )
        return html_table(self, rows, len(self.graph.nodes))

    @property
    def input_shape(self) -> Shape:
        """Shape of the model's own input; the batch dimension is None unless its operations work along it."""
        return self.graph.shape(self.graph.inputs[0])

    @property
    def output_shape(self) -> Shape:
        """Shape of the model's (first) output; the batch dimension is None."""
        return self.graph.shape(self.graph.outputs[0])

    def check_input(self, x: Any) -> None:
        """Raise `DataError` unless ``x`` is an array of real numbers whose shape fits the network's input."""
        x = expect_array("x", x, "an array of images", error=DataError)
        expected = self.input_shape
        if len(x.shape) != len(expected) or any(
            e is not None and n != e for n, e in zip(x.shape, expected, strict=True)
        ):
            if expected[0] is not None and tuple(x.shape[1:]) == expected[1:]:
                raise DataError(
                    f"`x` holds {x.shape[0]} images; the network computes batches of {expected[0]} together: give as "
                    "many, or load a file without operations along the batch"
                )
            wanted = ", ".join("batch" if e is None else str(e) for e in expected)
            raise DataError(
                f"`x` has shape {tuple(x.shape)}; the network expects ({wanted}): give images of that shape (`size` in "
                "their preprocessing resizes them)"
            )

    def __call__(self, x: ArrayLike) -> Any:
        """Return the network's output for the batch ``x`` in float32.

        Raises:
          DataError: the shape of ``x`` does not fit the network.
        """
        self.check_input(x)
        x = jnp.asarray(x, jnp.float32)
        return _forward(self.graph, self.params, x)

    def save(self, path: os.PathLike[str] | str) -> None:
        """Write the network as one file, which ``gd.load`` reads: the same graph, the same bits.

        Args:
            path: the file, in a folder that exists; an earlier one is replaced as a whole.

        Raises:
            GgdjaxError: the file cannot be written.
        """
        _files.write(path, "network", *self._to_file())

    def _to_file(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return the record and the arrays that a file holds."""
        return {"graph": graph_record(self.graph)}, {f"params/{key}": value for key, value in self.params.items()}

    @classmethod
    def _from_file(cls, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Network:
        graph = graph_from_record(record["graph"])
        params = device_params(_files.select(arrays, "params/"))
        for key in (key for node in graph.nodes for _, key in node.params):
            if key not in params:
                raise GgdjaxError(f"the parameter `{key}` is missing")
        return cls(graph=graph, params=params)


def device_params(params: Mapping[str, np.ndarray]) -> dict[str, Array]:
    """Return arrays on the device: equal ones, as nodes that read one tensor of a file have, are one under all keys."""
    digests = {key: (v.dtype, v.shape, hashlib.sha256(np.ascontiguousarray(v)).digest()) for key, v in params.items()}
    different = {digests[key]: value for key, value in params.items()}
    placed = dict(zip(different, jax.device_put(list(different.values())), strict=True))
    return {key: placed[digest] for key, digest in digests.items()}


@partial(jax.jit, static_argnums=0)
def _forward(graph: Graph, params: dict[str, Array], x: Array) -> Any:
    return run_in_chunks(graph, params, x, Float)
