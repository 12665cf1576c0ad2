"""The posterior of a tail-weighted fit, by NumPyro's NUTS on the histogram likelihood: how sure are (a, d, p)?

The density of log x has the parameters (loc, log σ, log Q) of Prentice (σ = 1/(p √k), Q = 1/√k), in which the
log-normal boundary is regular and the posterior close to normal. The fit maximizes the mean of the log-density
under weights ``x^m``; with N times that mean as the log-likelihood NUTS draws from

    exp( N Σ_b s_b log g(x_b; θ) ) · prior,      s_b ∝ count_b · x_b^m.

Values of one feature map are not independent (neighbouring pixels, one image), and weighted ones never count one
each, so N is not the number of values: with A minus the mean second derivative, and V the variance of the mean score,
``N = 3 / tr(A⁻¹V)`` (Pauli, Racugno and Ventura, Statistica Sinica 21, 2011), and the draws are then stretched so that
their covariance is the sandwich ``A⁻¹VA⁻¹`` (Shaby, J. Comp. Graph. Stat. 23, 2014). V is measured between splits of
the images where the histogram has them, so that the intervals say what other images would have given; otherwise as if
values were independent, times a given design effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, Key

from ggdjax._errors import GgdjaxError, expect
from ggdjax.ggd._bins import Bins
from ggdjax.ggd._distribution import GeneralizedGamma
from ggdjax.ggd._histogram import Histogram, Side
from ggdjax.ggd._special import log_density
from ggdjax.ggd._tail import TailWeighted
from ggdjax.ggd._weighted_fit import FitCode, FitResult, checked_order, fit_weighted

#: Standard deviations of the normal prior of (loc − that of the fit, log σ, log Q): p and the spread of log x lie
#: within a factor 20 of 1 (two deviations), the place is as good as free.
_PRIOR = (10.0, 1.5, 1.5)
#: NUTS runs with at most this many values: float32 then leaves 1e-2 nats of noise in the log-likelihood. Beyond it
#: the posterior is normal, and the stretching to the sandwich covariance sets its width.
_MOST_VALUES = 1e5
#: Pseudo-observations by which the covariance measured between few splits is drawn towards a multiple of A⁻¹.
_SHRINKAGE = 3.0
#: Bins put together in two points for the chain (the curvature and the scores use all bins).
_GROUP = 16
#: Smallest share of the largest curvature that a direction is taken to have.
_FLATTEST = 1e-5


class Interval(NamedTuple):
    """A credible interval with equal tails, and the median."""

    lower: Float[Array, "..."]
    median: Float[Array, "..."]
    upper: Float[Array, "..."]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Posterior:
    """Draws from the posterior of a fit."""

    tail: TailWeighted
    """The drawn fits, batch shape ``draw`` + that of the histogram (without its splits): what steps accept."""
    effective_count: Float[Array, "..."]
    """N: how many independent values the data are worth; 0 where they do not determine a fit (prior only)."""
    effective_draws: Float[Array, "..."]
    """How many independent draws the chain is worth: the smallest of the three parameters'."""
    divergences: Int[Array, ""]
    """Draws after which the integrator diverged; more than a few: do not trust the tails."""

    @property
    def distribution(self) -> GeneralizedGamma:
        """The drawn fits brought back from the size-biased density."""
        return self.tail.as_ggd()

    def interval(self, function: Callable[[TailWeighted], Array], level: float = 0.9) -> Interval:
        """Return the credible interval of any function of the fit.

        Args:
            function: from the drawn `tail` to an array with the draws on its first axis.
            level: posterior probability inside, in (0, 1).

        For example ``sample_posterior(histogram, key).interval(lambda tail: closed_form_step(tail, bits=8))``.
        """
        if not 0.0 < level < 1.0:
            raise GgdjaxError(f"`level` is {level}; expected a probability in (0, 1)")
        values = jnp.asarray(function(self.tail))
        return Interval(*jnp.quantile(values, jnp.array([0.5 - 0.5 * level, 0.5, 0.5 + 0.5 * level]), axis=0))


def sample_posterior(
    histogram: Histogram,
    key: Key[Array, ""],
    *,
    order: ArrayLike = 2,
    side: Side = "auto",
    split_axis: int | None = None,
    design_effect: ArrayLike = 1.0,
    draws: int = 500,
    warmup: int = 300,
) -> Posterior:
    """Sample the posterior of the fit of every tensor: one NUTS chain over all tensors at once, compiled once.

    Args:
        histogram: one tensor per batch element.
        key: the chain's random key.
        order: the order m ≥ 0 of the weights: one number, or one per tensor.
        side: as in `fit`.
        split_axis: batch axis of splits of the images (at least 4, better 16, of equal size): what differs between
            them is the uncertainty. Without it values count as independent, but for ``design_effect``; those of large
            feature maps are far from it, and intervals too narrow by a factor of ten and more.
        design_effect: without splits, by which factor the number of values overstates what they tell, at least 1: one
            number, or one per tensor. `Calibration.design_effect` measures it between images, so that N counts images.
        draws: kept draws.
        warmup: draws before them, which adapt the step size.

    Raises:
        GgdjaxError: unknown side, an order as in `fit`, `split_axis` without at least 4 splits, a `design_effect` below
            1 or beside splits, no draws.
    """
    expect("histogram", histogram, "Histogram")
    if draws < 1 or warmup < 1:
        raise GgdjaxError(f"`draws` is {draws} and `warmup` {warmup}; expected at least 1 of each")
    effect = np.asarray(design_effect, np.float32)
    if not (effect >= 1.0).all() or (split_axis is not None and (effect != 1.0).any()):
        raise GgdjaxError(f"`design_effect` is {design_effect}; expected at least 1, and 1 with `split_axis`")
    if split_axis is None:
        parts, whole = None, histogram.compress(side)
    else:
        merged, aligned = histogram.aligned_splits(split_axis, fewest=4)
        whole = merged.compress(side)
        parts = jnp.moveaxis(aligned.compress(side).weight, split_axis, 0)
    batch = whole.log_scale.shape
    order = checked_order(order, batch, jnp.float32)
    effect = np.broadcast_to(effect, batch).reshape(-1)
    bins, order = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(batch) :]), (whole, order))
    if parts is not None:
        parts = parts.reshape(parts.shape[0], -1, parts.shape[-1])
    result = fit_weighted(bins.log_x, bins.weight, order)  # relative to the scale of the bins
    # NumPyro's sampler relies on implicit promotion.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        tail, effective, coordinates, diverging = _sample(bins, result, parts, effect, key, draws=draws, warmup=warmup)
    shaped = jax.tree.map(lambda leaf: leaf.reshape(draws, *batch), tail)
    return Posterior(
        tail=shaped,
        effective_count=effective.reshape(batch),
        effective_draws=_effective_draws(np.asarray(coordinates)).reshape(batch),
        divergences=diverging.sum(),
    )


def _effective_draws(coordinates: np.ndarray) -> Array:
    """Return the effective number of draws of ``draw tensor parameter``, the worst parameter per tensor."""
    from numpyro.diagnostics import effective_sample_size

    if coordinates.shape[0] < 4:
        return jnp.full(coordinates.shape[1], float(coordinates.shape[0]))
    return jnp.asarray(effective_sample_size(coordinates[None]).min(-1), jnp.float32)


# --------------------------------------------------------------------------------- one flat batch of tensors


def _to_prentice(loc: Array, d: Array, p: Array) -> Array:
    k = d / p
    return jnp.stack([loc, -jnp.log(p) - 0.5 * jnp.log(k), -0.5 * jnp.log(k)], axis=-1)


def _from_prentice(theta: Float[Array, "... 3"]) -> tuple[Array, Array, Array]:
    """Return loc, k, p."""
    return theta[..., 0], jnp.exp(-2.0 * theta[..., 2]), jnp.exp(theta[..., 2] - theta[..., 1])


def _log_density(theta: Float[Array, "3"], c: Float[Array, " bin"]) -> Float[Array, " bin"]:
    """Return the log-density of c = log x (in w: `log_density`, times dw/dc = p)."""
    loc, k, p = _from_prentice(theta)
    return jnp.log(p) + log_density(k[None], p * (c - loc))


@partial(jax.jit, static_argnames=("draws", "warmup"))
def _sample(
    bins: Bins, result: FitResult, parts: Array | None, effect: Array, key: Array, *, draws: int, warmup: int
) -> tuple[TailWeighted, Array, Array, Array]:
    from numpyro.infer.hmc import hmc

    fitted, order, log_moment = result.tail.distribution, result.tail.order, result.tail.log_moment
    usable = result.code <= int(FitCode.UPPER_BOUNDARY)
    mode = _to_prentice(fitted.loc, fitted.d, fitted.p)

    tilt = jnp.exp(order[:, None] * bins.log_x)
    tilted = bins.weight * tilt
    total = jnp.where(usable, tilted.sum(-1), 1.0)
    share = jnp.where(usable[:, None], tilted / total[:, None], 0.0)
    count = jnp.maximum(bins.weight.sum(-1), 1.0)

    # Curvature A and the variance of the mean score and of log E[x^m] (index 3).
    score = jax.vmap(jax.jacfwd(_log_density))(mode, bins.log_x)
    curvature = -jax.vmap(jax.hessian(lambda t, c, s: (s * _log_density(t, c)).sum()))(mode, bins.log_x, share)
    extended = jnp.concatenate([score, jnp.ones_like(score[..., :1])], axis=-1)
    if parts is None:
        # each of a bin's values moves the mean by u = x^m/(n μ) · score, and log μ by x^m/(n μ) − 1/n
        each = tilt[..., None] / total[:, None, None] * extended
        each = each.at[..., 3].add(-1.0 / count[:, None])
        variance = jnp.einsum("tb,tbi,tbj->tij", bins.weight, each, each, precision="highest")
        variance, freedom = effect[:, None, None] * variance, count / effect
    else:
        splits = parts.shape[0]
        each = jnp.einsum("stb,tb,tbi->sti", parts, tilt / total[:, None], extended, precision="highest")
        each = each.at[..., 3].add(-parts.sum(-1) / count[None])
        each = each - each.mean(0)
        variance = jnp.einsum("sti,stj->tij", each, each, precision="highest") * (splits / (splits - 1.0))
        freedom = jnp.full_like(count, splits - 1.0)

    # Whitened: y = R (θ − mode) with A = RᵀR, so that cov y = 1/N under the likelihood alone.
    root, inverse_root = _roots(curvature)
    white = jnp.einsum("tji,tjk,tkl->til", inverse_root, variance[:, :3, :3], inverse_root, precision="highest")
    mean_variance = jnp.maximum(jnp.trace(white, axis1=1, axis2=2) / 3.0, 1e-30)
    effective = jnp.where(usable, jnp.minimum(1.0 / mean_variance, count), 0.0)
    weight = (freedom / (freedom + _SHRINKAGE))[:, None, None]
    white = weight * white + (1.0 - weight) * mean_variance[:, None, None] * jnp.eye(3)
    values = jnp.minimum(effective, _MOST_VALUES)

    prior_precision = jnp.asarray(_PRIOR) ** -2.0
    points = _two_point(bins.log_x, share)
    center = jnp.concatenate([mode[:, :1], jnp.zeros_like(mode[:, 1:])], axis=-1)
    _, spread = _roots(values[:, None, None] * curvature + jnp.diag(prior_precision))

    def potential(z: Float[Array, "tensor 3"]) -> Array:
        theta = mode + jnp.einsum("tij,tj->ti", spread, z, precision="highest")
        likelihood = (points[1] * jax.vmap(_log_density)(theta, points[0])).sum(-1)
        return -(values * likelihood).sum() + 0.5 * (prior_precision * (theta - center) ** 2).sum()

    chain_key, moment_key = jax.random.split(key)
    init_kernel, sample_kernel = hmc(potential, algo="NUTS")
    state = init_kernel(jnp.zeros_like(mode), warmup, step_size=0.5, adapt_mass_matrix=False, rng_key=chain_key)

    def draw(state, _):
        state = sample_kernel(state)
        return state, (state.z, state.diverging)

    # One loop, compiled once: the kernel itself knows when its warm-up ends.
    _, (z, diverging) = lax.scan(draw, state, None, length=warmup + draws)
    z, diverging = z[warmup:], diverging[warmup:]
    moved = jnp.einsum("tij,dtj->dti", spread, z, precision="highest")

    # Stretch: covariance 1/values of y becomes the measured one.
    y = jnp.einsum("tij,dtj->dti", root, moved, precision="highest")
    stretch = jnp.sqrt(values)[:, None, None] * _square_root(white)
    y = jnp.where(usable[:, None], jnp.einsum("tij,dtj->dti", stretch, y, precision="highest"), y)
    moved = jnp.einsum("tij,dtj->dti", inverse_root, y, precision="highest")

    # log E[x^m] given θ: the linear regression that the variances imply, and its rest.
    covariance = jnp.einsum("tji,tj->ti", inverse_root, variance[:, :3, 3], precision="highest")
    slope = jnp.linalg.solve(white, covariance[..., None])[..., 0]
    rest = jnp.maximum(variance[:, 3, 3] - (slope * covariance).sum(-1), 0.0)
    noise = jax.random.normal(moment_key, z.shape[:2])
    shift = jnp.einsum("ti,dti->dt", slope, y, precision="highest") + jnp.sqrt(rest) * noise
    shift = jnp.where(usable & (order > 0), shift, 0.0)

    loc, k, p = _from_prentice(mode + moved)
    tail = TailWeighted(
        distribution=GeneralizedGamma.tree_unflatten(None, (loc + bins.log_scale, k * p, p)),
        order=jnp.broadcast_to(order, shift.shape),
        log_moment=log_moment + order * bins.log_scale + shift,
    )
    return tail, effective, z, diverging


def _two_point(c: Float[Array, "tensor bin"], share: Float[Array, "tensor bin"]) -> tuple[Array, Array]:
    """Return an eighth of the points with the same mean and variance of log x in every group of ``_GROUP`` bins.

    A group spans an eighth of an octave where the data are, so that the sum of a smooth function over two points in
    place of 16 is off by the third power of 0.04 p: far below what a posterior can show.
    """
    grouped = c.reshape(c.shape[0], -1, _GROUP), share.reshape(c.shape[0], -1, _GROUP)
    total = grouped[1].sum(-1)
    inside = grouped[1] / jnp.maximum(total, 1e-30)[..., None]
    mean = jnp.where(total > 0, (inside * grouped[0]).sum(-1), 0.0)
    deviation = jnp.sqrt((inside * jnp.square(grouped[0] - mean[..., None])).sum(-1))
    return jnp.concatenate([mean - deviation, mean + deviation], axis=1), jnp.tile(0.5 * total, (1, 2))


def _eigen(matrix: Float[Array, "tensor 3 3"]) -> tuple[Array, Array]:
    """Return eigenvalues, those of flat or rising directions replaced by a small share of the largest, and vectors."""
    values, vectors = jnp.linalg.eigh(0.5 * (matrix + matrix.mT))
    largest = jnp.maximum(values[:, -1:], 1e-12)
    return jnp.maximum(values, _FLATTEST * largest), vectors


def _roots(matrix: Float[Array, "tensor 3 3"]) -> tuple[Array, Array]:
    """Return R and R⁻¹ with ``matrix = RᵀR``."""
    values, vectors = _eigen(matrix)
    root = jnp.sqrt(values)[:, :, None] * vectors.mT
    return root, vectors / jnp.sqrt(values)[:, None, :]


def _square_root(matrix: Float[Array, "tensor 3 3"]) -> Array:
    """Return the symmetric square root."""
    values, vectors = _eigen(matrix)
    return jnp.einsum("tij,tj,tkj->tik", vectors, jnp.sqrt(values), vectors, precision="highest")
