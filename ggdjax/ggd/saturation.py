"""Saturation: a point mass at the largest magnitude, which no density describes.

Feature maps after ReLU6, and images with over-exposed pixels, are a wider variable cut off: every value beyond the
limit became the limit. `split_saturation` takes that mass out of a histogram, so that the rest can be fitted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ggdjax.ggd.bins import on_device
from ggdjax.ggd.histogram import SIDE_BINS, Histogram

#: Bins below the largest value's that say how many values it would hold without a point mass.
_BELOW = 4
#: Values beyond the expected number that are taken for a point mass: the largest values of a continuous tail are
#: alone in their bins. In units of the standard deviation of a count, and at least so many.
_DEVIATIONS, _FEWEST = 4.0, 4.0


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
    counts = on_device(histogram.counts)
    sides = counts.reshape(*counts.shape[:-1], 2, SIDE_BINS)
    magnitude = sides.sum(-2)[..., : SIDE_BINS - 128]  # without infinities and NaNs
    bins = jnp.broadcast_to(jnp.arange(magnitude.shape[-1], dtype=jnp.int32), magnitude.shape)
    top = jnp.where(magnitude > 0, bins, 0).max(-1, keepdims=True)

    def expected(values: Array, at: Array) -> Array:
        steps_down = jnp.arange(1, _BELOW + 1, dtype=at.dtype).reshape((1,) * (at.ndim - 1) + (-1,))
        below = jnp.clip(at - steps_down, 0, None)
        # The median, because quantized images have combs for histograms.
        return jnp.median(jnp.take_along_axis(values, below, axis=-1).astype(jnp.float32), axis=-1, keepdims=True)

    held = jnp.take_along_axis(magnitude, top, axis=-1).astype(jnp.float32)
    usual = expected(magnitude, top)
    extra = held - usual
    is_mass = extra >= _FEWEST + _DEVIATIONS * jnp.sqrt(usual)
    count = magnitude.sum(-1).astype(jnp.float32) + jnp.asarray(on_device(histogram.zeros)).astype(jnp.float32)
    weight = jnp.where(is_mass, extra, 0.0)[..., 0] / jnp.maximum(count, 1.0)

    at = jnp.broadcast_to(top[..., None, :], (*sides.shape[:-1], 1))
    own = jnp.stack([expected(side, top) for side in (sides[..., 0, :], sides[..., 1, :])], axis=-2)
    kept = jnp.minimum(jnp.take_along_axis(sides, at, axis=-1), jnp.round(own).astype(sides.dtype))
    here = jnp.broadcast_to(jnp.arange(SIDE_BINS, dtype=at.dtype), sides.shape) == at
    rest = jnp.where(is_mass[..., None, :] & here, kept, sides).reshape(counts.shape)
    limit = jnp.maximum(jnp.abs(jnp.asarray(histogram.minimum)), jnp.abs(jnp.asarray(histogram.maximum)))
    return replace(histogram, counts=rest), Saturation(limit=limit, weight=weight)
