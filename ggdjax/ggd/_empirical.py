"""Distortion of a uniform quantizer measured on a histogram, without going back to the data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from ggdjax._errors import GgdjaxError, expect
from ggdjax._mapping import for_each
from ggdjax.ggd._bins import Bins, on_device
from ggdjax.ggd._histogram import Histogram

#: Candidates evaluated at a time for one tensor: 32 rows of 2048 bins stay in a CPU's second-level cache.
_CANDIDATES = 32


def empirical_distortion(
    data: Histogram | Bins,
    step: ArrayLike,
    levels_positive: ArrayLike,
    levels_negative: ArrayLike = 0,
) -> Float[Array, "..."]:
    """Return the mean squared error of ``x_hat = step · clip(round(x/step), −levels_negative, levels_positive)``.

    The error is integrated in closed form inside each bin, the density there taken as uniform: with
    ``k = clip(round(x/Δ))`` and ``r = x − kΔ``, its antiderivative is ``G(x) = kΔ³/12 + r³/3``, overload included.
    A point mass at the largest magnitude (ReLU6) is taken to lie there exactly.
    Zeros count as values without error.

    Args:
        data: a `Histogram` (mean over all finite values), or one side of it as `Bins` (over the values there).
        step: Δ > 0. Its leading axes are the batch shape of ``data``; any further axes are candidates.
        levels_positive: largest code (N − 1), broadcast against ``step``.
        levels_negative: minus the smallest code, likewise; of no use for one side (`Bins`).

    Returns:
        The distortion, of the shape of ``step``; nan where ``step`` is not positive.

    Example:
        >>> h = gd.Histogram.from_samples(jnp.array([0.0, 1.0, 2.0, 9.0]))
        >>> round(float(gd.ggd.empirical_distortion(h, step=1.0, levels_positive=7)), 2)  # 9 clips to 7
        1.0
    """
    expect("data", data, "Histogram", "Bins")
    sides = [data] if isinstance(data, Bins) else [data.compress("positive"), data.compress("negative")]
    batch_shape = sides[0].weight.shape[:-1]
    step, *levels = (x if isinstance(x, jax.Array) else np.asarray(x) for x in (step, levels_positive, levels_negative))
    if np.shape(step)[: len(batch_shape)] != batch_shape:
        raise GgdjaxError(f"`step` has shape {np.shape(step)}; expected it to start with the batch shape {batch_shape}")
    levels = levels[: len(sides)]
    if wrong := [np.shape(given) for given in levels if np.ndim(given) > np.ndim(step)]:
        raise GgdjaxError(f"`levels` have shape {wrong[0]}; expected one that broadcasts to {np.shape(step)}")
    return _mean_squared_error(sides, None if isinstance(data, Bins) else on_device(data.count), step, levels)


def empirical_sqnr_db(
    histogram: Histogram, step: ArrayLike, levels_positive: ArrayLike, levels_negative: ArrayLike
) -> Float[np.ndarray, "..."]:
    """Return the signal over `empirical_distortion` in dB: infinite where nothing is lost, NaN without a signal."""
    error = np.asarray(empirical_distortion(histogram, step, levels_positive, levels_negative), np.float64)
    energy = np.asarray(histogram.power_sum(2), np.float64) / np.maximum(np.asarray(histogram.count, np.float64), 1.0)
    energy = np.where(energy > 0, energy, np.nan)
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(energy.reshape(energy.shape + (1,) * (error.ndim - energy.ndim)) / error)


@jax.jit
def _mean_squared_error(sides: list[Bins], count: Array | None, step: Array, levels: list[Array]) -> Array:
    step = jnp.asarray(step).astype(sides[0].weight.dtype)
    rank = sides[0].weight.ndim - 1
    count = (sides[0].weight.sum(-1) if count is None else count).astype(jnp.float32)
    total = jnp.zeros_like(step)
    for bins, given in zip(sides, levels, strict=True):
        largest = jnp.asarray(given).astype(step.dtype)
        largest = largest.reshape((1,) * (step.ndim - largest.ndim) + largest.shape)
        total = total + _squared_error(bins, step, jnp.broadcast_to(largest, step.shape))
    total = jnp.where(step > 0, total, jnp.nan)
    return total / jnp.maximum(count, 1.0).reshape(count.shape + (1,) * (step.ndim - rank))


def _squared_error(bins: Bins, step: Array, levels: Array) -> Array:
    """Return the summed squared error of one side for every tensor and candidate."""
    tensors = int(np.prod(bins.weight.shape[:-1]))
    flat = jax.tree.map(lambda leaf: leaf.reshape(tensors, -1), (bins.weight, bins.lower, bins.upper))

    def tensor(one: tuple[Array, ...]) -> Array:
        weight, lower, upper, steps, tops = one

        def candidate(pair: tuple[Array, Array]) -> Array:
            delta, top = pair
            # In units of the step, so that cubes of very small or large values stay in range.
            low, high = lower / delta, upper / delta
            code_low, code_high = (jnp.minimum(jnp.round(t), top) for t in (low, high))
            r_low, r_high = low - code_low, high - code_high
            cells = (code_high - code_low) / 12.0
            ends = (r_high - r_low) * (r_high * r_high + r_high * r_low + r_low * r_low) / 3.0
            # A bin of no width is a point mass.
            spread = high > low
            mean = jnp.where(spread, (cells + ends) / jnp.where(spread, high - low, 1.0), r_low * r_low)
            mean = jnp.where(weight > 0, mean, 0.0)
            return delta * delta * (weight * mean).sum()

        return lax.map(candidate, (steps, tops), batch_size=min(_CANDIDATES, steps.shape[0]))

    steps, tops = step.reshape(tensors, -1), levels.reshape(tensors, -1)
    return for_each(tensor, (*flat, steps, tops)).reshape(step.shape)
