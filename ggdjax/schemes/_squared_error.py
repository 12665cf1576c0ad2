"""The squared error that a step leaves on a histogram, both sides of zero, in units of each tensor's peak."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import jax.numpy as jnp

from ggdjax.ggd import empirical_distortion
from ggdjax.schemes._magnitudes import magnitudes

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Array, Float

    from ggdjax.ggd import Histogram


def squared_error(
    histogram: Histogram, top: Float[Array, "tensor setting"]
) -> Callable[[Float[Array, "tensor setting cand"]], Float[Array, "tensor setting cand"]]:
    """Return the function from steps, in units of each tensor's peak, to the sum of their squared errors.

    In units of the peak, squares neither over- nor underflow. Two's complement has one more code below zero than
    ``top``, the largest code. A step that is not finite and positive counts as infinitely bad.
    """
    peak = magnitudes(histogram).peak
    scale = jnp.where(peak > 0, peak, 1.0)[:, None]
    positive, negative = (
        replace(bins, lower=bins.lower / scale, upper=bins.upper / scale)
        for bins in (histogram.compress(side) for side in ("positive", "negative"))
    )

    def error(step: Float[Array, "tensor setting cand"]) -> Float[Array, "tensor setting cand"]:
        total = jnp.zeros_like(step)
        for bins, levels in ((positive, top), (negative, top + 1.0)):
            total = total + empirical_distortion(bins, step, levels[:, :, None]) * bins.weight.sum(-1)[:, None, None]
        return jnp.where(jnp.isfinite(total), total, jnp.inf)

    return error
