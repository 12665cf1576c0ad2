"""What the nodes of an integer program mean: one ``numerics`` of the interpreter, one that also counts; a run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ggdjax.datapath import _ops as ops
from ggdjax.network import run
from ggdjax.network._ops import MOVES, OPS, QUANTIZABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Array, Int

    from ggdjax.network import Graph, Node

#: What moves values is the same on integers as on real numbers; of the others each has a form of its own.
INTEGER_OPS = {name: OPS[name] for name in MOVES} | {
    function.__name__: function
    for function in (
        ops.add,
        ops.argmax,
        ops.conv,
        ops.dense,
        ops.in_float,
        ops.interpolate,
        ops.lookup,
        ops.matmul,
        ops.max_pool,
        ops.mul,
        ops.offset,
        ops.quantize,
        ops.requantize,
        ops.requantize_by_sign,
        ops.saturate,
        ops.sub,
        ops.spread,
        ops.sum_over,
        ops.sum_pool,
        ops.wide_mul,
    )
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class LayerCounts:
    """What happened at one node over a batch; int32."""

    overflows: Int[Array, ""]
    """Sums that the accumulator could not hold (once per partial sum)."""
    saturations: Int[Array, ""]
    """Values that the width of the output limited; those that an activation function limits are not counted."""
    lowest: Int[Array, ""]
    """Smallest integer of the output (of a layer: of its accumulators)."""
    highest: Int[Array, ""]
    """Largest integer of the output."""


class Integer:
    """Integer arithmetic; ``kept`` holds the tensors named in ``keep`` after the run."""

    def __init__(self, keep: tuple[str, ...] = ()) -> None:
        self._keep = frozenset(keep)
        self.kept: dict[str, Array] = {}

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Return the integers of ``node``."""
        output = INTEGER_OPS[node.op](*inputs, **params, **dict(node.attrs))
        if node.op in QUANTIZABLE:
            output, overflows = output
            self.summed(node, output, overflows)
        if node.output in self._keep:
            self.kept[node.output] = output
        return output

    def summed(self, node: Node, acc: Array, overflows: Array) -> None:
        """Take note of a layer's accumulators; here, not at all."""


class Counting(Integer):
    """Integer arithmetic that fills ``counts``; ``limits`` says of each node which of its limits are its width's."""

    def __init__(self, limits: dict[str, tuple[bool, bool]], keep: tuple[str, ...] = ()) -> None:
        super().__init__(keep)
        self._limits = limits
        self.counts: dict[str, LayerCounts] = {}

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Compute the node; count the values that its width limited."""
        output = super().apply(node, params, *inputs)
        if node.name in self._limits:
            wide = dict(node.attrs) | {"low": -(2**31) + 128, "high": 2**31 - 129}
            free = INTEGER_OPS[node.op](*inputs, **params, **wide)
            low, high = self._limits[node.name]
            limited = (low & (free < output)) | (high & (free > output))
            self._count(node, output, jnp.int32(0), jnp.sum(limited, dtype=jnp.int32))
        return output

    def summed(self, node: Node, acc: Array, overflows: Array) -> None:
        """Count a layer's overflows."""
        self._count(node, acc, overflows, jnp.int32(0))

    def _count(self, node: Node, output: Array, overflows: Array, saturations: Array) -> None:
        self.counts[node.name] = LayerCounts(
            overflows=overflows, saturations=saturations, lowest=jnp.min(output), highest=jnp.max(output)
        )


@partial(jax.jit, static_argnums=(0, 1))
def simulate(
    graph: Graph, tensors: tuple[str, ...], params: Mapping[str, Array], x: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the integers of some tensors, and the number of overflows of every layer."""
    numerics = Counting({}, keep=tensors)
    run(graph, params, x, numerics)
    return numerics.kept, {name: counts.overflows for name, counts in numerics.counts.items()}
