"""Brute force: the clip of least squared error on the calibration histogram. The oracle for one uniform step per
tensor.

The search of many tools (AIMET's "enhanced", PPQ's and Brevitas's "mse", and others): 400 clips, 1/400 … 400/400 of
the peak, ``step = clip / qmax``, the error of each measured on the data; the least wins. Here the error is
integrated exactly over the histogram's bins (`ggdjax.ggd.empirical_distortion`), and two finer grids around the
winner follow, so that the result does not depend on how far the outliers are from the body: the published grid is
coarse where the best clip is a few hundredths of the peak.

It minimizes the error on the calibration images, outliers and all; on other images a fitted density can do better.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import jax.numpy as jnp

from ggdjax.ggd import empirical_distortion
from ggdjax.schemes._magnitudes import magnitudes
from ggdjax.schemes.protocol import top_code
from ggdjax.schemes.registry import register

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from ggdjax.ggd import Bins, Histogram

#: Clips of the first grid, and of each finer one between the neighbours of the winner.
CANDIDATES, FINER = 400, 32
#: How many finer grids: the last is (FINER / 2)² times as fine as the first.
ROUNDS = 2


@register("mse-search", paper="brute force", searches_data=True)
def mse_search(
    histogram: Histogram, bits: Int[Array, "setting tensor"], signed: Bool[Array, "setting tensor"]
) -> Float[Array, "setting tensor"]:
    """Return ``clip / qmax`` with the clip of least squared error."""
    peak = magnitudes(histogram).peak
    scale = jnp.where(peak > 0, peak, 1.0)[:, None]
    positive, negative = (_relative(histogram.compress(side), scale) for side in ("positive", "negative"))
    top = top_code(bits, signed).T[:, :, None]
    bottom = top + 1.0

    def error(clip: Float[Array, "tensor setting cand"]) -> Float[Array, "tensor setting cand"]:
        """Sum of squared errors over both sides; two's complement has one more code below zero."""
        sides = ((positive, top), (negative, bottom))
        return sum(
            empirical_distortion(bins, clip / top, levels) * bins.weight.sum(-1)[:, None, None]
            for bins, levels in sides
        )

    spacing = 1.0 / CANDIDATES
    grid = spacing * jnp.arange(1, CANDIDATES + 1, dtype=jnp.float32)
    best = _least(jnp.broadcast_to(grid[None, None, :], (*top.shape[:2], CANDIDATES)), error)
    for _ in range(ROUNDS):
        around = (jnp.arange(1, FINER, dtype=jnp.float32) - FINER / 2) * (2.0 / FINER)  # inside (−1, 1), 0 among them
        clips = best[:, :, None] + spacing * around[None, None, :]
        best = _least(jnp.minimum(clips, 1.0), error)
        spacing = spacing * 2.0 / FINER
    return (best[:, :] / top[:, :, 0]).T * peak[None, :]


def _relative(bins: Bins, scale: Float[Array, "tensor 1"]) -> Bins:
    """Return the bins in units of the tensor's peak, where squares neither over- nor underflow."""
    return replace(bins, lower=bins.lower / scale, upper=bins.upper / scale)


def _least(clips: Float[Array, "tensor setting cand"], error) -> Float[Array, "tensor setting"]:
    """Return the clip of least error."""
    return jnp.take_along_axis(clips, jnp.argmin(error(clips), axis=-1)[:, :, None], axis=-1)[:, :, 0]
