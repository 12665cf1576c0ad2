"""The step where a part of the values is saturated, as after ReLU6: a point mass at the largest magnitude.

With the limit M, of weight w, and N levels on a side, the point mass costs w (M − (N−1) Δ)² as long as the top level
lies below it. Beside granular noise Δ²/12 of the rest that is least at

    Δ = M/(N−1) · 1 / (1 + (1 − w) / (12 w (N−1)²)),

close to full range for all but the lightest point masses. The overload of the rest, which the fitted density
describes, asks for a step of its own. Both errors fall with Δ, so the larger of the two is taken; and nothing lies
beyond the limit, so full range, Δ = M/(N−1), is the most.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def saturated_step(
    step: Float[Array, "..."],
    levels: Float[Array, "..."],
    limit: Float[Array, "..."],
    weight: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Return the step for the whole of a saturated tensor.

    Args:
        step: the step that suits the values below the limit (from any solver), > 0.
        levels: levels N ≥ 2 on one side of zero; real; differentiable, as everything here.
        limit: the largest magnitude M, > 0 where ``weight`` is.
        weight: share w in [0, 1] of the values that lies at the limit; where it is 0, ``step`` is returned.
    """
    top = levels - 1.0
    full = limit / top
    some = weight > 0
    w = jnp.where(some, weight, 1.0)
    suited = full / (1.0 + (1.0 - w) / (12.0 * w * top * top))
    return jnp.where(some, jnp.minimum(jnp.maximum(step, suited), full), step)
