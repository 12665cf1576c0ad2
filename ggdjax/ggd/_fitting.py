"""Fit the generalized gamma distribution to samples or histograms: `fit` one side, `fit_sides` both.

The estimator is that of `weighted_fit`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ggdjax._errors import GgdjaxError, expect, expect_array
from ggdjax.ggd._arrays import refuse_unreal
from ggdjax.ggd._bins import BINS_PER_SIDE, compress_side, on_device
from ggdjax.ggd._histogram import Histogram, Side, checked_side
from ggdjax.ggd._hurdle import Hurdle
from ggdjax.ggd._weighted_fit import FitResult, by_tensor, checked_order, fit_bins, fit_values, fit_weighted


def fit(data: ArrayLike | Histogram, order: ArrayLike = 2, *, side: Side = "auto") -> FitResult:
    """Fit a generalized gamma distribution to the nonzero values by tail-weighted maximum likelihood.

    Args:
        data: samples, the last axis of the array being the samples of one tensor; or a `Histogram`, each of whose
            batch elements is one tensor. A histogram is fitted with its values at the centres of 128 bins per
            octave; samples are fitted exactly, and the result is differentiable in them.
        order: the order m ≥ 0 of the weights ``x^m``: one number, or one per tensor; `order_for_bits`
            gives that for codes of a width.
        side: which side of zero: "positive", "negative", or "magnitude", which takes ``|x|``: the positive side
            where nothing is negative. "auto" is another name for it.

    Infinities and NaNs are left out, half precision and integers are fitted in float32.

    Raises:
        GgdjaxError: an unknown side, an order that is negative or does not broadcast to the tensors, no samples.

    Example:
        >>> x = jax.random.exponential(jax.random.key(0), (10_000,))
        >>> result = gd.fit(x, order=2)
        >>> result.messages()
        ['the likelihood has its maximum inside the bracket of p']
    """
    side = checked_side(side)
    data = data if isinstance(data, Histogram) else as_samples(data)
    if isinstance(data, Histogram):
        extremes = (jnp.asarray(e) for e in (data.minimum, data.maximum))
        order = checked_order(order, data.batch_shape, jnp.float32)
        return _fit_histogram(on_device(data.counts), *extremes, order, side=side)
    return _fit_samples(data, checked_order(order, data.shape[:-1], data.dtype), side=side)


def as_samples(data: ArrayLike) -> Float[Array, "... n"]:
    """Return samples as float32, or float64 where that is given; none at all raises `GgdjaxError`."""
    data = jnp.asarray(expect_array("data", data, "an array of real numbers or a Histogram"))
    refuse_unreal("data", data.dtype)
    if not jnp.issubdtype(data.dtype, jnp.floating) or data.dtype.itemsize < 4:
        data = data.astype(jnp.float32)
    if data.ndim == 0 or data.size == 0:
        raise GgdjaxError(f"`data` has shape {data.shape}; expected at least one sample on the last axis")
    return data


def fit_sides(histogram: Histogram, order: ArrayLike = 2) -> Hurdle:
    """Fit both sides of zero: a point mass at zero and a `TailWeighted` per side (last axis: positive, negative).

    An empty side has weight 0 and a harmless distribution.
    """
    expect("histogram", histogram, "Histogram")
    shape = (*histogram.batch_shape, 2)
    orders = jnp.broadcast_to(checked_order(order, histogram.batch_shape, jnp.float32)[..., None], shape)
    sides = [histogram.compress(side) for side in ("positive", "negative")]
    bins = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=len(shape) - 1), *sides)
    result = fit_weighted(bins.log_x, bins.weight, orders, log_scale=bins.log_scale)
    values = bins.weight.sum(-1)
    zeros = on_device(histogram.zeros).astype(jnp.float32)
    total = jnp.maximum(values.sum(-1) + zeros, 1.0)
    empty = values.sum(-1) + zeros == 0.0
    return Hurdle(
        zero_probability=jnp.where(empty, 1.0, zeros / total),
        weight=values / total[..., None],
        tail=result.tail,
    )


@partial(jax.jit, static_argnames="side")
def _fit_histogram(counts: Array, minimum: Array, maximum: Array, order: Array, *, side: str) -> FitResult:
    bins = compress_side(counts, minimum, maximum, side=side)
    return by_tensor(fit_bins, BINS_PER_SIDE, bins.log_x, bins.weight, order, bins.log_scale)


@partial(jax.jit, static_argnames="side")
def _fit_samples(x: Array, order: Array, *, side: str) -> FitResult:
    return by_tensor(partial(fit_values, side=side), x.shape[-1], x, order)
