"""The mean squared error that a step leaves on the whole of a tensor, as its histogram and a fit tell.

Rounding errors are integrated over the histogram, the density uniform in each bin, zeros without error: at many bits
that is ``Δ²/12`` per value outside the zero cell, whatever the density, and a fit weighted towards the tail does not
describe the zero cell. Beyond the range the calibration images have few values, and the fitted density takes over. A
point mass at the largest magnitude has its own error.

Pixels are multiples of one number, and the largest is among them. Their errors are those of single points, which no
density describes: 16 grey levels under 8 bits lie on codes almost exactly. `_lattice` finds the number.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from ggdjax._mapping import for_each
from ggdjax.schemes._choice import PredictionCode
from ggdjax.schemes._protocol import levels
from ggdjax.steps import overload

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from ggdjax.ggd import Saturation, TailWeighted
    from ggdjax.schemes._magnitudes import Magnitudes

#: Most points of a lattice, those of 8-bit pixels; the logarithm of the probability below which bins that all hold a
#: multiple of one number do so by chance; the share of a point's distance that rounding may move an edge.
_POINTS, _BY_CHANCE, _ROUNDING = 256, -16.0, 1e-4


class Prediction(NamedTuple):
    """The fields of the evidence; arrays of axes ``setting tensor``."""

    distortion: Array
    sqnr_db: Array
    prediction: Array


def predict(
    size: Magnitudes,
    step: Float[Array, "setting tensor"],
    bits: Int[Array, "setting tensor"],
    signed: Bool[Array, "setting tensor"],
    *,
    tail: TailWeighted | None = None,
    saturation: Saturation | None = None,
) -> Prediction:
    """Return the predicted error and SQNR of given steps.

    Args:
        size: the histogram's magnitudes.
        step: the steps, in the tensors' units.
        tail: fit of the magnitudes below the saturation, batch shape ``setting tensor``; None: the histogram alone.
        saturation: the point mass kept out of that fit, batch shape ``tensor``.
    """
    peak = jnp.where(size.peak > 0, size.peak, 1.0)
    count, nonzero = levels(bits, signed), size.nonzero_fraction
    relative = step / peak[None, :]
    # Shares of the nonzero values.
    at_limit = jnp.zeros_like(peak) if saturation is None else saturation.weight / jnp.where(nonzero > 0, nonzero, 1.0)
    one = partial(_errors, beyond=tail is None)
    body, error_at_limit, discrete, negative = for_each(
        lambda tensor: one(*tensor),
        (size.lower, size.upper, size.weight, size.positive, at_limit, relative.T, count.T, signed.T),
    )
    total = body.T + at_limit[None, :] * error_at_limit.T
    if tail is not None:
        limit = jnp.where(at_limit > 0, peak, jnp.inf)[None, :]
        rest = (1.0 - at_limit)[None, :]
        sides = overload(tail, step[None], jnp.stack([count, count + 1.0]), limit=limit)
        share = jnp.where(signed, negative[None, :], 0.0)
        total = total + rest * ((1.0 - share) * sides[0] + share * sides[1])
    total = jnp.where(discrete[None, :], body.T, total) * nonzero[None, :]
    energy = (size.mean_square * nonzero)[None, :]
    squared = relative * relative * total
    counted = PredictionCode.COUNTED if tail is None else PredictionCode.FITTED
    code = jnp.where(discrete, PredictionCode.DISCRETE, counted)
    return Prediction(
        distortion=jnp.minimum(step * (step * total), jnp.finfo(step.dtype).max),
        sqnr_db=10.0 * (jnp.log10(energy) - jnp.log10(squared)),
        prediction=jnp.broadcast_to(code[None, :], step.shape).astype(jnp.int32),
    )


def _errors(
    lower: Float[Array, " bin"],
    upper: Float[Array, " bin"],
    weight: Float[Array, " bin"],
    positive: Float[Array, " bin"],
    at_limit: Float[Array, ""],
    step: Float[Array, " setting"],
    count: Float[Array, " setting"],
    signed: Bool[Array, " setting"],
    *,
    beyond: bool,
) -> tuple[Array, Array, Array, Array]:
    """Return a tensor's error, that of a value at the limit, whether it is discrete, the negative values' energy.

    Errors in squared steps, the energy as a share. The first is per nonzero value, of the values within the range, or
    of all of them if ``beyond`` or if the tensor is discrete.
    """
    negative = weight - positive
    points = _lattice(lower, upper, weight)
    discrete = points > 0
    width, square = step[:, None], upper * upper
    sides = jnp.stack([positive, negative])
    # Two's complement has one more code below zero; unsigned codes none, and every value there is lost.
    tops = jnp.stack([count - 1.0, jnp.where(signed, count, 0.0)])[:, :, None]
    ends = jnp.where(beyond, jnp.inf, tops + 0.5)
    low, high = lower[None, :] / width, upper[None, :] / width

    def cells() -> Array:
        return _mean_error(low[None], high[None], tops, ends)

    def lattice() -> Array:
        first, last = _multiples(lower, upper, points)
        inside = (k / jnp.maximum(points, 1.0) for k in (first, last))
        z = (value[None, None, :] / width[None] for value in inside)
        at_first, at_last = (jnp.square(v - jnp.minimum(jnp.round(v), tops)) for v in z)
        return 0.5 * (at_first + at_last)

    share = at_limit / jnp.where(weight[-1] > 0, weight[-1], 1.0)
    kept = sides.at[:, -1].multiply(jnp.where(discrete, 1.0, jnp.maximum(1.0 - share, 0.0)))
    error = jax.lax.cond(discrete, lattice, cells)
    body = jnp.sum(kept[:, None, :] * error, axis=(0, 2))
    own = sides[:, -1] / jnp.where(weight[-1] > 0, weight[-1], 1.0)
    z = 1.0 / step[None, :]
    error_at_limit = jnp.sum(own[:, None] * jnp.square(z - jnp.minimum(jnp.round(z), tops[:, :, 0])), axis=0)
    energy = jnp.sum(weight * square)
    return body, error_at_limit, discrete, jnp.sum(negative * square) / jnp.where(energy > 0, energy, 1.0)


def _mean_error(low: Array, high: Array, tops: Array, ends: Array) -> Array:
    """Return the mean of ``(z − min(round(z), top))²`` over [low, high], what lies beyond ``ends`` counted as 0."""
    a, b = jnp.minimum(low, ends), jnp.minimum(high, ends)
    code_a, code_b = (jnp.minimum(jnp.round(z), tops) for z in (a, b))
    r_a, r_b = a - code_a, b - code_b
    integral = (code_b - code_a) / 12.0 + (r_b - r_a) * (r_b * r_b + r_b * r_a + r_a * r_a) / 3.0
    spread = high > low
    at = jnp.where(low <= ends, r_a * r_a, 0.0)
    return jnp.where(spread, integral / jnp.where(spread, high - low, 1.0), at)


def _multiples(lower: Array, upper: Array, points: Array) -> tuple[Array, Array]:
    """Return the first and the last k with ``k / points`` in ``[lower, upper)``, the peak 1 included; float32."""
    last = jnp.where(upper >= 1.0, points, jnp.ceil(upper * points - _ROUNDING) - 1.0)
    return jnp.ceil(lower * points - _ROUNDING), last


def _lattice(lower: Float[Array, " bin"], upper: Float[Array, " bin"], weight: Float[Array, " bin"]) -> Array:
    """Return the least K for which every value may be a multiple of peak/K, or 0 where there is none; float32.

    By chance a bin of width w holds a multiple with probability K w: bins for which that is likely prove nothing.
    """
    held = weight > 0

    def search() -> Array:
        points = jnp.arange(1, _POINTS + 1, dtype=weight.dtype)[:, None]
        first, last = _multiples(lower[None], upper[None], points)
        fits = jnp.all((first <= last) | ~held[None], axis=1)
        chance = jnp.log(jnp.clip((upper - lower)[None] * points, 1e-9, 1.0))
        proven = jnp.sum(jnp.where(held[None], chance, 0.0), axis=1) < _BY_CHANCE
        good = fits & proven & ~held[0]
        return jnp.where(jnp.any(good), jnp.argmax(good) + 1, 0).astype(weight.dtype)

    return jax.lax.cond(jnp.sum(held) <= _POINTS, search, lambda: jnp.zeros((), weight.dtype))
