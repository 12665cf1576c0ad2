"""How well a distribution describes the nonzero values of a histogram, and which family does it best.

Everything is computed on the histogram's bins, which know the empirical distribution function exactly at their edges
(128 per octave); nothing needs the samples.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from ggdjax._errors import GgdjaxError, expect, near_matches
from ggdjax.ggd._bins import Bins
from ggdjax.ggd._families import FAMILIES, Distribution, FittedFamily, fit_bins, scaled
from ggdjax.ggd._histogram import Histogram, Side
from ggdjax.ggd._special import expm1_remainder, log1mexp

#: Where the smaller tail changes by less than this share across a bin, the bin's probability is density at the centre
#: times width (relative error of order the square, 1e-5); elsewhere the difference of the tail, which keeps its digits.
_NARROW = 0.02
#: exp() of minus this is a normal number in float32.
_LARGEST_LOG = 87.0
#: Stands in for the logarithm of a probability that is zero.
_LOG_ZERO = -1e4


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class GoodnessOfFit:
    """Distances of a fit f, with distribution function F, from the empirical F̂ of n nonzero values. Smaller is better.

    For samples of f itself: ``√n · kolmogorov_smirnov`` is distributed as Kolmogorov found, ``n · anderson_darling`` as
    Anderson and Darling did (mean 1), and ``kl`` has the mean (occupied bins − 1)/2n. Values of a feature map are not
    independent, so n says less than it seems; differences between distributions on the same histogram are what to read.
    """

    kolmogorov_smirnov: Float[Array, "..."]
    """``sup |F̂ − F|`` over the edges of occupied bins."""
    anderson_darling: Float[Array, "..."]
    """``∫ (F̂ − F)² / (F (1 − F)) dF``: the statistic A² divided by n; weights both tails."""
    kl: Float[Array, "..."]
    """``Σ p̂_b log(p̂_b / p_b)`` over the bins, nats per value; n times it is half the G statistic."""
    aic: Float[Array, "..."]
    """``(2 k − 2 log L) / n``: Akaike's criterion per value, k the number of parameters (Akaike 1974)."""
    bic: Float[Array, "..."]
    """``(k log n − 2 log L) / n``: Schwarz's criterion per value (Schwarz 1978)."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class FamilyComparison:
    """Goodness of fit of every family on every tensor; leaves of `goodness` have axes ``family`` + batch."""

    families: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    goodness: GoodnessOfFit
    fitted: tuple[FittedFamily, ...]
    """The fits, in the order of `families`."""

    def best(self, criterion: str) -> Int[Array, "..."]:
        """Return the index of the winning family per tensor; `criterion` names a field of `GoodnessOfFit`."""
        known = [field.name for field in dataclasses.fields(GoodnessOfFit)]
        if criterion not in known:
            raise GgdjaxError(f"`criterion` is {criterion!r}: {near_matches(criterion, known)}")
        return jnp.argmin(getattr(self.goodness, criterion), axis=0)

    def wins(self, criterion: str) -> dict[str, int]:
        """Return how many tensors that have data each family wins."""
        best = np.asarray(self.best(criterion))[np.asarray(self.fitted[0].count) > 0]
        return {name: int((best == i).sum()) for i, name in enumerate(self.families)}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class QuantilePairs:
    """Points of a QQ plot; axes ``level`` + batch."""

    level: Float[Array, " level"]
    data: Float[Array, "level ..."]
    """Quantiles of the histogram, in the data's units, interpolated inside a bin: relative error below the width of a
    bin, 2⁻⁷ from the largest value nine octaves down, 2⁻⁶ in the next eight."""
    model: Float[Array, "level ..."]
    """Quantiles of the fitted distribution."""


def goodness_of_fit(histogram: Histogram, fitted: FittedFamily, *, side: Side = "auto") -> GoodnessOfFit:
    """Return the distances between a histogram's nonzero values and a distribution fitted to them (by `fit_family`).

    One distribution per tensor of the histogram. `fitted` may stem from another histogram, for example from calibration
    images while `histogram` is that of held-out ones.
    """
    expect("histogram", histogram, "Histogram")
    expect("fitted", fitted, "FittedFamily")
    return _judge(histogram.compress(side), fitted)


def compare_families(
    histogram: Histogram, families: tuple[str, ...] | None = None, *, side: Side = "auto"
) -> FamilyComparison:
    """Fit several families (default: all of `FAMILIES`) to every tensor and evaluate each fit by every criterion.

    For example ``compare_families(histogram).wins("bic")`` counts the tensors that each family wins.
    """
    expect("histogram", histogram, "Histogram")
    families = tuple(FAMILIES if families is None else families)
    for name in families:
        if name not in FAMILIES:
            raise GgdjaxError(f"`families` names {name!r}: {near_matches(name, FAMILIES)}")
    bins = histogram.compress(side)
    fitted = tuple(fit_bins(bins, name=name) for name in families)
    goodness = [_judge(bins, one) for one in fitted]
    return FamilyComparison(
        families=families, goodness=jax.tree.map(lambda *leaves: jnp.stack(leaves), *goodness), fitted=fitted
    )


def quantile_pairs(
    histogram: Histogram, fitted: FittedFamily, levels: ArrayLike, *, side: Side = "auto"
) -> QuantilePairs:
    """Return the quantiles of the histogram's nonzero values and of the fitted distribution at levels in (0, 1)."""
    expect("histogram", histogram, "Histogram")
    expect("fitted", fitted, "FittedFamily")
    levels = jnp.asarray(levels, jnp.float32)
    if levels.ndim != 1 or not bool(jnp.all((levels > 0) & (levels < 1))):
        raise GgdjaxError("`levels` must be a vector of numbers in (0, 1)")
    bins = histogram.compress(side)
    return QuantilePairs(level=levels, data=_quantiles(bins, levels), model=_model_quantiles(fitted, levels))


@jax.jit
def _model_quantiles(fitted: FittedFamily, levels: Float[Array, " level"]) -> Float[Array, "level ..."]:
    return fitted.distribution.icdf(levels.reshape(-1, *[1] * fitted.count.ndim))


@jax.jit
def _quantiles(bins: Bins, levels: Float[Array, " level"]) -> Float[Array, "level ..."]:
    ordered = _ordered(bins)
    cumulative = jnp.cumsum(ordered.weight, axis=-1)
    total = jnp.maximum(cumulative[..., -1:], 1.0)

    def at(level: Array) -> Array:
        target = level * total
        inside = (cumulative < target).astype(jnp.int32).sum(-1, keepdims=True)
        inside = jnp.minimum(inside, bins.weight.shape[-1] - 1)
        low, high, weight, upto = (
            jnp.take_along_axis(v, inside, axis=-1)[..., 0]
            for v in (ordered.lower, ordered.upper, ordered.weight, cumulative)
        )
        above = (upto - target[..., 0]) / jnp.maximum(weight, 1.0)
        return high - jnp.clip(above, 0.0, 1.0) * (high - low)

    return jax.lax.map(at, levels)


def _ordered(bins: Bins) -> Bins:
    """Return the bins from the smallest value to the largest."""
    order = jnp.argsort(bins.log_x, axis=-1)
    fields = {
        name: jnp.take_along_axis(getattr(bins, name), order, axis=-1) for name in ("weight", "log_x", "lower", "upper")
    }
    return dataclasses.replace(bins, **fields)


def _judge(bins: Bins, fitted: FittedFamily) -> GoodnessOfFit:
    distances, log_likelihood, count = _assess(bins, fitted.distribution)
    parameters = float(FAMILIES[fitted.family].parameters)
    return GoodnessOfFit(
        **distances,
        aic=2.0 * (parameters / count - log_likelihood),
        bic=parameters * jnp.log(count) / count - 2.0 * log_likelihood,
    )


@jax.jit
def _assess(bins: Bins, dist: Distribution) -> tuple[dict[str, Array], Array, Array]:
    """Return the distances, the mean log-density and the number of values; compiled once per class of distribution."""
    bins = _ordered(bins)
    count = jnp.maximum(bins.weight.sum(-1), 1.0)
    share = bins.weight / count[..., None]
    occupied = bins.weight > 0
    # Sums from both ends: each tail keeps its digits.
    below = jnp.cumsum(share, axis=-1)
    above = jnp.flip(jnp.cumsum(jnp.flip(share, -1), axis=-1), -1)

    # Relative to the scale of the bins, so that nothing leaves the range of float32.
    dist = scaled(dist, -bins.log_scale)
    scale = jnp.exp(jnp.clip(bins.log_scale, -_LARGEST_LOG, _LARGEST_LOG))[..., None]
    lower, upper, centre = bins.lower / scale, bins.upper / scale, jnp.exp(bins.log_x)
    points = jnp.stack([jnp.moveaxis(x, -1, 0) for x in (lower, upper, centre)])
    lower_cdf, upper_cdf, log_cdf = jnp.moveaxis(dist.log_cdf(points), 1, -1)
    lower_sf, upper_sf, log_sf = jnp.moveaxis(dist.log_sf(points), 1, -1)
    log_density = jnp.moveaxis(dist.log_prob(points[2]), 0, -1)

    # Kolmogorov–Smirnov: F̂ is exact at the edges.
    at_upper = jnp.abs(jnp.exp(upper_cdf) - below)
    at_lower = jnp.abs(jnp.exp(lower_cdf) - (below - share))
    kolmogorov_smirnov = jnp.where(occupied, jnp.maximum(at_upper, at_lower), 0.0).max(-1)

    # Anderson–Darling. With F̂ continuous, ∫ (F̂ − F)²/(F(1 − F)) dF = 2 ∫ KL(Bernoulli(F̂) ‖ Bernoulli(F)) dF̂
    # (by parts; both ends vanish): a sum of positive terms, F̂ taken at the middle of a bin's values.
    middle_below, middle_above = below - 0.5 * share, above - 0.5 * share
    bernoulli = _divergence(middle_below, log_cdf) + _divergence(middle_above, log_sf)
    anderson_darling = 2.0 * jnp.where(occupied, share * bernoulli, 0.0).sum(-1)

    # Kullback–Leibler between the probabilities of the bins, each a difference of the smaller tail.
    left = upper_cdf < lower_sf
    small, large = jnp.where(left, lower_cdf, upper_sf), jnp.where(left, upper_cdf, lower_sf)
    change = jnp.where(large > -jnp.inf, small - jnp.where(large > -jnp.inf, large, 0.0), -1.0)
    narrow = change > -_NARROW
    # A point mass counts with the width of its histogram bin, 2⁻⁷ of the scale.
    width = jnp.where(upper > lower, upper - lower, 2.0**-7)
    by_difference = jnp.maximum(large, _LOG_ZERO) + log1mexp(jnp.where(narrow, -1.0, change))
    log_model = jnp.where(narrow, jnp.minimum(log_density + jnp.log(width), 0.0), by_difference)
    kl = jnp.where(occupied, share * (jnp.log(jnp.where(occupied, share, 1.0)) - log_model), 0.0).sum(-1)

    log_likelihood = jnp.where(occupied, share * log_density, 0.0).sum(-1) - bins.log_scale
    distances = {"kolmogorov_smirnov": kolmogorov_smirnov, "anderson_darling": anderson_darling, "kl": kl}
    return distances, log_likelihood, count


def _divergence(u: Float[Array, "... bin"], log_f: Float[Array, "... bin"]) -> Float[Array, "... bin"]:
    """Return ``u log(u / f) − u + f ≥ 0``; two of them, for both outcomes, are a Bernoulli divergence."""
    log_u = jnp.log(jnp.where(u > 0, u, 1.0))
    log_ratio = jnp.maximum(log_f, _LOG_ZERO) - log_u
    # f = u eʳ: u (eʳ − 1 − r)
    return jnp.where(u > 0, u * expm1_remainder(jnp.minimum(log_ratio, -log_u)), jnp.exp(log_f))
