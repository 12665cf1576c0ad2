"""How far an integer program and the fake-quantized network agree, code by code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import DataError, expect
from ggdjax.datapath._simulate import Integer, compiled
from ggdjax.network import run
from ggdjax.quantization import FakeQuant, Stage
from ggdjax.quantization._batches import image_batches
from ggdjax.quantization._quantizers import short_step

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jaxtyping import Array
    from jaxtyping import Float as Real

    from ggdjax.datapath._program import Program
    from ggdjax.network import Graph, Node
    from ggdjax.quantization import QuantizedNetwork


@dataclass(frozen=True, kw_only=True)
class MapAgreement:
    """One feature map: how many of its codes agree, and how far they are apart at most."""

    values: int
    equal: int
    """Equal codes where both networks run by themselves, each with the consequences of its own earlier roundings."""
    largest: int
    """Largest difference of codes there, in LSB."""
    equal_given_inputs: int
    """Equal codes where the program's layer received the codes of the fake-quantized network."""
    largest_given_inputs: int
    """Largest difference there, in LSB."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement over all feature maps and images."""

    feature_maps: dict[str, MapAgreement]
    same_top1: float
    """Fraction of the images that both networks put into the same class."""
    images: int

    @property
    def equal(self) -> float:
        """Fraction of equal codes over all feature maps."""
        return self._fraction("equal")

    @property
    def equal_given_inputs(self) -> float:
        """Fraction of equal codes over all feature maps, each layer given equal inputs."""
        return self._fraction("equal_given_inputs")

    def _fraction(self, which: str) -> float:
        maps = self.feature_maps.values()
        values = sum(m.values for m in maps)
        return sum(getattr(m, which) for m in maps) / values if values else 1.0  # all in float: no code differs


def align(q: QuantizedNetwork) -> QuantizedNetwork:
    """Return the network with steps and biases in which fake quantization and an integer program round alike.

    What `ggdjax.quantize` returns by default is so; networks with fixed-point biases (``bias_bits``), from files, or
    with steps that a search moved are not. Steps of feature maps get 15 significant bits (`short_step`). Each bias is
    rounded to the grid of its accumulator, Δ_in · Δ_w, 32 bits: that is where an integer program must have it. A bias
    on its own finer grid differs by up to half a unit of the accumulator, which makes about one code in a thousand
    another one in every layer.
    """
    expect("q", q, "QuantizedNetwork")
    old = q.quantizers
    activations = {name: replace(x, step=short_step(x.step)) for name, x in old.activations.items()}
    return q.changed(
        Stage(name="align"), quantizers=replace(old, activations=activations, biases=dict.fromkeys(old.biases))
    )


def agreement(program: Program, q: QuantizedNetwork, batches: Iterable[Real[Array, "batch ..."]]) -> Agreement:
    """Compare an integer program with the fake-quantized network over images.

    Args:
        program: what :func:`ggdjax.datapath.compile` made of ``q``.
        q: the fake-quantized network; see `align`.
        batches: input batches in the layout of the network's own input. Float64 ones (under `jax_enable_x64`) are
            compared with the fake-quantized network in float64, whose own rounding changes no codes.

    Raises:
        DataError: no images.
    """
    expect("program", program, "Program")
    expect("q", q, "QuantizedNetwork")
    totals: dict[str, np.ndarray] = {}
    images = same = 0
    tensors = tuple(program.feature_maps.items())
    for x in image_batches(batches, len(q.network.input_shape)):
        q.network.check_input(x)
        agree, found = jax.device_get(
            _compare(replace(q, record=None), program.graph, tensors, program.params, jnp.asarray(x))
        )
        images, same = images + len(x), same + int(agree.sum())
        for name, row in found.items():
            row = np.asarray(row, np.int64)  # noqa: PLW2901
            old = totals.get(name, np.zeros_like(row))
            totals[name] = np.asarray([*(old + row)[:3], *np.maximum(old, row)[3:]])
    if not images:
        raise DataError("no images to compare on: `batches` is empty")
    names = ("values", "equal", "equal_given_inputs", "largest", "largest_given_inputs")
    maps = {k: MapAgreement(**dict(zip(names, map(int, totals[k]), strict=True))) for k in program.feature_maps}
    return Agreement(feature_maps=maps, same_top1=same / images, images=images)


class _Forced(Integer):
    """Integer arithmetic in which every feature map is compared with, then replaced by, given codes."""

    def __init__(self, graph: Graph, given: Mapping[str, Any]) -> None:
        super().__init__(graph)
        self._given = given
        self.difference: dict[str, Array] = {}

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Compute the node from replaced inputs."""
        output = super().apply(node, params, *inputs)
        return self.replaced(node.output, output) if node.output in self._given else output

    def replaced(self, tensor: str, output: Array) -> Array:
        """Return what stands for an output from here on; note its difference."""
        self.difference[tensor] = jnp.abs(output - self._given[tensor])
        return self._given[tensor]


@compiled(static_argnums=(1, 2))
def _compare(
    q: QuantizedNetwork,
    graph: Graph,
    tensors: tuple[tuple[str, str], ...],
    params: dict[str, Array],
    x: Array,
) -> tuple[Array, dict[str, tuple[Array, ...]]]:
    fake = FakeQuant(q.quantizers)
    # Float64 images, where x64 is on, make the reference double; the program's input is float32 all the same.
    real_params = {key: value.astype(x.dtype) for key, value in q.params.items()}
    real = run(q.graph, real_params, x, fake)
    wanted = {
        tensor: jnp.round(fake.feature_maps[name] / q.quantizers.activations[name].step.astype(x.dtype)).astype(
            jnp.int32
        )
        for name, tensor in tensors
    }
    free, forced = Integer(graph, keep=tuple(wanted)), _Forced(graph, wanted)
    logits = run(graph, params, x.astype(jnp.float32), free)
    run(graph, params, x.astype(jnp.float32), forced)
    found = {}
    for name, tensor in tensors:
        alone, given = jnp.abs(free.kept[tensor] - wanted[tensor]), forced.difference[tensor]
        equal = (jnp.sum(d == 0, dtype=jnp.int32) for d in (alone, given))
        found[name] = (jnp.int32(alone.size), *equal, jnp.max(alone), jnp.max(given))
    top = (jnp.argmax(jax.tree.leaves(y)[0].reshape(len(x), -1), axis=1) for y in (real, logits))
    return next(top) == next(top), found
