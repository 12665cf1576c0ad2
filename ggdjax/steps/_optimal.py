"""The exact minimiser of the distortion: a logarithmic grid for the global minimum, then guarded Newton on log Δ."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float

from ggdjax._mapping import for_each
from ggdjax.steps import _closed_form as closed_form
from ggdjax.steps._distortion import distortion_parts, log_distortion
from ggdjax.steps._source import Sides

#: Candidates of log Δ from the corrected closed form: multiples of a spacing that follows the levels (see `_spacing`)
#: around it, then wider ones above, where the minima of very heavy tails lie; minima there are as wide as the gaps.
#: Two sides of different width may have a minimum that leaves the wider one to the overload, further below.
NEAR, NEAR_TWO_SIDED = np.arange(-4, 8), np.arange(-16, 8)
WIDE = np.array([0.15, 0.3, 0.45, 0.6, 0.8, 1.05, 1.4, 1.8, 2.3, 2.9, 3.7, 4.5])
ITERATIONS = 6
LARGEST_POLISH = 0.1


class Minimum(NamedTuple):
    """Minimiser log Δ − reference, and whether it lies inside the grid."""

    phi: Float[Array, "..."]
    inside: Bool[Array, "..."]


def minimise(sides: Sides, levels: Float[Array, "..."], *, offset: float = 0.0) -> Minimum:
    """Return the global minimiser of D over the step, for real or whole N = `levels`."""
    top = levels - 0.5 + offset
    start = closed_form.support(sides, levels, corrected=True, offset=offset)
    centre = lax.stop_gradient(start - jnp.log(top))
    near = NEAR if sides.k.shape[-1] == 1 else NEAR_TWO_SIDED
    scale = np.concatenate([near, np.full(WIDE.shape, near[-1])])
    shift = np.concatenate([np.zeros(near.shape), WIDE])
    grid = jnp.asarray(np.stack([scale, shift], axis=1), centre.dtype)
    spacing = _spacing(levels)

    def candidate(index: Array) -> Array:
        return centre + grid[index, 0] * spacing + grid[index, 1]

    last = len(scale) - 1
    indices = jnp.arange(last + 1)
    values = for_each(lambda i: log_distortion(sides, levels, candidate(i), offset=offset), indices)
    best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf), axis=0)
    inside = (best > 0) & (best < last)
    low, phi, high = (candidate(jnp.clip(best + i, 0, last)) for i in (-1, 0, 1))

    def newton(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, phi, high = state
        slope, curvature = _log_slope(sides, levels, phi, offset)
        low, high = jnp.where(slope < 0, phi, low), jnp.where(slope > 0, phi, high)
        step = phi - slope / jnp.where(curvature > 0, curvature, 1.0)
        good = (curvature > 0) & (step >= low) & (step <= high)
        return low, jnp.where(good, step, 0.5 * (low + high)), high

    phi = lax.fori_loop(0, ITERATIONS, newton, (low, phi, high))[1]
    return Minimum(polish(sides, levels, phi, offset=offset), inside)


def _spacing(levels: Array) -> Array:
    """Return the spacing of the candidates near the start.

    A density so narrow that it sees single levels has a minimum of D wherever one of them meets it: these lie 1/k
    apart in log Δ near the top level k. From about sixteen levels on a density must have a relative width below
    0.02 for that.
    """
    return lax.stop_gradient(jnp.clip(0.7 / levels, 0.045, 0.1))


def polish(sides: Sides, levels: Array, phi: Array, *, offset: float) -> Array:
    """One Newton step from a minimiser: no change of value beyond rounding, and the gradients of the minimiser.

    The implicit function theorem, dφ/dθ = −G_θ/G_φ for G(φ, θ) = d log D/dφ = 0, is the derivative of
    φ − G(φ, θ)/G_φ with φ and G_φ held.
    """
    phi = lax.stop_gradient(phi)
    slope, curvature = _log_slope(sides, levels, phi, offset)
    curvature = lax.stop_gradient(curvature)
    step = slope / jnp.where(curvature > 0, curvature, 1.0)
    return phi - jnp.where(curvature > 0, jnp.clip(step, -LARGEST_POLISH, LARGEST_POLISH), 0.0)


def _log_slope(sides: Sides, levels: Array, phi: Array, offset: float) -> tuple[Array, Array]:
    """First and second derivative of log D in log Δ: 2 + S₁/S₀ and S₂/S₀ − (S₁/S₀)²."""
    total, first, second = distortion_parts(sides, levels, phi, offset=offset).total
    total = jnp.maximum(total, jnp.finfo(total.dtype).tiny)
    ratio = first / total
    return 2.0 + ratio, second / total - ratio * ratio


def nearest_power_of_two(sides: Sides, levels: Array, step: Array, *, offset: float) -> Array:
    """Return the power of two of least distortion among the six around `step`, its minimiser."""
    below = jnp.floor(jnp.log2(lax.stop_gradient(step))).astype(jnp.int32)
    limits = jnp.finfo(step.dtype)

    def candidate(shift: Array) -> Array:
        exponent = jnp.clip(below + shift, limits.minexp, limits.maxexp - 1)
        return jnp.ldexp(jnp.ones(step.shape, step.dtype), exponent)

    shifts = jnp.arange(-2, 4, dtype=jnp.int32)
    values = for_each(
        lambda i: log_distortion(sides, levels, jnp.log(candidate(i)) - sides.reference, offset=offset), shifts
    )
    return candidate(shifts[jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf), axis=0)])
