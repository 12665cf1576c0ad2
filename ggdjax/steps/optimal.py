"""The exact minimiser of the distortion: a logarithmic grid for the global minimum, then guarded Newton on log Δ."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float

from ggdjax.steps import closed_form
from ggdjax.steps.distortion import distortion_parts, log_distortion
from ggdjax.steps.source import Sides

#: Grid in log Δ around the closed form
BELOW, ABOVE, SPACING = -1.6, 1.6, 0.1
ITERATIONS = 5


class Minimum(NamedTuple):
    """Minimiser log Δ − reference, and whether it lies inside the grid."""

    phi: Float[Array, "..."]
    inside: Bool[Array, "..."]


def minimise(sides: Sides, levels: Float[Array, "..."], *, offset: float = 0.0) -> Minimum:
    """Return the global minimiser of D over the step, for real or whole N = `levels`."""
    top = levels - 0.5 + offset
    centre = lax.stop_gradient(closed_form.support(sides, top, corrected=True) - jnp.log(top))
    grid = jnp.asarray(np.arange(BELOW, ABOVE + 0.5 * SPACING, SPACING), centre.dtype)
    values = lax.map(lambda move: log_distortion(sides, levels, centre + move, offset=offset), grid)
    values = jnp.where(jnp.isfinite(values), values, jnp.inf)
    best = jnp.argmin(values, axis=0)
    inside = (best > 0) & (best < len(grid) - 1)
    middle = jnp.clip(best, 1, len(grid) - 2)
    left, centre_value, right = (jnp.take_along_axis(values, (middle + i)[None], axis=0)[0] for i in (-1, 0, 1))
    phi = centre + grid[best]
    bend = left - 2.0 * centre_value + right
    shift = 0.5 * (left - right) / jnp.where(bend > 0, bend, 1.0)
    low, high = phi - SPACING, phi + SPACING
    start = phi + SPACING * jnp.where(inside & (bend > 0), jnp.clip(shift, -0.5, 0.5), 0.0)

    def newton(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, phi, high = state
        slope, curvature = _log_slope(sides, levels, phi, offset)
        low, high = jnp.where(slope < 0, phi, low), jnp.where(slope > 0, phi, high)
        step = phi - slope / jnp.where(curvature > 0, curvature, 1.0)
        good = (curvature > 0) & (step >= low) & (step <= high)
        return low, jnp.where(good, step, 0.5 * (low + high)), high

    phi = lax.fori_loop(0, ITERATIONS, newton, (low, start, high))[1]
    return Minimum(polish(sides, levels, phi, offset=offset), inside)


def polish(sides: Sides, levels: Array, phi: Array, *, offset: float) -> Array:
    """One Newton step from a minimiser: no change of value beyond rounding, and the gradients of the minimiser.

    The implicit function theorem, dφ/dθ = −G_θ/G_φ for G(φ, θ) = d log D/dφ = 0, is the derivative of
    φ − G(φ, θ)/G_φ with φ and G_φ held.
    """
    phi = lax.stop_gradient(phi)
    slope, curvature = _log_slope(sides, levels, phi, offset)
    curvature = lax.stop_gradient(curvature)
    step = slope / jnp.where(curvature > 0, curvature, 1.0)
    return phi - jnp.where(curvature > 0, jnp.clip(step, -SPACING, SPACING), 0.0)


def _log_slope(sides: Sides, levels: Array, phi: Array, offset: float) -> tuple[Array, Array]:
    """First and second derivative of log D in log Δ: 2 + S₁/S₀ and S₂/S₀ − (S₁/S₀)²."""
    total, first, second = distortion_parts(sides, levels, phi, offset=offset).total
    total = jnp.maximum(total, jnp.finfo(total.dtype).tiny)
    ratio = first / total
    return 2.0 + ratio, second / total - ratio * ratio


def nearest_power_of_two(sides: Sides, levels: Array, step: Array, *, offset: float) -> Array:
    """Return the power of two of least distortion among the six around `step`, its minimiser."""
    step = lax.stop_gradient(step)
    exponent = jnp.floor(jnp.log2(step)).astype(jnp.int32) + jnp.arange(-2, 4, dtype=jnp.int32).reshape(
        -1, *(1,) * step.ndim
    )
    limits = jnp.finfo(step.dtype)
    exponent = jnp.clip(exponent, limits.minexp, limits.maxexp - 1)
    candidates = jnp.ldexp(jnp.ones(exponent.shape, step.dtype), exponent)
    values = lax.map(lambda c: log_distortion(sides, levels, jnp.log(c) - sides.reference, offset=offset), candidates)
    best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf), axis=0)
    return jnp.take_along_axis(candidates, best[None], axis=0)[0]
