"""Free steps for weights, not powers of two: what the constraint w_hat = q · 2^(−F) costs, for comparison."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from ggdjax._errors import GgdjaxError, near_matches
from ggdjax.ggd import fit
from ggdjax.steps import _source as source
from ggdjax.steps._fixed_point import checked, column, group_rows, power_of_two
from ggdjax.steps._solve import closed_form_step

WEIGHT_METHODS = ("mse", "max", "ggd")
#: Candidates of the first search per octave of the step, octaves searched below max-abs, and steps of the finer one
#: on each side of the winner: the step is found to 2^(1/256) or 0.3 %, its error to 1e-5 and better.
PER_OCTAVE, OCTAVES, FINER = 16, 10, 16
#: Widths of the codes. (Beyond 24 bits the codes are no longer whole in float32, and a free step gains nothing.)
BITS_MAX = 24


def weight_step(
    w: ArrayLike, bits: ArrayLike, method: str = "mse", axis: int | tuple[int, ...] | None = None
) -> Float[Array, "..."]:
    """Return a free step for weights with codes −2^(b−1) … 2^(b−1) − 1.

    Args:
        w: weights, any shape; zeros do not matter, values that are not finite are left out.
        bits: width(s) b, whole, 2 to 24 (2 to 16 for "ggd"); broadcast to the shape of the result.
        method: "mse": least squared error on the weights, by search over ten octaves of steps; "max": the largest
            magnitude on the top code; "ggd": the closed-form step of the generalized gamma fit of ``|w|``.
        axis: axes that share one step, None for all.

    Returns:
        Steps of the shape of `w` without `axis`, finite and positive; 2^(1−b) where no value is beside zero.

    Raises:
        GgdjaxError: an unknown method (with the near matches); `bits`, `axis` or `w` as `best_fractional_length`.
    """
    if method not in WEIGHT_METHODS:
        raise GgdjaxError(f"`method` {method!r} is unknown; {near_matches(method, WEIGHT_METHODS)}")
    w, bits, axes = checked(w, bits, axis, largest=source.BITS_MAX if method == "ggd" else BITS_MAX)
    return _weight_step(w, bits, method=method, axes=axes)


@partial(jax.jit, static_argnames=("method", "axes"))
def _weight_step(w: Array, bits: Array, *, method: str, axes: tuple[int, ...]) -> Array:
    blocks, shape = group_rows(jnp.where(jnp.isfinite(w), w, 0.0), axes)
    bits = bits.reshape(-1)
    peak = jnp.abs(blocks).max((1, 2))
    largest = power_of_two(bits - 1, w.dtype)
    if method == "ggd":
        step = closed_form_step(fit(blocks.reshape(blocks.shape[0], -1)).tail, bits, signed=True)
    else:
        step = peak / (largest - 1.0)
        if method == "mse":
            step = step * _least_error(blocks / column(jnp.where(peak > 0, step, 1.0)), largest)
    # A step below the smallest normal number would be flushed to zero.
    step = jnp.maximum(step, jnp.finfo(step.dtype).tiny)
    return jnp.where(peak > 0, step, 1.0 / largest).reshape(shape)


def _least_error(x: Float[Array, "row block value"], largest: Float[Array, " row"]) -> Float[Array, " row"]:
    """Return the step of least squared error of every row, in units of its max-abs step."""

    def error(step: Array) -> Array:
        width = column(step)
        codes = jnp.clip(jnp.round(x / width), column(-largest), column(largest - 1.0))
        return jnp.square(x - width * codes).sum(-1).sum(-1)

    def least(exponents: Float[Array, "cand row"]) -> Array:
        errors = lax.map(lambda e: error(jnp.exp2(e)), exponents)
        return jnp.take_along_axis(exponents, jnp.argmin(errors, axis=0)[None], axis=0)[0]

    rows = x.shape[0]
    # Up to half an octave above max-abs as well: at 2 and 3 bits a coarser grid may fit better.
    coarse = np.arange(PER_OCTAVE // 2, -OCTAVES * PER_OCTAVE - 1, -1) / PER_OCTAVE
    best = least(jnp.broadcast_to(jnp.asarray(coarse, x.dtype)[:, None], (len(coarse), rows)))
    fine = jnp.asarray(np.arange(-FINER, FINER + 1) / (FINER * PER_OCTAVE), x.dtype)
    return jnp.exp2(least(best[None] + fine[:, None]))
