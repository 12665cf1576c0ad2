"""The closed form of the support by the Lambert W function, in log space.

Hui & Neuhoff (IEEE Trans. Inf. Theory 47(3), 2001): granular noise Δ²/12 plus overload noise is stationary where
O(L) = ∫_L^∞ (x − L) f dx = L/(12 N²). With the leading term of the tail and u = (L/a)^p this reads

    u^s e^(−u) = B,    s = d'/p − m/p − 2,    B = p Γ(d'/p) a^m / (12 N² E[x^m])

and is solved by Lambert W: W₀ for s < 0, W₋₁ for s > 0, u = −log B at s = 0. None of these is evaluated as such
(B^(1/s) overflows): in w = log(u/k), with u = k e^w, the equation is the root of the convex function

    G(w) = k (e^w − 1 − w) + (m/p + 2) w − T,     T = log( 12 N² · density scale ),

on its increasing branch. For s > 0 that is s (e^v − 1 − v) = E in v = w − log(s/k), for s < 0 it is
z + e^z = ℓ in z = log(u/|s|); both have good explicit starts, and two Newton steps on G itself finish any s.
"""

from __future__ import annotations

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from ggdjax.steps._extent import highest_energy_peak
from ggdjax.steps._source import Sides

#: Nodes of the corrected form's tail integral, and its steps for a one-sided and a two-sided source.
NODES, CORRECTIONS, CORRECTIONS_TWO_SIDED = 4, 2, 3
#: |s| below this starts as if it were this; the last Newton steps, on G with the true s, remove the difference.
S_SMALL = 1e-2


def support(
    sides: Sides,
    levels: Float[Array, "..."],
    *,
    corrected: bool,
    offset: float = 0.0,
    rounded: Float[Array, "..."] | float = 1.0,
) -> Float[Array, "..."]:
    """Return log L − reference, the closed-form support, for N = `levels` on a side of zero.

    `rounded` is the share of the values whose error is Δ²/12, a factor on the right of the equation.

    Each side's Lambert W solution; of two sides, which share L, the larger. Then, with `corrected`, two steps of
    `_corrected_step`, else for two sides two Newton steps on w₊O₊(L) + w₋O₋(L) = L/(12 N²) with the leading terms.
    """
    top = levels - 0.5 + offset
    n_squared = top * (top - 0.5) if corrected else levels * levels
    log_levels = jnp.log(12.0 * n_squared) - jnp.log(rounded)
    t = log_levels[..., None] + _log_tail_scale(sides)
    y = lambert(sides.k, sides.exponent, sides.order, t) / sides.exponent - sides.offset
    y = jnp.where(sides.log_scale > -1e3, y, -jnp.inf).max(-1)
    if corrected:
        # Where the leading term of the tail has no solution, as for fits near the log-normal boundary, L still lies
        # above the bulk of the energy.
        y = jnp.maximum(y, highest_energy_peak(sides))
        steps = CORRECTIONS if sides.k.shape[-1] == 1 else CORRECTIONS_TWO_SIDED
        y = lax.fori_loop(0, steps, lambda _, y: _corrected_step(sides, lax.stop_gradient(y), log_levels, top), y)
    elif sides.k.shape[-1] > 1:
        y = lax.fori_loop(0, 2, lambda _, y: _two_sided_newton(sides, t, y), y)
    return y


def lambert(k: Array, p: Array, m: Array, t: Array) -> Array:
    """Return w = log(u/k) with k (e^w − 1 − w) + (m/p + 2) w = t on the increasing branch (u ≥ s).

    Where there is no solution (s > 0 and B beyond the maximum of u^s e^(−u)), the maximum u = s itself.
    Accuracy: float32 rounding for any k in [1e-5, 1e6]; gradients by the last Newton step.
    """
    c = m / p + 2.0
    s = k - c
    start = lax.stop_gradient(jnp.where(s > 0, _start_upper(k, c, t), _start_lower(k, c, t)))

    def newton(_: int, w: Array) -> Array:
        slope = k * jnp.expm1(w) + c  # = u − s
        value = k * (jnp.expm1(w) - w) + c * w - t
        # slope → 0 only at the double root u = s, where the start is already the answer
        safe = slope > 1e-3 * jnp.abs(s)
        return w - jnp.where(safe, value / jnp.where(safe, slope, 1.0), 0.0)

    return lax.fori_loop(0, 2, newton, start)


def _start_upper(k: Array, c: Array, t: Array) -> Array:
    """s > 0 (W₋₁): solve e^v − 1 − v = E/s, v ≥ 0, by two Newton steps from an explicit start."""
    s = jnp.maximum(k - c, S_SMALL)
    bottom = jnp.where(k - c > S_SMALL, jnp.log1p(jnp.clip(-c / k, -0.9999999, None)), jnp.log(s / k))
    least = k * (jnp.expm1(bottom) - bottom) + c * bottom
    e = jnp.maximum(t - least, 0.0) / s
    root = jnp.sqrt(2.0 * e)
    # y = e^v solves y − log y = 1 + e:  y ≈ 1 + √(2e) + 2e/3 near the double root, y ≈ 1 + e + log(…) far from it
    v = jnp.where(e < 1.5, jnp.log1p(root + 2.0 * e / 3.0), jnp.log(1.0 + e + jnp.log1p(e + jnp.log1p(e))))

    def newton(_: int, v: Array) -> Array:
        slope = jnp.expm1(v)
        return v - jnp.where(slope > 1e-4, (slope - v - e) / jnp.maximum(slope, 1e-4), 0.0)

    return bottom + lax.fori_loop(0, 2, newton, v)


def _start_lower(k: Array, c: Array, t: Array) -> Array:
    """s < 0 (W₀): solve z + e^z = ℓ by two Newton steps from an explicit start."""
    s = jnp.maximum(c - k, S_SMALL)  # |s|
    # k e^w + |s| w = t + k, divided by |s|, in z = w + log(k/|s|)
    level = (t + k) / s + jnp.log(k / s)
    z = jnp.where(level > 1.0, jnp.log(jnp.maximum(level - jnp.log(jnp.maximum(level, 1.0)), 0.5)), level - 0.5)
    z = jnp.where(level < -1.0, level, z)

    def newton(_: int, z: Array) -> Array:
        e = jnp.exp(z)
        return z - (e + z - level) / (1.0 + e)

    return lax.fori_loop(0, 2, newton, z) - jnp.log(k / s)


@lru_cache
def _laguerre(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes ζ and weights W with ∫₀^∞ g(ζ) dζ ≈ Σ W g(ζ), for g = ζ e^(−ζ) · a polynomial of degree < 2n.

    Generalized Gauss–Laguerre, α = 1, by the eigenvalues of its Jacobi matrix (Golub & Welsch 1969).
    """
    i = np.arange(n)
    side = np.sqrt(i[1:] * (i[1:] + 1.0))
    nodes, vectors = np.linalg.eigh(np.diag(2.0 * i + 2.0) + np.diag(side, 1) + np.diag(side, -1))
    return nodes, vectors[0] ** 2 * np.exp(nodes) / nodes


def _corrected_step(sides: Sides, y: Array, log_levels: Array, top: Array) -> Array:
    """One step in y = log L − reference towards the root of the support equation, the tail by four nodes.

    With J(y) = Σ w O(L)/L = ∫₀^∞ (e^η − 1) h(y + η) dη and the levels' n² = (N − ½)(N − 1), the equation is

        F = log J + log( x/(1 − e^(−x)) ) + log 12 n² = 0.

    The middle term is that of the finite step: with the clip level L − Δ/2 in place of L, dD/dΔ = 0 reads
    O(L) + Δ/2 Q₀(L) + Δ²/12 f(L) + … = L / (12 n²), and where O falls by e^(−x) per step, x = −(d log O/d log L)/n,
    the left side is O(L) · x/(1 − e^(−x)) up to O(x³).

    J by generalized Gauss–Laguerre in λη, λ the rate at which the integrand falls: near ρ = −h'/h where the tail is
    exponential, near √κ, κ = −(log h)'', where it is Gaussian in y. Its first two derivatives come with it, so the
    step solves a parabola: log J is nearly one at the log-normal boundary, and nearly straight far from it.
    """
    w = jnp.minimum(sides.exponent * (y[..., None] + sides.offset), 30.0)
    growth = jnp.expm1(w)
    rho = sides.order + sides.k * sides.exponent * growth - 0.5  # e^η − 1 ≈ η e^(η/2) takes ½ off the rate
    kappa = sides.k * jnp.square(sides.exponent) * (1.0 + growth)
    rate = 0.5 * (rho + jnp.sqrt(rho * rho + 4.0 * kappa))
    # Below the scale (u < 1) the integrand need not fall before it: two of the nodes are to lie within.
    within = jnp.maximum(-jnp.log(sides.k) - w, 0.0) / sides.exponent
    rate = lax.stop_gradient(jnp.maximum(rate, NODES / (within + NODES / sides.exponent)))[..., None]
    node, weight = (jnp.asarray(x, y.dtype).reshape((1,) * (y.ndim + 1) + (-1,)) for x in _laguerre(NODES))
    eta = node / rate
    h, first, second = sides.at(y[..., None, None] + eta)
    part = h * jnp.expm1(jnp.minimum(eta, 20.0)) * (weight / rate)
    j = jnp.maximum(part.sum((-2, -1)), jnp.finfo(y.dtype).tiny)
    fall = -(part * first).sum((-2, -1)) / j
    bend = jnp.maximum(fall * fall - (part * second).sum((-2, -1)) / j, 0.0)
    x = jnp.maximum((fall - 1.0) / top, 1e-6)
    excess = jnp.log(j) + jnp.log(x / -jnp.expm1(-x)) + log_levels
    slope = fall + jnp.sqrt(jnp.maximum(fall * fall + 2.0 * bend * lax.stop_gradient(excess), 1e-12))
    return y + jnp.clip(2.0 * excess / jnp.maximum(lax.stop_gradient(slope), 0.1), -2.0, 2.0)


def _log_tail_scale(sides: Sides) -> Array:
    """log of weight · density scale · (1/p)² · 1/k²: T = log(12 n²) + this, G = T being O(L) = L/(12 n²)."""
    return sides.log_scale - 2.0 * jnp.log(sides.exponent) - 2.0 * jnp.log(sides.k)


def _two_sided_newton(sides: Sides, t: Array, y: Array) -> Array:
    """One Newton step in log L on log( Σ overload / (L/(12 n²)) ) = 0 with the leading terms of both tails."""
    k, p = sides.k, sides.exponent
    c = sides.order / p + 2.0
    w = jnp.minimum(p * (y[..., None] + sides.offset), 30.0)
    slope = k * jnp.expm1(w) + c
    log_ratio = t - (k * (jnp.expm1(w) - w) + c * w)
    share = jax.nn.softmax(log_ratio, axis=-1)
    fall = jnp.sum(share * p * slope, axis=-1)
    return y + jnp.clip(jax.nn.logsumexp(log_ratio, axis=-1) / jnp.maximum(fall, 0.1), -1.0, 1.0)
