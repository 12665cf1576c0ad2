"""The two-sided symmetric form: ``f(x) = ½ g(|x|)``; generalized normal, normal and Laplace are its d = 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ggdjax.ggd._arrays import as_real
from ggdjax.ggd._distribution import GeneralizedGamma


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class SymmetricGeneralizedGamma:
    """``f(x) = ½ g(|x|)`` for real x, g generalized gamma: mean 0, variance ``E[g²]``."""

    magnitude: GeneralizedGamma

    @classmethod
    def generalized_normal(cls, scale: float | Array, shape: float | Array) -> SymmetricGeneralizedGamma:
        """Return ``f(x) ∝ exp(−|x/scale|^shape)``; scale, shape > 0."""
        return cls(magnitude=GeneralizedGamma(scale, 1.0, shape))

    @classmethod
    def normal(cls, sigma: float | Array) -> SymmetricGeneralizedGamma:
        """Return N(0, σ²)."""
        return cls(magnitude=GeneralizedGamma.half_normal(sigma))

    @classmethod
    def laplace(cls, scale: float | Array) -> SymmetricGeneralizedGamma:
        """Return ``exp(−|x|/scale) / (2 scale)``."""
        return cls(magnitude=GeneralizedGamma.exponential(scale))

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Common shape of the parameters."""
        return self.magnitude.batch_shape

    def log_prob(self, x: Float[Array, "..."] | float) -> Float[Array, "..."]:
        """Return log f(x)."""
        (x,) = as_real(x)
        return self.magnitude.log_prob(jnp.abs(x)) - math.log(2.0)

    def cdf(self, x: Float[Array, "..."] | float) -> Float[Array, "..."]:
        """Return P(X ≤ x)."""
        (x,) = as_real(x)
        upper = 0.5 * self.magnitude.sf(jnp.abs(x))
        return jnp.where(x < 0, upper, 1.0 - upper)

    def icdf(self, q: Float[Array, "..."] | float) -> Float[Array, "..."]:
        """Return x with P(X ≤ x) = q, q in [0, 1]; −inf at 0, inf at 1."""
        (q,) = as_real(q)
        tail = jnp.minimum(q, 1.0 - q)
        return jnp.where(q < 0.5, -1.0, 1.0) * self.magnitude.isf(2.0 * tail)

    @property
    def variance(self) -> Float[Array, "..."]:
        """E[x²]."""
        return self.magnitude.moment(2.0)

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Return independent draws of shape ``shape + batch_shape``."""
        sign_key, key = jax.random.split(key)
        x = self.magnitude.sample(key, shape)
        return x * jax.random.rademacher(sign_key, x.shape, x.dtype)
