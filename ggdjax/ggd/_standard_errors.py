"""Standard errors of a fitted generalized gamma distribution from its scores and second derivatives."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ggdjax.ggd._special import log_minus_digamma, stirling_remainder


class StandardErrors(NamedTuple):
    """Standard errors of the parameters, of the shape of the batch."""

    a: Float[Array, "..."]
    d: Float[Array, "..."]
    p: Float[Array, "..."]


def standard_errors(
    c: Float[Array, "... n"],
    share: Float[Array, "... n"],
    order: Float[Array, "..."],
    count: Float[Array, "..."],
    *,
    log_moment: Float[Array, "..."],
    loc: Float[Array, "..."],
    k: Float[Array, "..."],
    p: Float[Array, "..."],
) -> tuple[StandardErrors, Float[Array, "..."]]:
    """Return the standard errors (that of ``a`` relative: of log a) and the weighted mean log-density of c.

    With ``w = p (c − loc)`` the log-density of c is ``log p + ½ log(k/2π) − δ(k) − k (eʷ − 1 − w)``. In the
    parameters θ = (loc, log k, log p), A is minus the mean second derivative and B the mean outer product of the
    scores with the weights once more:

        order 0:  cov θ = A⁻¹ / count            (observed information)
        order m:  cov θ = A⁻¹ B A⁻¹              (White, Econometrica 50, 1982, eq. (3.2)).

    Args:
        c: centred logarithms, ``share``: their weights with sum 1 (``∝ x^m`` times how often each occurs).
        order: m.
        count: number of values.
        log_moment: log of the mean of ``exp(m c)`` over the values, unweighted.
        loc: log-location relative to the centre; ``k`` and ``p`` as fitted.
    """
    deviation = c - loc[..., None]
    w = p[..., None] * deviation
    # Far outside the data (empty bins) the exponential may overflow: those count nothing.
    y = jnp.exp(jnp.minimum(w, 80.0))
    y_1 = y - 1.0
    mean_y, mean_w = (share * y).sum(-1), (share * w).sum(-1)
    excess = mean_y - 1.0 - mean_w
    mean_wy, mean_wwy = (share * w * y).sum(-1), (share * w * w * y).sum(-1)
    omega, slope = jax.jvp(log_minus_digamma, (k,), (jnp.ones_like(k),))
    log_density = jnp.log(p) + 0.5 * jnp.log(k / (2.0 * jnp.pi)) - stirling_remainder(k) - k * excess

    # Minus the mean second derivatives in (loc, log k, log p).
    score_k = k * (omega - excess)
    information = _symmetric(
        k * p * p * mean_y,
        -k * p * (mean_y - 1.0),
        -k * p * (mean_y - 1.0 + mean_wy),
        -k * k * slope - score_k,
        k * (mean_wy - mean_w),
        k * (mean_wwy + mean_wy - mean_w),
    )
    # Scores per value, and their weighted outer product.
    k_, p_ = k[..., None], p[..., None]
    scores = jnp.stack([k_ * p_ * y_1, k_ * (omega[..., None] - y_1 + w), 1.0 - k_ * w * y_1], axis=-2)
    count = jnp.maximum(count, 1.0)[..., None, None]
    per_value = share * jnp.exp(jnp.minimum(order[..., None] * c - log_moment[..., None], 80.0))
    outer = jnp.einsum("...in,...jn->...ij", scores * per_value[..., None, :], scores, precision="highest") / count

    # Scale to unit diagonal before inverting: float32 then loses only what the correlation takes.
    root = jnp.sqrt(jnp.maximum(jnp.diagonal(information, axis1=-2, axis2=-1), 1e-30))
    inverse = _inverse(information / (root[..., :, None] * root[..., None, :]))
    inverse = inverse / (root[..., :, None] * root[..., None, :])
    sandwich = jnp.einsum("...ij,...jk,...kl->...il", inverse, outer, inverse, precision="highest")
    covariance = jnp.where((order == 0)[..., None, None], inverse / count, sandwich)

    # d = k p and log a = loc − log(k)/p.
    zero, one, log_k = jnp.zeros_like(k), jnp.ones_like(k), jnp.log(k)
    jacobian = jnp.stack(
        [
            jnp.stack([one, -1.0 / p, log_k / p], axis=-1),
            jnp.stack([zero, k * p, k * p], axis=-1),
            jnp.stack([zero, zero, p], axis=-1),
        ],
        axis=-2,
    )
    variance = jnp.einsum("...ij,...jk,...ik->...i", jacobian, covariance, jacobian, precision="highest")
    usable = (variance > 0) & jnp.isfinite(variance)
    error = jnp.where(usable, jnp.sqrt(jnp.where(usable, variance, 1.0)), jnp.inf)
    return StandardErrors(a=error[..., 0], d=error[..., 1], p=error[..., 2]), log_density


def _symmetric(a: Array, b: Array, c: Array, d: Array, e: Array, f: Array) -> Array:
    rows = [jnp.stack(row, axis=-1) for row in ((a, b, c), (b, d, e), (c, e, f))]
    return jnp.stack(rows, axis=-2)


def _inverse(m: Float[Array, "... 3 3"]) -> Float[Array, "... 3 3"]:
    """Return the inverse of symmetric 3×3 matrices by cofactors."""
    a, b, c, d, e, f = (m[..., i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)))
    cofactors = _symmetric(d * f - e * e, c * e - b * f, b * e - c * d, a * f - c * c, b * c - a * e, a * d - b * b)
    determinant = a * cofactors[..., 0, 0] + b * cofactors[..., 0, 1] + c * cofactors[..., 0, 2]
    return cofactors / jnp.where(determinant > 0, determinant, jnp.inf)[..., None, None]
