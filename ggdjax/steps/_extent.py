"""Where a density starts, has its energy, and ends: bounds for quadrature, in log x − reference."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from ggdjax.steps._source import Sides

#: e^−22 = 3e-10: a density ends where its integrand has fallen by this much.
TAIL_DECAY = 22.0


def energy_peak(sides: Sides) -> Float[Array, "... side"]:
    """Return where x² f(x) has most of its mass per unit of log x, in log x − reference: k e^w = (d' − m + 2)/p."""
    b = sides.k + (2.0 - sides.order) / sides.exponent
    return jnp.log(jnp.maximum(b, sides.k * 1e-3) / sides.k) / sides.exponent - sides.offset


def highest_energy_peak(sides: Sides) -> Float[Array, "..."]:
    """Return the largest `energy_peak` of the sides that hold a share of the energy that counts (e^−3 of the most)."""
    counts = sides.log_energy > sides.log_energy.max(-1, keepdims=True) - 3.0
    return jnp.where(counts, energy_peak(sides), -jnp.inf).max(-1)


def energy_end(sides: Sides) -> Float[Array, "... side"]:
    """Return log x − reference beyond which x² f(x) is negligible (e^−22 of its peak)."""
    peak = energy_peak(sides)
    return peak + decay_length(sides, peak)


def mass_start(sides: Sides) -> Float[Array, "... side"]:
    """Return log x − reference below which x f(x) is negligible (e^−22 of its peak); far down for d' − m ≤ 0.

    With t = −p (log x − peak) ≥ 0 and b = (d' − m)/p, x f falls as b (e^(−t) − 1 + t), which is 22 before
    t = √(44/b) + 22/b.
    """
    b = jnp.maximum(sides.k - sides.order / sides.exponent, 1e-3)
    depth = jnp.sqrt(2.0 * TAIL_DECAY / b) + TAIL_DECAY / b
    return (jnp.log(b / sides.k) - depth) / sides.exponent - sides.offset


def decay_length(sides: Sides, edge: Float[Array, "... #side"]) -> Float[Array, "... side"]:
    """Return H > 0 with e^(2H) h(edge + H) = e^−22 h(edge), from above.

    With t = p H that is u (e^t − 1) − b t = 22, u = k e^w at the edge, b = (d' − m + 2)/p: a convex function, two
    explicit upper bounds of its root, three Newton steps from the smaller one (each stays above the root).
    """
    p = sides.exponent
    u = jnp.maximum(sides.k * jnp.exp(jnp.clip(p * (edge + sides.offset), -60.0, 30.0)), 1e-20)
    b = sides.k + (2.0 - sides.order) / p
    gap = u - b
    quadratic = (jnp.sqrt(gap * gap + 2.0 * u * TAIL_DECAY) - gap) / u
    ratio = jnp.maximum(b, 1e-20) / u
    logarithmic = jnp.log(2.0 * (1.0 + TAIL_DECAY / u + jnp.maximum(ratio * (jnp.log(2.0 * ratio) - 1.0), 0.0)))
    t = jnp.minimum(quadratic, logarithmic)

    def newton(_: int, t: Array) -> Array:
        slope = u * jnp.exp(t) - b
        return t - (u * jnp.expm1(t) - b * t - TAIL_DECAY) / jnp.maximum(slope, 1e-3 * u)

    return lax.fori_loop(0, 3, newton, t) / p
