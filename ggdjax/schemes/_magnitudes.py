"""What the schemes read off a histogram: the nonzero magnitudes of each tensor, in units of its largest one.

In units of the peak nothing over- or underflows in float32, and every tensor has the same bins: the 2048
logarithmic bins (sixteen octaves) below the peak. What is smaller still lies in the first bin, which starts at
zero. Within a bin the density is taken as uniform.

Quantiles are computed here, because NumPy's and JAX's want the values, of which there are only counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ggdjax.ggd._histogram import FINITE_BINS, SIDE_BINS, Histogram

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

#: Bins kept below the peak.
BINS = 2048


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Magnitudes:
    """Nonzero magnitudes: a fraction ``weight`` of them lies in ``[lower, upper] · peak``; the weights sum to 1."""

    peak: Float[Array, " tensor"]
    """Largest magnitude, in the tensor's units; 0 where there is no nonzero value."""
    total: Float[Array, " tensor"]
    """How many finite values were counted, zeros included."""
    nonzero_fraction: Float[Array, " tensor"]
    """Nonzero values among all; in [0, 1], 0 for an empty tensor."""
    constant: Bool[Array, " tensor"]
    """All nonzero values share the peak's bin (they agree to one part in 128)."""
    lower: Float[Array, "tensor bin"]
    """Lower edges, units of the peak, ascending from 0."""
    upper: Float[Array, "tensor bin"]
    """Upper edges, units of the peak; the last is 1."""
    weight: Float[Array, "tensor bin"]
    """Fraction of the nonzero values; all 0 where there is none."""
    positive: Float[Array, "tensor bin"]
    """The part of ``weight`` that is positive."""
    survival: Float[Array, "tensor edge"]
    """Fraction of nonzero values above each edge; summed from the tail, where it is small."""

    @property
    def edges(self) -> Float[Array, "tensor edge"]:
        """All edges, ascending from 0 to 1."""
        return jnp.concatenate([self.lower, self.upper[:, -1:]], axis=1)

    @property
    def middle(self) -> Float[Array, "tensor bin"]:
        """The mean magnitude in each bin, units of the peak."""
        return 0.5 * (self.lower + self.upper)

    @property
    def mean(self) -> Float[Array, " tensor"]:
        """``E[|x| : x ≠ 0]``, units of the peak."""
        return jnp.sum(self.weight * self.middle, axis=1)

    @property
    def mean_square(self) -> Float[Array, " tensor"]:
        """``E[x² : x ≠ 0]``, units of the peak squared."""
        low, high = self.lower, self.upper
        return jnp.sum(self.weight * (low * low + low * high + high * high) / 3.0, axis=1)

    def quantile_from_top(self, fraction: Float[Array, " tensor"]) -> Float[Array, " tensor"]:
        """Return the magnitude that ``fraction`` of the nonzero values exceed, units of the peak."""
        survival = self.survival
        inside = jnp.sum((survival > fraction[:, None]).astype(jnp.int32), axis=1) - 1
        index = jnp.clip(inside, 0, BINS - 1)[:, None]
        low, high, mass, above = (
            jnp.take_along_axis(array, index, axis=1)[:, 0]
            for array in (self.lower, self.upper, self.weight, survival[:, 1:])
        )
        share = (fraction - above) / jnp.where(mass > 0, mass, 1.0)
        return jnp.where(inside < 0, 0.0, high - jnp.clip(share, 0.0, 1.0) * (high - low))


def magnitudes(histogram: Histogram) -> Magnitudes:
    """Return the magnitudes of every tensor of a histogram with one leading axis."""
    counts = histogram.counts.astype(jnp.float32)
    sides = counts.reshape(-1, 2, SIDE_BINS)[:, :, :FINITE_BINS]  # positive, negative
    peak = jnp.maximum(jnp.abs(histogram.minimum), jnp.abs(histogram.maximum))
    top = jax.lax.bitcast_convert_type(peak, jnp.int32) >> 16
    index = (top - (BINS - 1))[:, None] + jnp.arange(BINS, dtype=jnp.int32)[None, :]
    inside = index >= 0
    index = jnp.maximum(index, 0)
    kept = jnp.where(inside[:, None], jnp.take_along_axis(sides, index[:, None], axis=2), 0.0)
    below = jnp.where(jnp.arange(FINITE_BINS)[None, None, :] < index[:, None, :1], sides, 0.0)
    kept = kept.at[:, :, 0].add(jnp.sum(below, axis=2))
    weight = jnp.sum(kept, axis=1)
    nonzero = jnp.sum(weight, axis=1)
    share = jnp.maximum(nonzero, 1.0)[:, None]
    total = nonzero + histogram.zeros.astype(jnp.float32)

    scale = jnp.where(peak > 0, peak, 1.0)[:, None]
    lower = jnp.where(inside, jax.lax.bitcast_convert_type(index << 16, jnp.float32) / scale, 0.0)
    lower = jnp.minimum(lower, 1.0).at[:, 0].set(0.0)
    upper = jnp.concatenate([lower[:, 1:], jnp.ones_like(lower[:, :1])], axis=1)
    constant, weight = weight[:, -1] == nonzero, weight / share
    above = jnp.cumsum(weight[:, ::-1], axis=1)[:, ::-1]
    return Magnitudes(
        peak=jnp.where(nonzero > 0, peak, 0.0),
        total=total,
        nonzero_fraction=nonzero / jnp.maximum(total, 1.0),
        constant=constant,
        lower=lower,
        upper=upper,
        weight=weight,
        positive=kept[:, 0] / share,
        survival=jnp.concatenate([above, jnp.zeros_like(above[:, :1])], axis=1),
    )


def drop_negative(histogram: Histogram, where: Bool[Array, " tensor"]) -> Histogram:
    """Return the histogram with the negative values of the tensors ``where`` counted as zeros."""
    negative = histogram.counts[:, SIDE_BINS : SIDE_BINS + FINITE_BINS]
    dropped = jnp.where(where, jnp.sum(negative, axis=1), 0).astype(histogram.zeros.dtype)
    keep = ~where[:, None] | (jnp.arange(2 * SIDE_BINS) < SIDE_BINS)[None, :]
    return replace(
        histogram,
        counts=jnp.where(keep, histogram.counts, 0),
        zeros=histogram.zeros + dropped,
        minimum=jnp.where(where, jnp.maximum(histogram.minimum, 0.0), histogram.minimum),
        maximum=jnp.where(where, jnp.maximum(histogram.maximum, 0.0), histogram.maximum),
    )
