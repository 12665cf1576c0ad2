"""The order m of the tail-weighted fit, chosen per tensor by the distortion that its step leaves on the data."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ggdjax._errors import GgdjaxError, expect
from ggdjax.ggd._bins import Bins
from ggdjax.ggd._empirical import empirical_distortion
from ggdjax.ggd._histogram import Histogram, Side
from ggdjax.ggd._tail import TailWeighted
from ggdjax.ggd._weighted_fit import fit_weighted

#: Orders tried. Above the default one the fit hangs on so few of the largest values that a gain on the calibration data
#: does not last: with 16 images one choice of order 4 lost 8 dB on held-out ones (`orders_on_networks`).
ORDERS = (0.0, 1.0, 2.0, 3.0)
#: The order returned where none is better by more than ``_TIE_DB``, a difference that no measurement resolves.
_DEFAULT, _TIE_DB = 3.0, 0.4
#: Grid of the support equation: octaves below and above the octave of the largest value, points per octave.
_BELOW, _ABOVE, _PER_OCTAVE = 12, 6, 32


def choose_order(
    histogram: Histogram,
    *,
    side: Side = "auto",
    bits: tuple[int, ...] = (4, 6, 8),
    split_axis: int | None = None,
) -> Float[Array, "..."]:
    """Return the order in 0 … 3 whose fitted step leaves the least distortion, averaged in dB over ``bits``.

    For every order the fit gives a support L by the support equation (Hui and Neuhoff, IEEE Trans. IT 47, 2001)

        ∫_L^∞ (x − L) f dx = L / (12 N²),

    and the step ``L/(N − ½)`` is judged by its exact distortion on the histogram.

    Args:
        histogram: one tensor per batch element.
        side: as in `fit`.
        bits: bit widths the order is chosen for: one width, or several to share one order.
        split_axis: batch axis of splits of the images. If given, each split in turn is left out of the fit and
            judges it (cross-validation), and the result has the batch shape without that axis.

    Raises:
        GgdjaxError: an unknown side, no bit width or one below 2, `split_axis` without at least 2 splits.
    """
    expect("histogram", histogram, "Histogram")
    if not bits or min(bits) < 2:
        raise GgdjaxError(f"`bits` is {bits!r}; expected at least one bit width ≥ 2")
    if split_axis is None:
        merged = histogram
        train = test = histogram.compress(side)
    else:
        merged, aligned = histogram.aligned_splits(split_axis, fewest=2)
        test = aligned.compress(side)
        # The bins align: those of the rest are those of the whole minus those left out.
        train = replace(test, weight=test.weight.sum(split_axis, keepdims=True) - test.weight)
    return _choose(train, test, jnp.asarray(merged.is_signed), bits=tuple(bits), split_axis=split_axis)


@partial(jax.jit, static_argnames=("bits", "split_axis"))
def _choose(train: Bins, test: Bins, signed: Array, *, bits: tuple[int, ...], split_axis: int | None) -> Array:
    shape = train.log_scale.shape
    orders = jnp.asarray(ORDERS, dtype=jnp.float32)
    many = (*shape, orders.size)
    axis = len(shape)
    # Order becomes the last batch axis of the fits.
    log_x, weight = (
        jnp.broadcast_to(jnp.expand_dims(v, axis), (*many, v.shape[-1])) for v in (train.log_x, train.weight)
    )
    order = jnp.broadcast_to(orders.reshape((1,) * axis + (-1,)), many)
    # Relative to the scale of the bins: nothing here can leave the range of float32.
    tail = fit_weighted(log_x, weight, order).tail
    signed = jnp.broadcast_to(signed if split_axis is None else jnp.expand_dims(signed, split_axis), shape)
    half = jnp.where(signed, 0.5, 1.0)[..., None]
    levels = jnp.stack([half * 2.0**b for b in bits], axis=-1)  # (..., 1, bits)
    support = _support(tail, levels)
    step = support / (levels - 0.5)
    scale = jnp.exp(jnp.maximum(test.log_scale, -87.0))[..., None]
    relative = replace(test, lower=test.lower / scale, upper=test.upper / scale)
    distortion = empirical_distortion(relative, step, levels - 1.0)
    if split_axis is not None:
        count = test.weight.sum(-1)[..., None, None]
        distortion = (distortion * count).sum(split_axis)
    score = 10.0 * jnp.log10(jnp.maximum(distortion, 1e-30)).mean(-1)
    best = score.min(-1, keepdims=True)
    default = ORDERS.index(_DEFAULT)
    chosen = orders[jnp.argmin(score, axis=-1)]
    return jnp.where(score[..., default] <= best[..., 0] + _TIE_DB, _DEFAULT, chosen)


def _support(tail: TailWeighted, levels: Float[Array, "... 1 bits"]) -> Float[Array, "... order bits"]:
    """Solve the support equation on a logarithmic grid by sums of the model's density from the top down."""
    spacing = math.log(2.0) / _PER_OCTAVE
    log_x = spacing * jnp.arange(-_BELOW * _PER_OCTAVE, _ABOVE * _PER_OCTAVE, dtype=jnp.float32)
    batch = tail.batch_shape
    grid = log_x.reshape((-1,) + (1,) * len(batch))
    x = jnp.exp(grid)
    mass = jnp.exp(jnp.minimum(tail.log_density(x) + grid, 60.0)) * spacing
    # ∫_L^∞ f and ∫_L^∞ x f, the point at L itself counted half (trapezium).
    upper = [jnp.flip(jnp.cumsum(jnp.flip(m, 0), axis=0), 0) - 0.5 * m for m in (mass, mass * x)]
    overload = jnp.maximum(upper[1] - x * upper[0], 1e-35)
    difference = jnp.log(overload / x)[..., None] + jnp.log(12.0 * levels * levels)[None]
    # Decreasing in L: count the points where overload still exceeds granular noise, then interpolate.
    above = (difference > 0).astype(jnp.int32).sum(0)
    index = jnp.clip(above, 1, log_x.size - 1)[None]
    d_0, d_1 = (jnp.take_along_axis(difference, index - i, axis=0)[0] for i in (1, 0))
    fraction = jnp.clip(d_0 / jnp.where(d_0 > d_1, d_0 - d_1, 1.0), 0.0, 1.0)
    return jnp.exp(log_x[0] + ((index[0] - 1).astype(jnp.float32) + fraction) * spacing)
