"""A density known through its size-biased fit: exact where ``xᵐ f(x)`` has its mass, which is the tail for m > 0."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ggdjax._errors import expect
from ggdjax.ggd._arrays import as_real, pad_rank
from ggdjax.ggd._distribution import GeneralizedGamma

#: Smallest shape of a de-biased distribution: where the fit of xᵐ f has d' ≤ m, x^(d'−m−1) is no density at 0.
SMALLEST_SHAPE = 0.05


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class TailWeighted:
    """``f(x) ≈ μₘ x^(−m) g(x)``, x > 0, with g the fit of the size-biased density ``xᵐ f(x)/μₘ``.

    If f is generalized gamma (a, d, p), then g is (a, d + m, p) and the relation is exact. m = 0, μₘ = 1 is a plain
    distribution. The three fields have one batch shape.
    """

    #: g, with shape d' (= d + m where the family holds).
    distribution: GeneralizedGamma
    #: m ≥ 0.
    order: Float[Array, "..."]
    #: ``log μₘ = log E[xᵐ]``, measured on the data, not taken from g.
    log_moment: Float[Array, "..."]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Common shape of the fields."""
        return self.distribution.batch_shape

    def __getitem__(self, index: object) -> TailWeighted:
        return jax.tree.map(lambda leaf: leaf[index], self)

    def log_density(self, x: Float[Array, "..."] | float) -> Float[Array, "..."]:
        """Return ``log(μₘ x^(−m) g(x))``; −inf for x ≤ 0. Its integral is 1 only where the family holds."""
        x, order, log_moment = as_real(x, self.order, self.log_moment)
        rank = max(x.ndim, order.ndim)
        x, order, log_moment = (pad_rank(v, rank) for v in (x, order, log_moment))
        inside = (x > 0) & (x < jnp.inf)
        log_x = jnp.log(jnp.where(inside, jnp.maximum(x, jnp.finfo(x.dtype).tiny), 1.0))
        value = log_moment - order * log_x + self.distribution.log_prob(jnp.where(inside, x, 1.0))
        return jnp.where(inside, value, -jnp.inf)

    def log_upper_moment(self, x: Float[Array, "..."] | float, r: Float[Array, "..."] | float) -> Float[Array, "..."]:
        """Return ``log ∫ₓ^∞ tʳ f(t) dt = log μₘ + log ∫ₓ^∞ t^(r−m) g(t) dt``, x > 0, any real r."""
        r, order, log_moment = as_real(r, self.order, self.log_moment)
        rank = max(r.ndim, order.ndim)
        r, order, log_moment = (pad_rank(v, rank) for v in (r, order, log_moment))
        value = self.distribution.log_upper_moment(x, r - order)
        return pad_rank(log_moment, value.ndim) + value

    def upper_moment(self, x: Float[Array, "..."] | float, r: Float[Array, "..."] | float) -> Float[Array, "..."]:
        """Return ``∫ₓ^∞ tʳ f(t) dt``, x > 0, any real r."""
        return jnp.exp(self.log_upper_moment(x, r))

    def as_ggd(self) -> GeneralizedGamma:
        """Return the de-biased distribution (a, max(d' − m, SMALLEST_SHAPE), p)."""
        g = self.distribution
        d = jnp.maximum(g.d - self.order, SMALLEST_SHAPE)
        return GeneralizedGamma.from_loc(g.loc + jnp.log(d / g.d) / g.p, d, g.p)


def as_tail(source: GeneralizedGamma | TailWeighted) -> TailWeighted:
    """Return a plain distribution as the TailWeighted of order 0; a TailWeighted as it is."""
    expect("source", source, "GeneralizedGamma", "TailWeighted")
    if isinstance(source, TailWeighted):
        return source
    zero = jnp.zeros_like(source.d)
    return TailWeighted(distribution=source, order=zero, log_moment=zero)
