"""What the nodes of an integer program mean: one ``numerics`` of the interpreter, one that also counts; a run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax

from ggdjax.datapath import _ops as ops
from ggdjax.network import run
from ggdjax.network._ops import MOVES, OPS, QUANTIZABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    """Integer arithmetic of a program's graph; ``kept`` holds the tensors named in ``keep`` after the run.

    What several nodes read is computed once: XLA would fuse it into each of them, so that a chain of n such tensors
    (the state of an unrolled recurrent layer, a residual stream) would become n²/2.
    """

    def __init__(self, graph: Graph, keep: tuple[str, ...] = ()) -> None:
        self._graph, self._keep = graph, frozenset(keep)
        self.kept: dict[str, Array] = {}

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Return the integers of ``node``."""
        output = INTEGER_OPS[node.op](*inputs, **params, **dict(node.attrs))
        if node.op in QUANTIZABLE:
            output, overflows = output
            self.summed(node, output, overflows)
        if node.output in self._keep:
            self.kept[node.output] = output
        return lax.optimization_barrier(output) if len(self._graph.readers(node.output)) > 1 else output

    def summed(self, node: Node, acc: Array, overflows: Array) -> None:
        """Take note of a layer's accumulators; here, not at all."""


class Counting(Integer):
    """Integer arithmetic that fills ``counts``; ``limits`` says of each node which of its limits are its width's."""

    def __init__(self, graph: Graph, limits: dict[str, tuple[bool, bool]], keep: tuple[str, ...] = ()) -> None:
        super().__init__(graph, keep)
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


#: XLA on CPUs removes barriers before it fuses; it compiles them where this pass is left out.
_KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}


def compiled(static_argnums: int | tuple[int, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what compiles a function that runs `Integer`: `jax.jit`, on CPUs with its barriers kept."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        plain = jax.jit(function, static_argnums=static_argnums)
        apart = jax.jit(function, static_argnums=static_argnums, compiler_options=_KEEP_BARRIERS)

        def chosen(*args: Any) -> Any:
            # A function inside another program is compiled by that one's options, and may have none.
            inside = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args))
            return plain if inside or jax.default_backend() != "cpu" else apart

        @wraps(function)
        def call(*args: Any) -> Any:
            return chosen(*args)(*args)

        call.lower = lambda *args: chosen(*args).lower(*args)
        return call

    return decorate


@compiled(static_argnums=(0, 1))
def simulate(
    graph: Graph, tensors: tuple[str, ...], params: Mapping[str, Array], x: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the integers of some tensors, and the number of overflows of every layer."""
    numerics = Counting(graph, {}, keep=tensors)
    run(graph, params, x, numerics)
    return numerics.kept, {name: counts.overflows for name, counts in numerics.counts.items()}
