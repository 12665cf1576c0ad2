"""Which values of a feature map are counted: those at a share of its positions, spread over all of it.

Neighbours in an image are alike, and so are its feature maps: a large one tells as much by some of its values as by
all, and a pass that counts is bounded by counting. The positions of an image are cut into runs of one length, and one
position of each run counts, with all channels: another one in each run and for each image, so that no pattern of an
image's own, and no position, is missed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax.numpy as jnp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Array, Float, Int


def run_length(shape: Sequence[int], values: int | None) -> int:
    """Return of how many positions one is taken, so that at least ``values`` of an image are (None: all).

    A divisor of the number of positions: every value that is taken stands for as many.

    Args:
        shape: image, positions of any rank, channel.
        values: of one image and feature map.
    """
    positions = math.prod(shape[1:-1])
    if values is None or len(shape) < 3:
        return 1
    longest = min(positions, positions * shape[-1] // values)
    return next((n for n in range(longest, 1, -1) if positions % n == 0), 1)


def spread_positions(
    x: Float[Array, "image *position chan"], run: int, numbers: Int[Array, " image"]
) -> Float[Array, "image taken chan"]:
    """Return the values at one position of each run of ``run``; ``numbers`` tells images apart."""
    rows = x.reshape(-1, x.shape[-1])
    taken = rows.shape[0] // x.shape[0] // run
    # Multiplicative hashing (Knuth, "The Art of Computer Programming", volume 3, 6.4).
    hashed = numbers[:, None].astype(jnp.uint32) * jnp.uint32(2654435769)
    hashed += jnp.arange(taken, dtype=jnp.uint32)[None] * jnp.uint32(2246822519)
    within = (hashed >> 16) % run
    first = jnp.arange(x.shape[0] * taken, dtype=jnp.int32).reshape(x.shape[0], taken) * run
    return rows.at[first + within.astype(jnp.int32)].get(mode="promise_in_bounds")


def extremes(x: Float[Array, "*position chan"]) -> tuple[Array, Array]:
    """Return the least and largest value; NaN where one is.

    As rows of channels, the shape that layers read: of another one XLA computes the whole tensor again.
    """
    rows = x.reshape(-1, x.shape[-1] if x.ndim else 1)
    low, high, total = (reduce(reduce(rows, axis=0)) for reduce in (jnp.min, jnp.max, jnp.sum))
    # XLA's vector instructions on a CPU leave NaN out of minimum and maximum; a sum never does.
    return jnp.where(jnp.isnan(total), jnp.nan, low), jnp.where(jnp.isnan(total), jnp.nan, high)
