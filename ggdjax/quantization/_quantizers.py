"""The quantizers of a whole network."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._exported import serializable
from ggdjax.steps import Quantizer

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import Array, Float, Int

    from ggdjax.network import Node

#: Width of a bias on its accumulator's grid.
ACCUMULATOR_BITS = 32
_STEP_BITS = 15


def short_step(step: Float[ArrayLike, "*chan"]) -> Float[Array, "*chan"]:
    """Return steps whose 15 significant bits are the nearest prime, a change of 0.03 % as a rule, 0.2 % at most.

    A code of 8 bits and a half, times such a step, is exact in float32, so that a sum on the middle between two codes,
    which is common where steps are equal, as behind ReLU6, is rounded alike in real numbers and in integers. Between
    different steps no sum lies there: their ratio would have to be a fraction of small numbers, such as 1/3 between
    limits of 2 and of 6, which no multiplier of an integer program holds. Powers of two stay powers of two.
    """
    mantissa, exponent = np.frexp(np.asarray(step, np.float64))
    primes = _primes()
    whole = np.ldexp(mantissa, _STEP_BITS)
    above = np.clip(np.searchsorted(primes, whole), 1, len(primes) - 1)
    nearest = np.where(whole - primes[above - 1] < primes[above] - whole, primes[above - 1], primes[above])
    short = np.where(mantissa == 0.5, step, np.ldexp(nearest, exponent - _STEP_BITS))
    return jax.device_put(short.astype(np.float32))


@cache
def _primes() -> Int[np.ndarray, " prime"]:
    """Return the primes of `_STEP_BITS` bits."""
    found = np.ones(1 << _STEP_BITS, bool)
    for k in range(2, 1 << (_STEP_BITS // 2 + 1)):
        found[k * k :: k] = False
    (primes,) = np.nonzero(found)
    return primes[primes > 1 << (_STEP_BITS - 1)]


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
        step = self.accumulator_step(node)
        return None if step is None else Quantizer(step=step, bits=ACCUMULATOR_BITS)

    def accumulator_step(self, node: Node) -> Float[Array, "*chan"] | None:
        """Return the step of a layer's accumulator, Δ_in · Δ_w; None where it has none (see `bias`)."""
        source, weights = self.activations.get(node.inputs[0]), self.weights.get(node.name)
        # Searches have a step per row, with as many axes as the feature map: one channel all the same.
        if source is None or weights is None or jnp.shape(source.step)[-1:] not in {(), (1,)}:
            return None
        shape = (1,) * (jnp.ndim(source.step) - jnp.ndim(weights.step)) + jnp.shape(weights.step)
        if isinstance(source.step, jax.core.Tracer) or isinstance(weights.step, jax.core.Tracer):
            return weights.step.reshape(shape) * source.step
        # Nothing to compile.
        return jax.device_put(np.asarray(weights.step).reshape(shape) * np.asarray(source.step))
