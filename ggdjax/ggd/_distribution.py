"""The generalized gamma distribution (Stacy, Ann. Math. Stat. 33, 1962) as a batched pytree."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ggdjax._errors import GgdjaxError
from ggdjax.ggd._arrays import Real, as_real, is_concrete, pad_rank
from ggdjax.ggd._special import (
    cap_log_ratio,
    expm1_remainder,
    log1mexp,
    log_density,
    log_minus_digamma,
    log_ratio_quantile,
    log_tails,
    stirling_remainder,
)
from ggdjax.ggd._upper_gamma import log_upper_gamma

#: Below this order of the incomplete gamma function, moments go through `log_upper_gamma`.
_SMALLEST_ORDER = 1e-3


def _require_positive(**arguments: Array) -> None:
    """Raise on concrete parameters outside ``(0, ∞)``; traced ones cannot be looked at and pass."""
    for name, value in arguments.items():
        if not is_concrete(value):
            continue
        found = np.asarray(value)
        bad = ~((found > 0) & np.isfinite(found))
        if bad.any():
            raise GgdjaxError(f"`{name}` holds {found[bad].flat[0]}; expected a finite number > 0 in every element")


@jax.tree_util.register_pytree_with_keys_class
class GeneralizedGamma:
    """``f(x) = p / (aᵈ Γ(d/p)) · x^(d−1) · exp(−(x/a)ᵖ)``, x > 0; scale ``a > 0``, shape ``d > 0``, exponent ``p > 0``.

    Kept as ``(loc, d, p)`` with ``k = d/p`` and the log-location ``loc = log a + log(k)/p`` (Prentice's μ), because
    with ``w = p (log x − loc)``

        log f(x) = log p − log x + ½ log(k/2π) − δ(k) − k (eʷ − 1 − w)

    keeps its digits up to the log-normal boundary (p → 0, k → ∞), where ``a`` itself leaves the range of the type.
    Parameters broadcast against each other; arguments of methods broadcast against ``batch_shape``. All methods are
    differentiable in parameters and arguments, and finite or ±inf, never NaN, for any real argument.

    Example:
        >>> half_normal = gd.GeneralizedGamma(a=2.0**0.5, d=1.0, p=2.0)
        >>> round(float(half_normal.mean), 4)
        0.7979
    """

    __slots__ = ("d", "loc", "p")

    d: Float[Array, "..."]
    loc: Float[Array, "..."]
    p: Float[Array, "..."]

    def __init__(self, a: Real, d: Real, p: Real):
        a, d, p = as_real(a, d, p)
        _require_positive(a=a, d=d, p=p)
        rank = max(a.ndim, d.ndim, p.ndim)
        a, d, p = (pad_rank(v, rank) for v in (a, d, p))
        self._set(jnp.log(a) + jnp.log(d / p) / p, d, p)

    @classmethod
    def from_loc(cls, loc: Real, d: Real, p: Real) -> GeneralizedGamma:
        """Return the distribution with log-location ``loc = log a + log(d/p)/p``; exact where `a` would overflow.

        Raises GgdjaxError for concrete d or p outside ``(0, ∞)``.
        """
        loc, d, p = as_real(loc, d, p)
        _require_positive(d=d, p=p)
        self = object.__new__(cls)
        self._set(loc, d, p)
        return self

    def _set(self, loc: Array, d: Array, p: Array) -> None:
        shape = jnp.broadcast_shapes(loc.shape, d.shape, p.shape)
        for name, value in (("loc", loc), ("d", d), ("p", p)):
            object.__setattr__(self, name, jnp.broadcast_to(pad_rank(value, len(shape)), shape))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"GeneralizedGamma is immutable: cannot set `{name}`")

    def tree_flatten_with_keys(self) -> tuple[tuple, None]:
        """Return the leaves (loc, d, p) with their names."""
        keys = (jax.tree_util.GetAttrKey(n) for n in ("loc", "d", "p"))
        return tuple(zip(keys, (self.loc, self.d, self.p), strict=True)), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: tuple) -> GeneralizedGamma:
        """Rebuild from leaves of any kind (arrays, tracers, placeholders)."""
        self = object.__new__(cls)
        for name, value in zip(("loc", "d", "p"), leaves, strict=True):
            object.__setattr__(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"GeneralizedGamma(loc={self.loc}, d={self.d}, p={self.p})"

    def __getitem__(self, index: Any) -> GeneralizedGamma:
        return jax.tree.map(lambda leaf: leaf[index], self)

    # ------------------------------------------------------------ parameters

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Common shape of the parameters."""
        return self.d.shape

    @property
    def k(self) -> Float[Array, "..."]:
        """Shape ``d/p`` of the gamma distribution of ``(x/a)ᵖ``."""
        return self.d / self.p

    @property
    def log_a(self) -> Float[Array, "..."]:
        """Logarithm of the scale."""
        return self.loc - jnp.log(self.k) / self.p

    @property
    def a(self) -> Float[Array, "..."]:
        """Scale; under- or overflows near the log-normal boundary, where `loc` stays good."""
        return jnp.exp(self.log_a)

    def to_scipy(self) -> dict[str, Array]:
        """Return the arguments of ``scipy.stats.gengamma``: ``a`` (our k), ``c`` (our p), ``scale`` (our a)."""
        return {"a": self.k, "c": self.p, "scale": self.a}

    @classmethod
    def from_scipy(cls, a: Real, c: Real, scale: Real = 1.0) -> GeneralizedGamma:
        """Return ``scipy.stats.gengamma(a, c, scale=scale)``; a, c, scale > 0 (c < 0 is outside the family)."""
        a, c, scale = as_real(a, c, scale)
        _require_positive(a=a, c=c, scale=scale)
        rank = max(a.ndim, c.ndim, scale.ndim)
        a, c, scale = (pad_rank(v, rank) for v in (a, c, scale))
        return cls.from_loc(jnp.log(scale) + jnp.log(a) / c, a * c, c)

    def to_prentice(self) -> tuple[Array, Array, Array]:
        """Return Prentice's ``(μ, σ, Q)`` (Biometrika 61, 1974): ``μ = loc, Q = k^−½, σ = 1/(p √k)``."""
        root = jnp.sqrt(self.k)
        return self.loc, 1.0 / (self.p * root), 1.0 / root

    @classmethod
    def from_prentice(cls, mu: Real, sigma: Real, Q: Real) -> GeneralizedGamma:
        """Return the distribution with Prentice's parameters; σ, Q > 0 (Q → 0 is the log-normal)."""
        mu, sigma, Q = as_real(mu, sigma, Q)
        _require_positive(sigma=sigma, Q=Q)
        rank = max(mu.ndim, sigma.ndim, Q.ndim)
        mu, sigma, Q = (pad_rank(v, rank) for v in (mu, sigma, Q))
        return cls.from_loc(mu, 1.0 / (sigma * Q), Q / sigma)

    def size_biased(self, m: Real) -> GeneralizedGamma:
        """Return the distribution with density ∝ ``xᵐ f(x)``: the same a and p, shape ``d + m > 0``."""
        m, d = as_real(m, self.d)
        rank = max(m.ndim, d.ndim)
        m, d, p, loc = (pad_rank(v, rank) for v in (m, d, self.p, self.loc))
        # log a stays: loc' − log(k')/p = loc − log(k)/p
        return type(self).from_loc(loc + jnp.log1p(m / d) / p, d + m, p)

    # ------------------------------------------------------------ special cases

    @classmethod
    def exponential(cls, scale: Real) -> GeneralizedGamma:
        """Return ``exp(−x/scale)/scale``."""
        return cls(scale, 1.0, 1.0)

    @classmethod
    def gamma(cls, shape: Real, scale: Real) -> GeneralizedGamma:
        """Return the gamma distribution (p = 1)."""
        return cls(scale, shape, 1.0)

    @classmethod
    def weibull(cls, shape: Real, scale: Real) -> GeneralizedGamma:
        """Return the Weibull distribution (d = p = shape)."""
        return cls(scale, shape, shape)

    @classmethod
    def half_normal(cls, sigma: Real) -> GeneralizedGamma:
        """Return the distribution of ``|N(0, σ²)|``."""
        (sigma,) = as_real(sigma)
        _require_positive(sigma=sigma)
        return cls(sigma * math.sqrt(2.0), 1.0, 2.0)

    @classmethod
    def rayleigh(cls, sigma: Real) -> GeneralizedGamma:
        """Return the distribution of the length of a vector of two N(0, σ²)."""
        (sigma,) = as_real(sigma)
        _require_positive(sigma=sigma)
        return cls(sigma * math.sqrt(2.0), 2.0, 2.0)

    @classmethod
    def chi(cls, degrees: Real) -> GeneralizedGamma:
        """Return the distribution of the length of a vector of `degrees` N(0, 1)."""
        return cls(math.sqrt(2.0), degrees, 2.0)

    # ------------------------------------------------------------ density and tails

    def _align(self, *arguments: Real) -> tuple[GeneralizedGamma, tuple[Array, ...]]:
        """Return self and the arguments with one floating type and equal ranks."""
        loc, d, p, *rest = as_real(self.loc, self.d, self.p, *arguments)
        rank = max(d.ndim, *(r.ndim for r in rest))
        leaves = (pad_rank(v, rank) for v in (loc, d, p))
        return self.tree_unflatten(None, tuple(leaves)), tuple(pad_rank(r, rank) for r in rest)

    def _log_ratio(self, x: Array) -> tuple[Array, Array, Array]:
        """Return ``w = p (log x − loc)``, ``log x`` and where 0 < x < ∞ (elsewhere w = 0, log x = loc)."""
        inside = (x > 0) & (x < jnp.inf)
        # subnormal numbers count as the smallest normal one: XLA may flush them to zero
        safe = jnp.maximum(jnp.where(inside, x, 1.0), jnp.finfo(x.dtype).tiny)
        log_x = jnp.where(inside, jnp.log(safe), self.loc)
        return self.p * (log_x - self.loc), log_x, inside

    def log_prob(self, x: Real) -> Float[Array, "..."]:
        """Return log f(x); −inf for x < 0 and x = ∞, the right limit at 0 (−inf, finite or +inf for d >, =, < 1)."""
        g, (x,) = self._align(x)
        w, log_x, inside = g._log_ratio(x)
        value = jnp.log(g.p) - log_x + log_density(g.k, w)
        # f(0+) for d = 1: p / (a Γ(1/p)), with log a Γ(k)^(1/d)… in terms of loc: x^0 · p e^{−loc} √(k/2π) e^{k−δ}
        at_one = jnp.log(g.p) - g.loc + 0.5 * jnp.log(g.k / (2 * math.pi)) + g.k - stirling_remainder(g.k)
        at_zero = jnp.where(g.d > 1.0, -jnp.inf, jnp.where(g.d < 1.0, jnp.inf, at_one))
        return jnp.where(inside, value, jnp.where(x == 0, at_zero, -jnp.inf))

    def prob(self, x: Real) -> Float[Array, "..."]:
        """Return f(x)."""
        return jnp.exp(self.log_prob(x))

    def _log_tails(self, x: Real) -> tuple[Array, Array]:
        """Return log P(X ≤ x) and log P(X > x)."""
        g, (x,) = self._align(x)
        w, _, inside = g._log_ratio(x)
        log_p, log_q = log_tails(g.k, w)
        never, always = x <= 0, x == jnp.inf
        log_p = jnp.where(inside, log_p, jnp.where(always, 0.0, -jnp.inf))
        return log_p, jnp.where(inside, log_q, jnp.where(never, 0.0, -jnp.inf))

    def cdf(self, x: Real) -> Float[Array, "..."]:
        """Return P(X ≤ x); 0 for x ≤ 0."""
        return jnp.exp(self._log_tails(x)[0])

    def log_cdf(self, x: Real) -> Float[Array, "..."]:
        """Return log P(X ≤ x), accurate where the probability underflows; −inf for x ≤ 0."""
        return self._log_tails(x)[0]

    def sf(self, x: Real) -> Float[Array, "..."]:
        """Return P(X > x); 1 for x ≤ 0."""
        return jnp.exp(self._log_tails(x)[1])

    def log_sf(self, x: Real) -> Float[Array, "..."]:
        """Return log P(X > x), accurate where the probability underflows; 0 for x ≤ 0."""
        return self._log_tails(x)[1]

    def icdf(self, q: Real) -> Float[Array, "..."]:
        """Return x with P(X ≤ x) = q, q in [0, 1]: 0 at 0, inf at 1. Upper tails: see `isf`."""
        g, (q,) = self._align(q)
        safe = jnp.where((q > 0) & (q < 1), q, 0.5)
        x = g._quantile(jnp.log(safe), jnp.log1p(-safe))
        return jnp.where(q <= 0, 0.0, jnp.where(q >= 1, jnp.inf, x))

    def isf(self, q: Real) -> Float[Array, "..."]:
        """Return x with P(X > x) = q, q in [0, 1]: inf at 0, 0 at 1."""
        g, (q,) = self._align(q)
        safe = jnp.where((q > 0) & (q < 1), q, 0.5)
        x = g._quantile(jnp.log1p(-safe), jnp.log(safe))
        return jnp.where(q <= 0, jnp.inf, jnp.where(q >= 1, 0.0, x))

    def _quantile(self, log_p: Array, log_q: Array) -> Array:
        return jnp.exp(self.loc + log_ratio_quantile(self.k, log_p, log_q) / self.p)

    # ------------------------------------------------------------ moments

    def log_moment(self, r: Real) -> Float[Array, "..."]:
        """Return ``log E[xʳ] = r log a + log Γ(k + r/p) − log Γ(k)``; +inf where r ≤ −d.

        In terms of loc, with ``t = r/d`` and ``φ(t) = (1+t) log(1+t) − t``, the large parts cancel by hand:
        ``r loc + k φ(t) − ½ log(1+t) + δ(k + r/p) − δ(k)``.
        """
        g, (r,) = self._align(r)
        return r * g.loc + g._log_central_moment(r)

    def _log_central_moment(self, r: Array) -> Array:
        """Return ``log E[xʳ] − r loc``; r of the rank of the parameters."""
        t = r / self.d
        exists = t > -1.0
        log_1t = jnp.log1p(jnp.where(exists, t, 0.0))
        # φ(t) = e^v (e^{−v} − 1 + v), v = log(1+t)
        phi = jnp.exp(log_1t) * expm1_remainder(-log_1t)
        k = self.k
        shifted = k * jnp.exp(log_1t)
        value = k * phi - 0.5 * log_1t + stirling_remainder(shifted) - stirling_remainder(k)
        return jnp.where(exists, value, jnp.inf)

    def moment(self, r: Real) -> Float[Array, "..."]:
        """Return E[xʳ], r > −d real (inf below)."""
        return jnp.exp(self.log_moment(r))

    def log_upper_moment(self, x: Real, r: Real) -> Float[Array, "..."]:
        """Return ``log ∫ₓ^∞ tʳ f(t) dt = log E[tʳ] + log Q(k + r/p, (x/a)ᵖ)``.

        Any real r for x > 0 (r ≤ −d through ``Γ(k + r/p, (x/a)ᵖ)``); for x ≤ 0 it is `log_moment`.
        """
        regular = self._log_partial_moments(x, r)[1]
        if isinstance(r, int | float) and r >= 0:
            return regular
        g, (x, r) = self._align(x, r)
        order = (g.d + r) / g.p
        singular = order <= _SMALLEST_ORDER
        w, _, inside = g._log_ratio(x)
        log_k = jnp.log(g.k)
        outside = r * (g.loc - log_k / g.p) - jax.lax.lgamma(g.k)
        value = outside + log_upper_gamma(jnp.where(singular, order, 0.0), cap_log_ratio(g.k, w) + log_k)
        at_edge = jnp.where(x <= 0, jnp.inf, -jnp.inf)
        return jnp.where(singular, jnp.where(inside, value, at_edge), regular)

    def _log_partial_moments(self, x: Real, r: Real) -> tuple[Array, Array]:
        """Return the logarithms of ``∫₀ˣ`` and ``∫ₓ^∞`` of ``tʳ f(t) dt``, both +inf for r ≤ −d."""
        g, (x, r) = self._align(x, r)
        total = r * g.loc + g._log_central_moment(r)
        r = jnp.where(r / g.d > -1.0, r, 0.0)
        biased = self.tree_unflatten(None, (g.loc + jnp.log1p(r / g.d) / g.p, g.d + r, g.p + 0.0 * r))
        log_p, log_q = biased._log_tails(x)
        return total + log_p, total + log_q

    def upper_moment(self, x: Real, r: Real) -> Float[Array, "..."]:
        """Return ``∫ₓ^∞ tʳ f(t) dt``, any real r for x > 0."""
        return jnp.exp(self.log_upper_moment(x, r))

    def lower_moment(self, x: Real, r: Real) -> Float[Array, "..."]:
        """Return ``∫₀ˣ tʳ f(t) dt``, r > −d; 0 for x ≤ 0."""
        return jnp.exp(self._log_partial_moments(x, r)[0])

    @property
    def mean(self) -> Float[Array, "..."]:
        """E[x]."""
        return self.moment(1.0)

    @property
    def variance(self) -> Float[Array, "..."]:
        """``E[x²] − E[x]² = E[x²] (1 − e^{−v})``, ``v = log E[x²] − 2 log E[x]``."""
        first = self._log_central_moment(jnp.ones_like(self.d))
        second = self._log_central_moment(jnp.full_like(self.d, 2.0))
        v = jnp.maximum(second - 2.0 * first, jnp.finfo(first.dtype).tiny)
        return jnp.exp(2.0 * self.loc + second + log1mexp(-v))

    @property
    def mean_log(self) -> Float[Array, "..."]:
        """``E[log x] = log a + ψ(k)/p``."""
        return self.loc - log_minus_digamma(self.k) / self.p

    @property
    def mode(self) -> Float[Array, "..."]:
        """Place of the largest density: ``a ((d−1)/p)^(1/p)``, 0 for d ≤ 1."""
        interior = self.d > 1.0
        d = jnp.where(interior, self.d, 2.0)
        return jnp.where(interior, jnp.exp(self.loc + jnp.log1p(-1.0 / d) / self.p), 0.0)

    @property
    def entropy(self) -> Float[Array, "..."]:
        """``−E[log f(x)]`` in nats: ``E[log x] − log p − ½ log(k/2π) + δ(k) + k (log k − ψ(k))``."""
        k = self.k
        spread = k * log_minus_digamma(k) + stirling_remainder(k)
        return self.mean_log - jnp.log(self.p) - 0.5 * jnp.log(k / (2 * math.pi)) + spread

    def kl_divergence(self, other: GeneralizedGamma) -> Float[Array, "..."]:
        """Return ``E[log f(x) − log g(x)]`` in nats, f = self, g = other; batch shapes broadcast.

        Closed form; with ``v = q (log x − loc_g)``, q and k_g those of g,
        ``−E[log g] = E[log x] − log q − ½ log(k_g/2π) + δ(k_g) + k_g (E[eᵛ] − 1 − E[v])``.
        """
        f, (loc, d, q) = self._align(other.loc, other.d, other.p)
        k, k_g = f.k, d / q
        exponent = q * (f.loc - loc) + f._log_central_moment(q)
        mean_v = q * (f.mean_log - loc)
        value = (
            jnp.log(f.p / q)
            + 0.5 * jnp.log(k / k_g)
            + stirling_remainder(k_g)
            - stirling_remainder(k)
            - k * log_minus_digamma(k)
            + k_g * (jnp.expm1(exponent) - mean_v)
        )
        return jnp.maximum(value, 0.0)  # rounding may leave −1e-7 where the two agree

    # ------------------------------------------------------------ sampling

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Return independent draws of shape ``shape + batch_shape``: ``a U^(1/p)``, U ~ Gamma(k), in logarithms."""
        log_u = jax.random.loggamma(key, self.k, (*shape, *self.batch_shape), self.d.dtype)
        rank = len(shape) + self.d.ndim
        k, loc, p = (pad_rank(v, rank) for v in (self.k, self.loc, self.p))
        return jnp.exp(loc + (log_u - jnp.log(k)) / p)
