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

from typing import TYPE_CHECKING

import jax.numpy as jnp

from ggdjax.schemes._choice import Searched
from ggdjax.schemes._magnitudes import magnitudes
from ggdjax.schemes._prediction import predict
from ggdjax.schemes._protocol import SchemeClass, Solution, top_code
from ggdjax.schemes._registry import register
from ggdjax.schemes._squared_error import squared_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Array, Bool, Float, Int

    from ggdjax.ggd import Histogram

#: Clips of the first grid, and of each finer one between the neighbours of the winner.
CANDIDATES, FINER = 400, 32
#: How many finer grids: the last is (FINER / 2)² times as fine as the first.
ROUNDS = 2


@register("mse-search", paper="brute force", kind=SchemeClass.SEARCH)
def mse_search(
    histogram: Histogram, bits: Int[Array, "setting tensor"], signed: Bool[Array, "setting tensor"]
) -> Solution:
    """Return ``clip / qmax`` with the clip of least squared error."""
    size = magnitudes(histogram)
    top = top_code(bits, signed).T[:, :, None]
    error_of_step = squared_error(histogram, top[:, :, 0])

    def error(clip: Float[Array, "tensor setting cand"]) -> Float[Array, "tensor setting cand"]:
        return error_of_step(clip / top)

    spacing = 1.0 / CANDIDATES
    grid = spacing * jnp.arange(1, CANDIDATES + 1, dtype=jnp.float32)
    best, least = _least(jnp.broadcast_to(grid[None, None, :], (*top.shape[:2], CANDIDATES)), error)
    for _ in range(ROUNDS):
        around = (jnp.arange(1, FINER, dtype=jnp.float32) - FINER / 2) * (2.0 / FINER)  # inside (−1, 1), 0 among them
        clips = best[:, :, None] + spacing * around[None, None, :]
        best, least = _least(jnp.minimum(clips, 1.0), error)
        spacing = spacing * 2.0 / FINER
    step = (best / top[:, :, 0]).T * size.peak[None, :]
    energy = size.total * size.nonzero_fraction * size.mean_square
    minimum = least.T / jnp.where(energy > 0, energy, 1.0)[None, :]
    return Solution(step, evidence=Searched(minimum=minimum, **predict(size, step, bits, signed)._asdict()))


def _least(
    clips: Float[Array, "tensor setting cand"], error: Callable[[Array], Array]
) -> tuple[Float[Array, "tensor setting"], Float[Array, "tensor setting"]]:
    """Return the clip of least error, and that error."""
    errors = error(clips)
    at = jnp.argmin(errors, axis=-1)[:, :, None]
    clip, error_there = (jnp.take_along_axis(values, at, axis=-1)[:, :, 0] for values in (clips, errors))
    return clip, error_there
