"""The support equation O(L) = L/(12 n²), solved exactly (Hui & Neuhoff 2001; see `closed_form`)."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from ggdjax.steps import _closed_form as closed_form
from ggdjax.steps._nodes import tail_nodes
from ggdjax.steps._source import Sides

ITERATIONS = 8


def support(sides: Sides, n: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return log L − reference, the root of Σ w O(L) = L/(12 n²), by Newton on its logarithm in log L.

    O(L)/L = ∫₀^∞ (e^η − 1) h(log L + η) dη =: J is log-concave in log L for one side, hence Newton from the closed
    form overshoots the root at most once. Differentiable in the fit and in n by the last step.
    Accuracy: 1e-9 (float64), 2e-6 (float32) of L.
    """
    start = lax.stop_gradient(closed_form.support(sides, n, corrected=True))
    right = -jnp.log(12.0) - 2.0 * jnp.log(n)

    def newton(_: int, y: Array) -> Array:
        y = lax.stop_gradient(y)
        log_j, slope = log_overload_ratio(sides, y)
        return y - jnp.clip((log_j - right) / jnp.minimum(lax.stop_gradient(slope), -1e-2), -1.0, 1.0)

    return newton(0, lax.stop_gradient(lax.fori_loop(0, ITERATIONS - 1, newton, start)))


def log_overload_ratio(sides: Sides, y: Float[Array, "..."]) -> tuple[Array, Array]:
    """Return log( Σ w O(L)/L ) and its derivative in log L, at log L = reference + y."""
    eta, weight = tail_nodes(sides, y, 20)
    h = sides.at(y[..., None, None] + eta)[0] * weight
    grow = jnp.expm1(jnp.minimum(eta, 30.0))
    j = jnp.maximum((h * grow).sum((-2, -1)), jnp.finfo(y.dtype).tiny)
    # by parts: dJ/dy = ∫ (e^η − 1) h' dη = −∫ e^η h dη
    return jnp.log(j), -(h * (1.0 + grow)).sum((-2, -1)) / j
