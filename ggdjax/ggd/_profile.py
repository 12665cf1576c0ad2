"""Maximum likelihood of the generalized gamma distribution by its one-dimensional profile (array core).

For fixed p, ``y = x^p`` is gamma distributed: its scale is closed form, and its shape k solves

    ω(k) := log k − ψ(k) = log E[y] − E[log y] =: s(p).

Stacy and Mihram (Technometrics 7, 1965) leave one equation in p; its logarithm is solved here for ``log p``:

    G(p) = log( k(p) · p · (E[x^p log x]/E[x^p] − E[log x]) ) = 0,    with  dℓ/dlog p = 1 − e^G

for the profile log-likelihood ``ℓ(p) = log p − E[log x] + ½ log(k/2π) − δ(k) − k s`` (δ: Stirling's remainder).
E[·] is any weighted mean over samples or bins. Everything is relative to the mean logarithm, so that float32
keeps its digits at the log-normal boundary (p → 0, k → ∞).

Newton's steps are written out, in a fixed number, which compiles to one short loop for all tensors; a solver of
optimistix would run until the last of them has converged.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ggdjax._mapping import for_each
from ggdjax.ggd._special import log_minus_digamma, stirling_remainder

#: The bracket of p. At 0.05 the density differs from its log-normal limit (skewness of log x: about −p times the
#: deviation of log x) by less than 100,000 samples show; at 50 it ends within 2 % of its scale, a cut-off for
#: any step of up to five bits and less than the step of the widest bin for eight.
P_MIN, P_MAX = 0.05, 50.0
#: Points of the search for the global maximum, a factor 2.15 apart: neighbouring maxima of one profile have not
#: been seen closer. Then guarded Newton steps: six reach the rounding of float32 from any such bracket.
_GRID_POINTS, _NEWTON_STEPS = 10, 6
#: Smallest gap ``log E[y] − E[log y]``: a few roundings of float32. Bounds k by 5e5.
_GAP_MIN = 1e-6


class Point(NamedTuple):
    """The profile at one p: G and its slope in log p, shape k, log E[(x/x̄)^p], log-likelihood without −E[log x]."""

    equation: Float[Array, "..."]
    slope: Float[Array, "..."]
    k: Float[Array, "..."]
    log_mean: Float[Array, "..."]
    log_likelihood: Float[Array, "..."]


class Root(NamedTuple):
    """Where the profile is largest: log p, whether that is inside the bracket, and the number of Newton steps."""

    log_p: Float[Array, "..."]
    interior: Bool[Array, "..."]
    iterations: Int[Array, "..."]


def solve_shape(gap: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return the k > 0 with ``ω(k) = gap``, differentiable, relative error 1e-6 in float32, and ``ω'(k)``, held.

    Start: Minka, "Estimating a Gamma distribution" (2002), eq. (10), within 1.5 %; then Newton on log ω in log k.
    """
    s = lax.stop_gradient(gap)
    k = (3.0 - s + jnp.sqrt((s - 3.0) ** 2 + 24.0 * s)) / (12.0 * s)

    def newton(_: int, k: Array) -> Array:
        value, slope = _gap_and_slope(k)
        return k * jnp.exp((jnp.log(s) - jnp.log(value)) * value / (slope * k))

    k = lax.stop_gradient(lax.fori_loop(0, 3, newton, k))
    slope = lax.stop_gradient(_gap_and_slope(k)[1])
    return k + (gap - s) / slope, slope


def _gap_and_slope(k: Array) -> tuple[Array, Array]:
    return jax.jvp(log_minus_digamma, (k,), (jnp.ones_like(k),))


def evaluate(log_p: Float[Array, "..."], c: Float[Array, "... n"], weight: Float[Array, "... n"]) -> Point:
    """Evaluate the profile at ``log_p`` for centred logarithms ``c`` (weighted mean 0), weights that sum to 1."""
    p = jnp.exp(log_p)
    # exp(p c) needs a shift only where it could overflow; without it log E[y] ≪ 1 keeps its digits for small p.
    top = p * c.max(-1)
    shift = jnp.where(top > 20.0, top, 0.0)
    y = weight * jnp.exp(p[..., None] * c - shift[..., None])
    sum_0, sum_1, sum_2 = y.sum(-1), (y * c).sum(-1), (y * c * c).sum(-1)
    mean = jnp.maximum(sum_1 / sum_0, 1e-30)
    variance = jnp.maximum(sum_2 / sum_0 - mean * mean, 0.0)
    log_mean = jnp.log(sum_0) + shift
    gap = jnp.maximum(log_mean, _GAP_MIN)
    k, slope_k = solve_shape(gap)
    return Point(
        equation=jnp.log(k) + log_p + jnp.log(mean),
        slope=1.0 + p * (mean / (slope_k * k) + variance / mean),
        k=k,
        log_mean=log_mean,
        log_likelihood=log_p + 0.5 * jnp.log(k / (2.0 * jnp.pi)) - stirling_remainder(k) - k * gap,
    )


def maximize(c: Float[Array, "... n"], weight: Float[Array, "... n"]) -> Root:
    """Return the p of largest profile likelihood on ``[P_MIN, P_MAX]``: a grid, then guarded Newton from its best.

    Not differentiable: follow it by `polish`.
    """
    c, weight = lax.stop_gradient((c, weight))
    grid = jnp.linspace(jnp.log(P_MIN), jnp.log(P_MAX), _GRID_POINTS, dtype=c.dtype)
    shape = c.shape[:-1]
    points = for_each(lambda log_p: evaluate(jnp.broadcast_to(log_p, shape), c, weight), grid)
    best = jnp.argmax(points.log_likelihood, axis=0)

    def at(values: Array, index: Array) -> Array:
        index = jnp.clip(index, 0, _GRID_POINTS - 1)
        return jnp.take_along_axis(values, index[None], axis=0)[0]

    here = at(points.equation, best)
    rising = here < 0.0  # G < 0: the likelihood rises with p, the maximum lies above this point
    below, above = jnp.where(rising, best, best - 1), jnp.where(rising, best + 1, best)
    interior = (below >= 0) & (above < _GRID_POINTS)
    grids = jnp.broadcast_to(grid.reshape(-1, *[1] * len(shape)), (_GRID_POINTS, *shape))
    low, high = at(grids, below), at(grids, above)
    # Start where the chord of G over the bracket crosses zero.
    g_low, g_high = at(points.equation, below), at(points.equation, above)
    fraction = jnp.where(g_high > g_low, -g_low / jnp.maximum(g_high - g_low, 1e-30), 0.5)
    start = low + (high - low) * jnp.clip(fraction, 0.02, 0.98)

    def newton(_: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        log_p, low, high, _, steps = state
        point = evaluate(log_p, c, weight)
        low = jnp.where(point.equation < 0.0, log_p, low)
        high = jnp.where(point.equation < 0.0, high, log_p)
        new = log_p - point.equation / jnp.where(point.slope > 0.0, point.slope, 1.0)
        # At the root, rounding may point just outside the bracket: only a step well outside it is refused.
        inside = (point.slope > 0.0) & (new > low - 1e-3) & (new < high + 1e-3)
        new = jnp.where(inside, new, 0.5 * (low + high))
        moved = jnp.abs(new - log_p) > 1e-5
        return new, low, high, point.log_likelihood, steps + moved.astype(jnp.int32)

    state = (start, low, high, jnp.zeros_like(start), jnp.zeros(shape, jnp.int32))
    log_p, _, _, reached, steps = lax.fori_loop(0, _NEWTON_STEPS, newton, state)
    # Several roots may share a bracket: never end below the grid's best.
    worse = reached < at(points.log_likelihood, best) - 1e-5
    log_p = jnp.where(interior & ~worse, log_p, at(grids, best))
    return Root(log_p=log_p, interior=interior, iterations=steps)


def polish(root: Root, c: Float[Array, "... n"], weight: Float[Array, "... n"], steps: int = 1) -> Array:
    """Return log p after Newton steps on these data, differentiable in ``c`` and ``weight``.

    The derivative of a Newton step taken from the root, with start and slope held fixed, is that of the implicit
    function theorem: ``dlog p = −dG/G'``. At the ends of the bracket p is constant. First derivatives only.
    """
    log_p = root.log_p
    for _ in range(steps):
        log_p = lax.stop_gradient(log_p)
        point = evaluate(log_p, c, weight)
        slope = lax.stop_gradient(point.slope)
        usable = root.interior & (slope > 1e-3)
        step = -point.equation / jnp.where(usable, slope, 1.0)
        log_p = log_p + jnp.where(usable, jnp.clip(step, -0.2, 0.2), 0.0)
        log_p = jnp.clip(log_p, jnp.log(P_MIN), jnp.log(P_MAX))
    return log_p
