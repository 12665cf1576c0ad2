"""The squared error that a step leaves on a histogram, both sides of zero, in units of each tensor's peak."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import jax.numpy as jnp

from ggdjax.ggd import Histogram, empirical_distortion
from ggdjax.ggd._histogram import SIDE_BINS
from ggdjax.schemes._magnitudes import magnitudes

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Array, Float


def squared_error(
    histogram: Histogram, top: Float[Array, "tensor setting"]
) -> Callable[[Float[Array, "tensor setting cand"]], Float[Array, "tensor setting cand"]]:
    """Return the function from steps, in units of each tensor's peak, to the sum of their squared errors.

    In units of the peak, squares neither over- nor underflow. Two's complement has one more code below zero than
    ``top``, the largest code. A step that is not finite and positive counts as infinitely bad.
    """
    peak = magnitudes(histogram).peak
    scale = jnp.where(peak > 0, peak, 1.0)[:, None]
    # Both sides as twice as many tensors: one program for them.
    sides = Histogram(
        counts=_both(histogram.counts, jnp.roll(histogram.counts, SIDE_BINS, axis=-1)),
        zeros=_both(histogram.zeros, histogram.zeros),
        minimum=_both(histogram.minimum, -histogram.maximum),
        maximum=_both(histogram.maximum, -histogram.minimum),
    )
    bins = sides.compress("positive")
    bins = replace(bins, lower=bins.lower / _both(scale, scale), upper=bins.upper / _both(scale, scale))
    levels = _both(top, top + 1.0)[:, :, None]

    def error(step: Float[Array, "tensor setting cand"]) -> Float[Array, "tensor setting cand"]:
        errors = empirical_distortion(bins, _both(step, step), levels) * bins.weight.sum(-1)[:, None, None]
        total = errors[: len(step)] + errors[len(step) :]
        return jnp.where(jnp.isfinite(total), total, jnp.inf)

    return error


def _both(positive: Array, negative: Array) -> Array:
    return jnp.concatenate([jnp.asarray(positive), jnp.asarray(negative)])
