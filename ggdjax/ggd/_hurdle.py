"""The hurdle form for feature maps: a point mass at zero, plus one side or two sides with their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ggdjax._errors import expect
from ggdjax.ggd._arrays import as_real, pad_rank
from ggdjax.ggd._distribution import GeneralizedGamma
from ggdjax.ggd._symmetric import SymmetricGeneralizedGamma
from ggdjax.ggd._tail import TailWeighted, as_tail


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Hurdle:
    """``P(X = 0) = z``, density ``w₊ f₊(x)`` for x > 0 and ``w₋ f₋(−x)`` for x < 0, with ``z + w₊ + w₋ = 1``.

    The last axis of `weight` and `tail` is the side: positive, negative. An empty side has weight 0 and any
    harmless distribution. One-sided (after ReLU): ``w₋ = 0``.
    """

    #: z in [0, 1]; shape ``batch``.
    zero_probability: Float[Array, "*batch"]
    #: (w₊, w₋), each in [0, 1]; shape ``batch + (2,)``.
    weight: Float[Array, "*batch 2"]
    #: f₊ and f₋, batch shape ``batch + (2,)``.
    tail: TailWeighted

    @classmethod
    def one_sided(
        cls, source: GeneralizedGamma | TailWeighted, zero_probability: Float[Array, "*batch"] | float = 0.0
    ) -> Hurdle:
        """Return the distribution with the given positive side; the negative side repeats it with weight 0."""
        tail = as_tail(source)
        zero, _ = as_real(zero_probability, tail.order)
        zero = jnp.broadcast_to(zero, tail.batch_shape)
        weight = jnp.stack([1.0 - zero, jnp.zeros_like(zero)], axis=-1)
        both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf], axis=-1), tail)
        return cls(zero_probability=zero, weight=weight, tail=both)

    @classmethod
    def symmetric(
        cls, source: SymmetricGeneralizedGamma, zero_probability: Float[Array, "*batch"] | float = 0.0
    ) -> Hurdle:
        """Return the symmetric distribution with a point mass at zero: both sides are alike and weigh the same."""
        expect("source", source, "SymmetricGeneralizedGamma")
        one = cls.one_sided(source.magnitude, zero_probability)
        half = 0.5 * (1.0 - one.zero_probability)
        return cls(zero_probability=one.zero_probability, weight=jnp.stack([half, half], axis=-1), tail=one.tail)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of `zero_probability`."""
        return self.zero_probability.shape

    def _by_side(
        self, x: Float[Array, "..."] | float, log_function: Callable[[TailWeighted, Array], Array]
    ) -> tuple[Array, Array, Array]:
        """Return x, and for each side its weight times the exponential of a function of |x| of that side."""
        (x,) = as_real(x)
        magnitude = jnp.where(x == 0, 1.0, jnp.abs(x))

        def one(side: int) -> Array:
            value = log_function(self.tail[..., side], magnitude)
            return pad_rank(self.weight[..., side], value.ndim) * jnp.exp(value)

        positive, negative = one(0), one(1)
        return pad_rank(x, positive.ndim), positive, negative

    def density(self, x: Float[Array, "..."] | float) -> Float[Array, "..."]:
        """Return the density of the continuous part at x ≠ 0 (at 0: 0; the mass there is `zero_probability`)."""
        x, positive, negative = self._by_side(x, TailWeighted.log_density)
        return jnp.where(x > 0, positive, jnp.where(x < 0, negative, 0.0))

    def cdf(self, x: Float[Array, "..."] | float) -> Float[Array, "..."]:
        """Return P(X ≤ x), from the tail beyond x: ``1 − w₊ ∫ₓ^∞ f₊`` for x > 0, ``w₋ ∫_{−x}^∞ f₋`` for x < 0.

        Bounded to [0, 1]: a tail-weighted fit need not integrate to 1 in the body.
        """
        x, positive, negative = self._by_side(x, lambda tail, magnitude: tail.log_upper_moment(magnitude, 0.0))
        at_zero = pad_rank(1.0 - self.weight[..., 0], positive.ndim)
        return jnp.clip(jnp.where(x > 0, 1.0 - positive, jnp.where(x < 0, negative, at_zero)), 0.0, 1.0)

    def moment(self, r: float) -> Float[Array, "*batch"]:
        """Return ``E[|X|ʳ]``, r > 0, from the de-biased distributions of the sides."""
        return self._weighted(self.tail.as_ggd().moment(r)).sum(-1)

    def _weighted(self, sides: Array) -> Array:
        """Return weight × value, 0 on an empty side whatever its value."""
        return jnp.where(self.weight > 0, self.weight * sides, 0.0)

    @property
    def mean(self) -> Float[Array, "*batch"]:
        """E[X]."""
        sides = self._weighted(self.tail.as_ggd().mean)
        return sides[..., 0] - sides[..., 1]

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Return independent draws of shape ``shape + batch_shape`` (sides de-biased)."""
        side_key, key = jax.random.split(key)
        magnitude = self.tail.as_ggd().sample(key, shape)
        u = jax.random.uniform(side_key, magnitude.shape[:-1], magnitude.dtype)
        positive = jnp.broadcast_to(self.weight[..., 0], u.shape)
        nonzero = jnp.broadcast_to(self.weight.sum(-1), u.shape)
        return jnp.where(u < positive, magnitude[..., 0], jnp.where(u < nonzero, -magnitude[..., 1], 0.0))
