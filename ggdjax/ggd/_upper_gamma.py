"""The upper incomplete gamma function of any real order, which the tail-weighted form needs below order zero."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ggdjax.ggd._special import (
    fraction_log_ratio,
    log_gamma_1p,
    small_shape_log_bracket,
    terms_of,
)

#: Orders down to −SHIFTS go through the series for u ≤ 3/2; below, the continued fraction converges for every u.
_SHIFTS = 16


def log_upper_gamma(s: Float[Array, "..."], log_u: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return ``log Γ(s, u) = log ∫_u^∞ t^(s−1) e^(−t) dt``, s ≤ ½ real (also ≤ 0), u > 0.

    u > 3/2: continued fraction (DLMF 8.9.2). u ≤ 3/2: the series at ``s + n`` in (−½, ½], carried down n times by
    ``Γ(s−1, u) = (Γ(s, u) − u^(s−1) e^(−u))/(s−1)`` (DLMF 8.8.2), here for ``G = Γ(s, u) u^(−s) eᵘ``. Arguments:
    equal ranks and one floating type. Accuracy relative to max(1, |log Γ(s, u)|): 1e-6 in float32, 1e-8 in float64.
    """
    terms = terms_of(log_u)
    shifts = jnp.ceil(-0.5 - jax.lax.stop_gradient(s))
    shifts = jnp.clip(jnp.where(s + shifts > 0.5, shifts - 1.0, shifts), 0.0, None)
    by_series = (log_u <= math.log(1.5)) & (shifts <= _SHIFTS)
    log_u = jnp.minimum(log_u, terms.cap)

    start = jnp.where(by_series, s + shifts, 0.5)
    start = jnp.where(start == 0.0, jnp.finfo(start.dtype).eps ** 2, start)  # the limit, to rounding
    log_small = jnp.where(by_series, log_u, 0.0)
    u = jnp.exp(log_small)
    log_bracket = small_shape_log_bracket(start, log_small, terms.small) + log_gamma_1p(start)
    # G overflows only where u^(−s) does, and there one step down forgets it: u G → 0
    scaled = jnp.exp(jnp.minimum(log_bracket - start * log_small + u, terms.cap))

    def step_down(i: int, value: Array) -> Array:
        order = start - (i + 1.0)
        return jnp.where(i < shifts, (1.0 - u * value) / -jnp.where(i < shifts, order, -1.0), value)

    scaled = jax.lax.fori_loop(0, _SHIFTS, step_down, scaled)
    u_fraction = jnp.exp(jnp.where(by_series, 1.0, log_u))
    s_fraction = jnp.where(by_series, 0.0, s)
    log_scaled = jnp.where(by_series, jnp.log(scaled), fraction_log_ratio(s_fraction, u_fraction, terms.fraction))
    return log_scaled + s * log_u - jnp.exp(log_u)
