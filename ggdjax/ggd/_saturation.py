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
from ggdjax.ggd._bins import BINS_BELOW, excess_count, on_device
from ggdjax.ggd._histogram import FINITE_BINS, SIDE_BINS, Histogram


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
    sides = counts.reshape(*counts.shape[:-1], 2, SIDE_BINS)
    magnitude = sides.sum(-2)[..., :FINITE_BINS]
    bins = jnp.broadcast_to(jnp.arange(magnitude.shape[-1], dtype=jnp.int32), magnitude.shape)
    top = jnp.where(magnitude > 0, bins, 0).max(-1, keepdims=True)
    held = jnp.take_along_axis(magnitude, top, axis=-1)[..., 0].astype(jnp.float32)
    extra = excess_count(held, _below(magnitude, top))
    is_mass = extra > 0
    count = magnitude.sum(-1).astype(jnp.float32) + on_device(histogram.zeros).astype(jnp.float32)
    weight = extra / jnp.maximum(count, 1.0)

    at = jnp.broadcast_to(top[..., None, :], (*sides.shape[:-1], 1))
    usual = jnp.round(jnp.median(_below(sides, at), axis=-1, keepdims=True))
    kept = jnp.minimum(jnp.take_along_axis(sides, at, axis=-1), usual.astype(sides.dtype))
    here = jnp.broadcast_to(jnp.arange(SIDE_BINS, dtype=at.dtype), sides.shape) == at
    rest = jnp.where(is_mass[..., None, None] & here, kept, sides).reshape(counts.shape)
    limit = jnp.maximum(jnp.abs(jnp.asarray(histogram.minimum)), jnp.abs(jnp.asarray(histogram.maximum)))
    return replace(histogram, counts=rest), Saturation(limit=limit, weight=weight)


def _below(values: Array, top: Array) -> Array:
    """Return the counts of the bins just below the bin ``top`` (last axis of both), largest value first."""
    down = jnp.arange(1, BINS_BELOW + 1, dtype=top.dtype).reshape((1,) * (top.ndim - 1) + (-1,))
    return jnp.take_along_axis(values, jnp.clip(top - down, 0, None), axis=-1).astype(jnp.float32)
