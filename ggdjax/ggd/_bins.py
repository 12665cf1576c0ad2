"""One side of a histogram in 2048 bins, fine near the largest value and coarse far below it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Real

from ggdjax._mapping import for_each

#: Histogram bins of one side, and the first of them that holds no finite value (exponent 255: infinities and NaNs).
SIDE_BINS, FINITE_BINS = 1 << 15, 255 << 7
#: Octaves counted down from that of the largest value, and how many histogram bins are put together in them:
#: 128, 64, 16 and 1 bins per octave. In all 9·128 + 8·64 + 15·16 + 144 = 2048. The last bin takes everything
#: from 2⁻¹⁷⁴ of the top octave down.
_LAYOUT = ((9, 1), (8, 2), (15, 8), (144, 128))
BINS_PER_SIDE = sum(octaves * 128 // width for octaves, width in _LAYOUT)
_WINDOW = sum(octaves for octaves, _ in _LAYOUT[:-1])
_SINGLE = _LAYOUT[-1][0]
#: Bins below the largest value's that say how many values it would hold without a point mass.
BINS_BELOW = 4
#: Values beyond the expected number that are taken for a point mass: the largest values of a continuous tail are
#: alone in their bins. In units of the standard deviation of a count, and at least that many.
_DEVIATIONS, _FEWEST = 4.0, 4.0
_LOG_2 = float(np.log(2.0))


def _layout_table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return per bin: octaves below the top one, lower and upper edge of the mantissa in [0, 1]."""
    octave, low, high, below = [], [], [], 0
    for octaves, width in _LAYOUT:
        start = np.arange(0, 128, width) / 128.0
        octave.append(np.repeat(np.arange(below, below + octaves), start.size))
        low.append(np.tile(start, octaves))
        high.append(np.tile(start + width / 128.0, octaves))
        below += octaves
    return np.concatenate(octave), np.concatenate(low), np.concatenate(high)


_OCTAVE, _LOW, _HIGH = _layout_table()


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Bins:
    """One side: ``weight[b]`` values lie in ``[lower[b], upper[b])``, near ``exp(log_scale + log_x[b])``.

    The bins are those of the histogram (relative width 2⁻⁷ to 2⁻⁸) in the nine octaves from the largest
    value down, put together by 2, by 8 and by whole octaves below. The largest value's bin ends there, and where it
    holds a point mass (ReLU6) it has no width: `lower` = `upper` = the largest value. Counting the values at ``log_x``
    instead of where they are moves the parameters of a fit by less than 1e-4 of themselves for p ≤ 10 (tested).

    Args:
        weight: counts as float32 (relative rounding 6e-8).
        log_x: logarithm of the bin's centre relative to the scale, at most log 2; finite everywhere.
        log_scale: natural logarithm of the power of two at the lower edge of the largest value's octave.
        lower: lower edge, float32, exact for normal numbers.
        upper: upper edge, likewise, at most the largest float32.
    """

    weight: Float[Array, "... bin"]
    log_x: Float[Array, "... bin"]
    log_scale: Float[Array, "..."]
    lower: Float[Array, "... bin"]
    upper: Float[Array, "... bin"]


def on_device(leaf: Array) -> Array:
    """Return a leaf of a histogram as a device array; int64 of the host becomes float32 (the device has no int64)."""
    if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype == np.int64:
        leaf = leaf.astype(np.float32)
    return jax.device_put(leaf) if isinstance(leaf, np.ndarray) else jnp.asarray(leaf)


@partial(jax.jit, static_argnames="side")
def compress_side(counts: Array, minimum: Array, maximum: Array, *, side: str) -> Bins:
    """Return ``side`` of a histogram's counts as `Bins`; the extremes say where its largest value is."""
    batch_shape = counts.shape[:-1]
    counts, minimum, maximum = counts.reshape(-1, 2, 256, 128), minimum.reshape(-1), maximum.reshape(-1)
    up, down = (_biased_exponent(jnp.maximum(v, 0.0)) for v in (maximum, -minimum))
    top = {"positive": up, "negative": down, "magnitude": jnp.maximum(up, down)}[side]
    halves = {"positive": (0,), "negative": (1,), "magnitude": (0, 1)}[side]
    # One tensor at a time: its counts pass through the cache once, and nothing of their size is written.
    weight = for_each(lambda one: sum(_gather(one[0][half], one[1]) for half in halves), (counts, top))
    # Exponent field 0 holds the subnormal numbers: no leading one, and the exponent of field 1.
    field = top[:, None] - jnp.asarray(_OCTAVE, dtype=jnp.int32)[None]
    leading = (field != 0).astype(jnp.float32)
    low, high = (jnp.asarray(t, dtype=jnp.float32)[None] + leading for t in (_LOW, _HIGH))
    largest = {"positive": maximum, "negative": -minimum, "magnitude": jnp.maximum(maximum, -minimum)}[side]
    low, high = _end_at(largest, weight, leading[:, :1], low, high)
    exponent = jnp.maximum(field, 1)
    log_x = jnp.log(0.5 * (low + high)) + (exponent - top[:, None]).astype(jnp.float32) * _LOG_2
    power = lax.bitcast_convert_type(exponent << 23, jnp.float32)
    lower = jnp.where(jnp.arange(BINS_PER_SIDE)[None] < BINS_PER_SIDE - 1, low * power, 0.0)
    upper = jnp.minimum(high * power, float(np.finfo(np.float32).max))
    log_scale = (top - 127).astype(jnp.float32) * _LOG_2
    bins = Bins(weight=weight, log_x=log_x, log_scale=log_scale, lower=lower, upper=upper)
    return jax.tree.map(lambda leaf: leaf.reshape(*batch_shape, *leaf.shape[1:]), bins)


def split_point_mass(counts: Array) -> tuple[Array, Array]:
    """Return a histogram's counts without the point mass at its largest magnitude, and how many values that has."""
    sides = counts.reshape(*counts.shape[:-1], 2, SIDE_BINS)
    magnitude = sides.sum(-2)[..., :FINITE_BINS]
    bins = jnp.broadcast_to(jnp.arange(magnitude.shape[-1], dtype=jnp.int32), magnitude.shape)
    top = jnp.where(magnitude > 0, bins, 0).max(-1, keepdims=True)
    held = jnp.take_along_axis(magnitude, top, axis=-1)[..., 0].astype(jnp.float32)
    extra = excess_count(held, _below(magnitude, top))

    at = jnp.broadcast_to(top[..., None, :], (*sides.shape[:-1], 1))
    usual = jnp.round(jnp.median(_below(sides, at), axis=-1, keepdims=True))
    kept = jnp.minimum(jnp.take_along_axis(sides, at, axis=-1), usual.astype(sides.dtype))
    here = jnp.broadcast_to(jnp.arange(SIDE_BINS, dtype=at.dtype), sides.shape) == at
    return jnp.where((extra > 0)[..., None, None] & here, kept, sides).reshape(counts.shape), extra


def _below(values: Array, top: Array) -> Array:
    """Return the counts of the bins just below the bin ``top`` (last axis of both), largest value first."""
    down = jnp.arange(1, BINS_BELOW + 1, dtype=top.dtype).reshape((1,) * (top.ndim - 1) + (-1,))
    return jnp.take_along_axis(values, jnp.clip(top - down, 0, None), axis=-1).astype(jnp.float32)


def excess_count(held: Array, below: Array) -> Array:
    """Return what a bin holds beyond the median of those ``below`` it (last axis), if that is more than chance makes.

    Zero otherwise. The median, because quantized images have combs for histograms.
    """
    usual = jnp.median(below, axis=-1)
    extra = held - usual
    return jnp.where(extra >= _FEWEST + _DEVIATIONS * jnp.sqrt(usual), extra, 0.0)


def _end_at(largest: Array, weight: Array, leading: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Return the mantissas of the edges: the largest value's bin ends there, a point mass there has no width."""
    bits = lax.bitcast_convert_type(largest, jnp.int32)
    end = leading + (bits & 0x7FFFFF).astype(jnp.float32)[:, None] * 2.0**-23
    at = ((bits >> 16) & 127)[:, None]
    down = at - jnp.arange(1, BINS_BELOW + 1, dtype=at.dtype)[None]
    # The octave below the top one takes the next 128 places.
    below = jnp.take_along_axis(weight, jnp.where(down < 0, down + 256, down), axis=-1)
    is_mass = excess_count(jnp.take_along_axis(weight, at, axis=-1)[:, 0], below) > 0
    here = (jnp.arange(BINS_PER_SIDE, dtype=at.dtype)[None] == at) & (largest > 0)[:, None]
    return jnp.where(here & is_mass[:, None], end, low), jnp.where(here, end, high)


def _biased_exponent(x: Array) -> Array:
    return (lax.bitcast_convert_type(x, jnp.uint32) >> 23).astype(jnp.int32)


def _gather(half: Real[Array, "256 128"], top: Int[Array, ""]) -> Float[Array, " bin"]:
    """Put together the bins of one side of one tensor, from the octave of its largest value down."""
    octaves = top - jnp.arange(_WINDOW, dtype=top.dtype)
    rows = half.at[octaves].get(mode="fill", fill_value=0, wrap_negative_indices=False).astype(jnp.float32)
    parts, below = [], 0
    for count, width in _LAYOUT[:-1]:
        rows_here = rows[below : below + count]
        parts.append(rows_here.reshape(-1, width).sum(-1) if width > 1 else rows_here.reshape(-1))
        below += count
    sums = half.astype(jnp.float32).sum(-1)
    single = top - _WINDOW - jnp.arange(_SINGLE - 1, dtype=top.dtype)
    parts.append(sums.at[single].get(mode="fill", fill_value=0.0, wrap_negative_indices=False))
    parts.append(jnp.where(jnp.arange(256, dtype=top.dtype) <= top - _WINDOW - _SINGLE + 1, sums, 0.0).sum()[None])
    return jnp.concatenate(parts)
