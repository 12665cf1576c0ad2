"""The quantizers of a whole network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jax

from ggdjax._exported import serializable

if TYPE_CHECKING:
    from ggdjax.steps import Quantizer


@serializable()
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Quantizers:
    """A pytree: the quantizer of every rounded feature map, weight and bias; what is not named stays in float.

    Example:
        >>> step = gd.Quantizer(step=jnp.float32(0.5), bits=8, signed=False)
        >>> quantizers = gd.quantization.Quantizers(activations={"input": step})
        >>> jax.tree.map(lambda leaf: 2 * leaf, quantizers).activations["input"].step.item()
        1.0
    """

    activations: dict[str, Quantizer] = field(default_factory=dict)
    """By tensor name: the feature maps that enter convolutions and dense layers."""
    weights: dict[str, Quantizer] = field(default_factory=dict)
    """By node name: the kernels; one step, or one per output channel."""
    biases: dict[str, Quantizer] = field(default_factory=dict)
    """By node name."""
