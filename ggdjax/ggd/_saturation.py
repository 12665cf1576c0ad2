"""Saturation: a point mass at the largest magnitude, which no density describes.

Feature maps after ReLU6, and images with over-exposed pixels, are a wider variable cut off: every value beyond the
limit became the limit. `split_saturation` takes that mass out of a histogram, so that the rest can be fitted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ggdjax._errors import expect
from ggdjax.ggd._bins import FINITE_BINS, SIDE_BINS, on_device, split_point_mass
from ggdjax.ggd._histogram import Histogram


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Saturation:
    """The point mass of each tensor; all leaves have the batch shape of the histogram."""

    limit: Float[Array, "..."]
    """Largest magnitude, in the tensor's units."""
    weight: Float[Array, "..."]
    """Share of all values (zeros included) that lies there; 0 where there is no point mass."""


def split_saturation(histogram: Histogram) -> tuple[Histogram, Saturation]:
    """Return the histogram without the point mass at its largest magnitude, and that point mass.

    Both signs count together. The mass is what the bin of the largest magnitude (128 per octave) holds beyond the
    median of the four bins below it, if that is more than chance makes. Works under `jit`; the counts
    that come back have the type of ``histogram.counts`` on the device.
    """
    expect("histogram", histogram, "Histogram")
    counts = on_device(histogram.counts)
    rest, extra = split_point_mass(counts)
    magnitude = counts.reshape(*counts.shape[:-1], 2, SIDE_BINS).sum(-2)[..., :FINITE_BINS]
    count = magnitude.sum(-1).astype(jnp.float32) + on_device(histogram.zeros).astype(jnp.float32)
    weight = extra / jnp.maximum(count, 1.0)
    limit = jnp.maximum(jnp.abs(jnp.asarray(histogram.minimum)), jnp.abs(jnp.asarray(histogram.maximum)))
    return replace(histogram, counts=rest), Saturation(limit=limit, weight=weight)
