"""Other families fitted by maximum likelihood to the same histogram, with the same interface as the GGD.

All describe the nonzero magnitudes x > 0; for a two-sided symmetric tensor that is the two-sided family of the
other name (half-normal: Gaussian, exponential: Laplace). Every one but the Pareto-tailed and the log-normal is a
special case of the generalized gamma distribution, and is returned as one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ggdjax._errors import GgdjaxError, expect, near_matches
from ggdjax.ggd._baselines import LogNormal, Lomax
from ggdjax.ggd._bins import Bins
from ggdjax.ggd._distribution import GeneralizedGamma
from ggdjax.ggd._histogram import Histogram, Side
from ggdjax.ggd._profile import P_MAX, P_MIN, solve_shape
from ggdjax.ggd._weighted_fit import fit_weighted

Distribution = GeneralizedGamma | LogNormal | Lomax

#: Smallest gap ``log E[x] − E[log x]`` and deviation of log x: bins are 2⁻⁷ wide, nothing narrower can be seen.
_NARROWEST = 1e-6
#: Points of the grid that finds the global maximum of a one-dimensional profile, then halvings of its bracket:
#: 25 bring a bracket of two grid steps (0.6 in log p) below the rounding of float32.
_GRID_POINTS, _HALVINGS = 24, 25
#: Range of λ of the Lomax distribution in units of the geometric mean; at its upper end it is an exponential.
_LAMBDA_MIN, _LAMBDA_MAX = 1e-3, 1e5


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of distributions on x > 0 and its maximum-likelihood fit."""

    name: str
    """Registered name."""
    parameters: int
    """Number of free parameters, for AIC and BIC."""
    fit: Callable[[Array, Array], Distribution]
    """From centred logarithms (weighted mean 0) and weights of sum 1, last axis bins, to the fitted distribution."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class FittedFamily:
    """A fitted distribution per tensor."""

    family: str = dataclasses.field(metadata={"static": True})
    """Name of the family, a key of `FAMILIES`."""
    distribution: Distribution
    """The fitted distributions, in the units of the data; batch shape of the histogram."""
    log_likelihood: Float[Array, "..."]
    """Mean log-density per nonzero value, nats."""
    count: Float[Array, "..."]
    """Number of nonzero values."""


def fit_family(histogram: Histogram, name: str, *, side: Side = "auto") -> FittedFamily:
    """Fit another family by maximum likelihood to the nonzero values of every tensor, in one compiled call.

    Values count at the centres of the histogram's bins, as in `fit`. Constant data give the narrowest fit that the
    bins can show, no data a harmless one: no parameter is ever NaN. Not differentiable in the counts.

    Args:
        histogram: one tensor per batch element.
        name: a key of `FAMILIES`.
        side: as in `fit`.

    Raises:
        GgdjaxError: unknown name or side.
    """
    expect("histogram", histogram, "Histogram")
    if name not in FAMILIES:
        raise GgdjaxError(f"`name` is {name!r}: {near_matches(name, FAMILIES)}")
    return fit_bins(histogram.compress(side), name=name)


@partial(jax.jit, static_argnames="name")
def fit_bins(bins: Bins, *, name: str) -> FittedFamily:
    """Fit a family to one side of a histogram in compressed form."""
    c, share, center = centred(bins)
    dist = FAMILIES[name].fit(c, share)
    log_density = dist.log_prob(jnp.exp(jnp.moveaxis(c, -1, 0)))
    log_likelihood = jnp.where(share > 0, share * jnp.moveaxis(log_density, 0, -1), 0.0).sum(-1)
    count = bins.weight.sum(-1)
    shift = center + bins.log_scale
    return FittedFamily(
        family=name,
        distribution=scaled(dist, shift),
        log_likelihood=jnp.where(count > 0, log_likelihood - shift, 0.0),
        count=count,
    )


def centred(bins: Bins) -> tuple[Float[Array, "... bin"], Float[Array, "... bin"], Float[Array, "..."]]:
    """Return log x minus its weighted mean (0 in empty bins), weights of sum 1, and that mean relative to the scale."""
    total = bins.weight.sum(-1, keepdims=True)
    # Without data: one point of weight 1, so that everything below stays finite.
    first = jnp.arange(bins.weight.shape[-1]) == 0
    first = jnp.broadcast_to(first.astype(total.dtype), bins.weight.shape)
    share = jnp.where(total > 0, bins.weight / jnp.maximum(total, 1.0), first)
    center = (share * bins.log_x).sum(-1, keepdims=True)
    center = center + (share * (bins.log_x - center)).sum(-1, keepdims=True)
    return jnp.where(share > 0, bins.log_x - center, 0.0), share, center[..., 0]


def scaled(dist: Distribution, log_factor: Float[Array, "..."]) -> Distribution:
    """Return the distribution of ``x · exp(log_factor)``: in every family here a shift of `loc`."""
    if isinstance(dist, GeneralizedGamma):
        return GeneralizedGamma.tree_unflatten(None, (dist.loc + log_factor, dist.d, dist.p))
    return dataclasses.replace(dist, loc=dist.loc + log_factor)


# ------------------------------------------------------------------------------------- the fits


def _log_mean_exp(t: Array, c: Array, share: Array) -> Array:
    """Return ``log E[e^(t c)]`` for t of the batch shape."""
    exponent = t[..., None] * c
    top = lax.stop_gradient(exponent.max(-1, keepdims=True))
    return jnp.log((share * jnp.exp(exponent - top)).sum(-1)) + top[..., 0]


def _mean_power(power: float, c: Array, share: Array) -> Array:
    return _log_mean_exp(jnp.full(c.shape[:-1], power, c.dtype), c, share)


def _of_log_a(log_a: Array, d: Array, p: Array) -> GeneralizedGamma:
    d, p = (jnp.broadcast_to(v, log_a.shape) for v in (d, p))
    return GeneralizedGamma.tree_unflatten(None, (log_a + jnp.log(d / p) / p, d, p))


def _maximize(profile: Callable[[Array], Array], low: float, high: float, shape: tuple[int, ...], dtype) -> Array:
    """Return the θ of largest profile log-likelihood on [low, high]: best point of a grid, then halving on its slope.

    The slope keeps its digits at the maximum, where differences of the value have lost theirs.
    """
    grid = jnp.linspace(low, high, _GRID_POINTS, dtype=dtype)
    values = lax.map(lambda theta: profile(jnp.broadcast_to(theta, shape)), grid)
    best = jnp.argmax(values, axis=0)
    bracket = tuple(grid[jnp.clip(best + i, 0, _GRID_POINTS - 1)] for i in (-1, 1))

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = 0.5 * (bracket[0] + bracket[1])
        rising = jax.jvp(profile, (middle,), (jnp.ones_like(middle),))[1] > 0
        return jnp.where(rising, middle, bracket[0]), jnp.where(rising, bracket[1], middle)

    low, high = lax.fori_loop(0, _HALVINGS, halve, bracket)
    return 0.5 * (low + high)


def _half_normal(c: Array, share: Array) -> GeneralizedGamma:
    return _of_log_a(0.5 * (_mean_power(2.0, c, share) + math.log(2.0)), jnp.ones(()), jnp.full((), 2.0))


def _exponential(c: Array, share: Array) -> GeneralizedGamma:
    return _of_log_a(_mean_power(1.0, c, share), jnp.ones(()), jnp.ones(()))


def _gamma(c: Array, share: Array) -> GeneralizedGamma:
    """Shape k: ``log k − ψ(k) = log E[x] − E[log x]``; scale E[x]/k."""
    log_mean = _mean_power(1.0, c, share)
    k, _ = solve_shape(jnp.maximum(log_mean, _NARROWEST))
    return _of_log_a(log_mean - jnp.log(k), k, jnp.ones(()))


def _weibull(c: Array, share: Array) -> GeneralizedGamma:
    """Scale ``aᵖ = E[xᵖ]``; what is left is ``log p − log E[xᵖ] + p E[log x]``, concave in log p."""
    log_p = _maximize(
        lambda log_p: log_p - _log_mean_exp(jnp.exp(log_p), c, share),
        math.log(P_MIN),
        math.log(P_MAX),
        c.shape[:-1],
        c.dtype,
    )
    p = jnp.exp(log_p)
    return _of_log_a(_log_mean_exp(p, c, share) / p, p, p)


def _generalized_normal(c: Array, share: Array) -> GeneralizedGamma:
    """Scale ``aᵖ = p E[xᵖ]``; what is left is ``log p − log a − log Γ(1/p) − 1/p``."""

    def log_a(log_p: Array) -> Array:
        return (log_p + _log_mean_exp(jnp.exp(log_p), c, share)) * jnp.exp(-log_p)

    def profile(log_p: Array) -> Array:
        inverse = jnp.exp(-log_p)
        return log_p - log_a(log_p) - lax.lgamma(inverse) - inverse

    log_p = _maximize(profile, math.log(P_MIN), math.log(P_MAX), c.shape[:-1], c.dtype)
    return _of_log_a(log_a(log_p), jnp.ones(()), jnp.exp(log_p))


def _log_normal(c: Array, share: Array) -> LogNormal:
    variance = (share * c * c).sum(-1)
    return LogNormal(loc=jnp.zeros_like(variance), sigma=jnp.sqrt(jnp.maximum(variance, _NARROWEST)))


def _pareto(c: Array, share: Array) -> Lomax:
    """Index ``1/α = E[log(1 + x/λ)]``; what is left is ``log α − log λ − 1/α``."""

    def inverse_alpha(log_lambda: Array) -> Array:
        return (share * jax.nn.softplus(c - log_lambda[..., None])).sum(-1)

    def profile(log_lambda: Array) -> Array:
        inverse = inverse_alpha(log_lambda)
        return -jnp.log(inverse) - log_lambda - inverse

    low, high = math.log(_LAMBDA_MIN), math.log(_LAMBDA_MAX)
    log_lambda = _maximize(profile, low, high, c.shape[:-1], c.dtype)
    return Lomax(loc=log_lambda, alpha=1.0 / inverse_alpha(log_lambda))


def _ggd(c: Array, share: Array) -> GeneralizedGamma:
    return fit_weighted(c, share).distribution


#: Every family, from the fewest parameters to the most.
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(name="half-normal", parameters=1, fit=_half_normal),
        Family(name="exponential", parameters=1, fit=_exponential),
        Family(name="gamma", parameters=2, fit=_gamma),
        Family(name="weibull", parameters=2, fit=_weibull),
        Family(name="log-normal", parameters=2, fit=_log_normal),
        Family(name="generalized-normal", parameters=2, fit=_generalized_normal),
        Family(name="pareto", parameters=2, fit=_pareto),
        Family(name="ggd", parameters=3, fit=_ggd),
    )
}
