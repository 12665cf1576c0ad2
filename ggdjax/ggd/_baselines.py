"""Two one-sided distributions outside the generalized gamma family: log-normal (its limit) and Pareto-tailed (Lomax).

They have the interface of `GeneralizedGamma` as far as goodness of fit needs it. Leaves of one class share one batch
shape; arguments broadcast against it as in numpy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ggdjax.ggd._arrays import as_real, pad_rank


@dataclass(frozen=True, kw_only=True)
class _LogLocated:
    """A distribution of x > 0, by the density of ``z = log x − loc``; that of x is ``exp(log_density(z)) / x``."""

    loc: Float[Array, "..."]

    def _log_density(self, z: Array, shape: Array, /) -> Array:
        raise NotImplementedError

    def _log_tails(self, z: Array, shape: Array, /) -> tuple[Array, Array]:
        raise NotImplementedError

    def _log_quantile(self, q: Array, shape: Array, /) -> Array:
        raise NotImplementedError

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Common shape of the parameters."""
        return self.loc.shape

    def _aligned(self, x: Array | float) -> tuple[Array, list[Array]]:
        x, *leaves = as_real(x, *jax.tree.leaves(self))
        rank = max(x.ndim, self.loc.ndim)
        return pad_rank(x, rank), [pad_rank(leaf, rank) for leaf in leaves]

    def _inside(self, x: Array | float) -> tuple[Array, Array, Array, list[Array]]:
        x, (loc, *shape) = self._aligned(x)
        inside = (x > 0) & (x < jnp.inf)
        log_x = jnp.log(jnp.where(inside, jnp.maximum(x, jnp.finfo(x.dtype).tiny), 1.0))
        return x, inside, log_x, [jnp.where(inside, log_x - loc, 0.0), *shape]

    def log_prob(self, x: Array | float) -> Float[Array, "..."]:
        """Return log f(x); −inf outside (0, ∞)."""
        _, inside, log_x, arguments = self._inside(x)
        return jnp.where(inside, self._log_density(*arguments) - log_x, -jnp.inf)

    def log_cdf(self, x: Array | float) -> Float[Array, "..."]:
        """Return log P(X ≤ x)."""
        x, inside, _, arguments = self._inside(x)
        return jnp.where(inside, self._log_tails(*arguments)[0], jnp.where(x > 0, 0.0, -jnp.inf))

    def log_sf(self, x: Array | float) -> Float[Array, "..."]:
        """Return log P(X > x)."""
        x, inside, _, arguments = self._inside(x)
        return jnp.where(inside, self._log_tails(*arguments)[1], jnp.where(x > 0, -jnp.inf, 0.0))

    def cdf(self, x: Array | float) -> Float[Array, "..."]:
        """Return P(X ≤ x)."""
        return jnp.exp(self.log_cdf(x))

    def sf(self, x: Array | float) -> Float[Array, "..."]:
        """Return P(X > x)."""
        return jnp.exp(self.log_sf(x))

    def icdf(self, q: Array | float) -> Float[Array, "..."]:
        """Return x with P(X ≤ x) = q, q in [0, 1]."""
        q, (loc, *shape) = self._aligned(q)
        safe = jnp.where((q > 0) & (q < 1), q, 0.5)
        x = jnp.exp(loc + self._log_quantile(safe, *shape))
        return jnp.where(q <= 0, 0.0, jnp.where(q >= 1, jnp.inf, x))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class LogNormal(_LogLocated):
    """``log X ~ N(loc, sigma²)``, sigma > 0."""

    sigma: Float[Array, "..."]

    def _log_density(self, z: Array, sigma: Array) -> Array:
        return -0.5 * jnp.square(z / sigma) - jnp.log(sigma) - 0.5 * math.log(2.0 * math.pi)

    def _log_tails(self, z: Array, sigma: Array) -> tuple[Array, Array]:
        return jax.scipy.special.log_ndtr(z / sigma), jax.scipy.special.log_ndtr(-z / sigma)

    def _log_quantile(self, q: Array, sigma: Array) -> Array:
        return sigma * jax.scipy.special.ndtri(q)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Lomax(_LogLocated):
    """``P(X > x) = (1 + x/λ)^(−α)``, λ = exp(loc) > 0, α > 0: a Pareto tail on the whole half-line."""

    alpha: Float[Array, "..."]

    def _log_density(self, z: Array, alpha: Array) -> Array:
        return jnp.log(alpha) + z - (alpha + 1.0) * jax.nn.softplus(z)

    def _log_tails(self, z: Array, alpha: Array) -> tuple[Array, Array]:
        log_sf = -alpha * jax.nn.softplus(z)
        return jnp.log(-jnp.expm1(jnp.minimum(log_sf, -jnp.finfo(z.dtype).tiny))), log_sf

    def _log_quantile(self, q: Array, alpha: Array) -> Array:
        return jnp.log(jnp.expm1(-jnp.log1p(-q) / alpha))
