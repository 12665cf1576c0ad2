"""Fake quantization that leaves a random share of the feature maps' values unrounded."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ggdjax.quantization import FakeQuant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Array, Float

    from ggdjax.network import Node
    from ggdjax.quantization import Quantizers


class Dropping(FakeQuant):
    """`FakeQuant` where each value of a feature map stays real with a probability, alike for all of its readers.

    Weights are rounded always. Wei et al., QDrop, ICLR 2022 (arXiv 2203.05740): minima that are found so are flat in
    the feature maps' rounding, and hold on images that were not seen.
    """

    def __init__(self, quantizers: Quantizers, probability: Float[Array, ""] | float, key: Array) -> None:
        super().__init__(replace(quantizers, activations={}))
        self.maps, self.probability, self.key = quantizers.activations, probability, key

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Round a part of the input of a quantizable node, and its weights."""
        name = node.inputs[0]
        if node.name in self.quantizers.weights and name in self.maps:
            (x,) = inputs
            key = jax.random.fold_in(self.key, zlib.crc32(name.encode()))
            inputs = (jnp.where(jax.random.bernoulli(key, self.probability, x.shape), x, self.maps[name](x)),)
        return super().apply(node, params, *inputs)
