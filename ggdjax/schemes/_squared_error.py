"""The squared error that a step leaves on a histogram, both sides of zero, in units of each tensor's peak."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import jax.numpy as jnp

from ggdjax.ggd import Histogram, empirical_distortion
from ggdjax.ggd._bins import Bins
from ggdjax.ggd._histogram import SIDE_BINS
from ggdjax.schemes._magnitudes import magnitudes

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Array, Float

    from ggdjax.schemes._magnitudes import Magnitudes


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
    return _error_on(bins, top)


def squared_error_of(
    size: Magnitudes, top: Float[Array, "tensor setting"]
) -> Callable[[Float[Array, "tensor setting cand"]], Float[Array, "tensor setting cand"]]:
    """Return `squared_error` of magnitudes, per nonzero value; it knows of no point mass at the peak."""
    lower, upper = _both(size.lower, size.lower), _both(size.upper, size.upper)
    weight = _both(size.positive, size.weight - size.positive)
    log_x = jnp.log(jnp.maximum(0.5 * (lower + upper), float(jnp.finfo(jnp.float32).tiny)))
    return _error_on(Bins(weight=weight, log_x=log_x, log_scale=weight[:, 0], lower=lower, upper=upper), top)


def _error_on(
    sides: Bins, top: Float[Array, "tensor setting"]
) -> Callable[[Float[Array, "tensor setting cand"]], Float[Array, "tensor setting cand"]]:
    levels = _both(top, top + 1.0)[:, :, None]

    def error(step: Float[Array, "tensor setting cand"]) -> Float[Array, "tensor setting cand"]:
        errors = empirical_distortion(sides, _both(step, step), levels) * sides.weight.sum(-1)[:, None, None]
        total = errors[: len(step)] + errors[len(step) :]
        return jnp.where(jnp.isfinite(total), total, jnp.inf)

    return error


def _both(positive: Array, negative: Array) -> Array:
    return jnp.concatenate([jnp.asarray(positive), jnp.asarray(negative)])
