"""The quantizers of a whole network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._exported import serializable
from ggdjax.steps import Quantizer

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import Array, Float

    from ggdjax.network import Node

#: Width of a bias on its accumulator's grid.
ACCUMULATOR_BITS = 32
_STEP_BITS = 15


def short_step(step: Float[ArrayLike, "*chan"]) -> Float[Array, "*chan"]:
    """Return steps with 15 significant bits, a change of less than one part in 32,768.

    Then a code of 8 bits and a half, times its step, is exact in float32, and sums on the middle between two codes are
    rounded alike in real numbers and in integers. They are common where steps are equal, as behind ReLU6.
    """
    mantissa, exponent = np.frexp(np.asarray(step, np.float64))
    short = np.ldexp(np.round(np.ldexp(mantissa, _STEP_BITS)), exponent - _STEP_BITS)
    return jax.device_put(short.astype(np.float32))


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
    biases: dict[str, Quantizer | None] = field(default_factory=dict)
    """By node name; None: on the grid of the layer's accumulator, Δ_in · Δ_w, which follows the other two."""

    def bias(self, node: Node) -> Quantizer | None:
        """Return the quantizer of a layer's bias; None where it stays in float.

        A bias on its accumulator's grid does so where the input or the weights stay in float, or the input has a step
        per channel: no accumulator has a grid then.
        """
        if node.name not in self.biases or self.biases[node.name] is not None:
            return self.biases.get(node.name)
        source, weights = self.activations.get(node.inputs[0]), self.weights.get(node.name)
        # Searches have a step per row, with as many axes as the feature map: one channel all the same.
        if source is None or weights is None or jnp.shape(source.step)[-1:] not in {(), (1,)}:
            return None
        shape = (1,) * (jnp.ndim(source.step) - jnp.ndim(weights.step)) + jnp.shape(weights.step)
        if isinstance(source.step, jax.core.Tracer) or isinstance(weights.step, jax.core.Tracer):
            step = weights.step.reshape(shape) * source.step
        else:  # nothing to compile
            step = jax.device_put(np.asarray(weights.step).reshape(shape) * np.asarray(source.step))
        return Quantizer(step=step, bits=ACCUMULATOR_BITS)
