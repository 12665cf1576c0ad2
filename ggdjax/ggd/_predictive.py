"""The predictive histogram: what the next image may hold, by the rule of succession over images.

The values of one image depend on each other: n images are a sample of n, not of millions. With probability 1/(n + 1)
the next image differs from those seen by a random scale e^u, u ~ N(0, 2 s²) (a Dirichlet process of concentration 1):

    H_pred(x) = n/(n + 1) · H(x) + 1/(n + 1) · Σ_j w_j H(x e^(−u_j)),

on `NODES` nodes within 4 standard deviations. Mass that would pass a limit stays at it.
"""

from __future__ import annotations

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import ArrayLike

from ggdjax._errors import GgdjaxError
from ggdjax.ggd._arrays import is_concrete
from ggdjax.ggd._bins import FINITE_BINS, SIDE_BINS, split_point_mass

#: Nodes of the scale, and how many standard deviations they reach.
NODES, REACH = 41, 4.0
#: Octaves that are moved, counted from two above that of the peak down; what is smaller stays, it moves no step.
_MOVED, _HEADROOM = 20, 2
_BINS = 128
#: Largest `spread`: the nodes stay within the headroom.
SPREAD_MAX = _HEADROOM * float(np.log(2.0)) / (REACH * float(np.sqrt(2.0)))


def predictive(
    counts: Array,
    zeros: Array,
    minimum: Array,
    maximum: Array,
    *,
    images: ArrayLike,
    limits: tuple[ArrayLike, ArrayLike],
    spread: float,
) -> tuple[Array, Array, Array, Array]:
    """Return the leaves of the predictive histogram; see `Histogram.predictive`."""
    if not 0.0 < spread <= SPREAD_MAX:
        raise GgdjaxError(f"`spread` is {spread}; expected a number above 0, up to {SPREAD_MAX:.3f}")
    if is_concrete(images) and not np.all(np.asarray(images) >= 1):
        raise GgdjaxError(f"`images` is {images}; expected at least 1 image")
    shape = counts.shape[:-1]
    for name, value in (("images", images), *zip(("limits[0]", "limits[1]"), limits, strict=True)):
        if np.shape(value) not in ((), shape):
            raise GgdjaxError(f"`{name}` has shape {np.shape(value)}; expected one number per tensor, {shape}")
    numbers = [
        np.broadcast_to(np.asarray(v, np.float32), shape)
        if is_concrete(v)
        else jnp.broadcast_to(jnp.asarray(v, jnp.float32), shape)
        for v in (images, *limits)
    ]
    return _predictive((counts, zeros, minimum, maximum), *numbers, spread=float(spread))


@lru_cache
def _moves(spread: float) -> tuple[np.ndarray, ...]:
    """Return the lower edges of the moved bins in units of the peak's octave, and where each node finds them.

    The latter as a bin of the source, which holds `_HEADROOM` octaves more at its lower end, and the part of that bin
    below; with them the nodes' weights and the largest factor.
    """
    sd = np.sqrt(2.0) * spread
    u = np.linspace(-REACH, REACH, NODES) * sd
    weight = np.exp(-0.5 * np.square(u / sd))
    octave, mantissa = np.divmod(np.arange(_MOVED * _BINS + 1), _BINS)
    edges = np.exp2(octave - (_MOVED - 1.0 - _HEADROOM)) * (1.0 + mantissa / _BINS)
    value = edges[None] * np.exp(-u)[:, None]
    exponent = np.floor(np.log2(value))
    place = (exponent + _MOVED - 1.0) * _BINS + (value / np.exp2(exponent) - 1.0) * _BINS
    place = np.clip(place, 0.0, (_MOVED + _HEADROOM) * _BINS)
    index = np.minimum(np.floor(place), (_MOVED + _HEADROOM) * _BINS - 1).astype(np.int32)
    fraction = (place - index).astype(np.float32)
    return edges.astype(np.float32), index, fraction, (weight / weight.sum()).astype(np.float32), np.exp(u[-1])


@partial(jax.jit, static_argnames="spread")
def _predictive(
    leaves: tuple[Array, Array, Array, Array], images: Array, low: Array, high: Array, *, spread: float
) -> tuple[Array, Array, Array, Array]:
    shape, (minimum, maximum) = leaves[0].shape, leaves[2:]
    counts = leaves[0].astype(jnp.float32).reshape(-1, 2 * SIDE_BINS)
    rest, extra = split_point_mass(leaves[0])
    kept = rest.astype(jnp.float32).reshape(counts.shape)
    largest = _moves(spread)[-1]
    seen = jnp.stack([maximum, -minimum], axis=-1)
    limit = jnp.stack([high, -low], axis=-1)
    limit = jnp.where(limit > 0, jnp.maximum(limit, seen), jnp.inf)
    peak = jnp.maximum(seen[..., 0], seen[..., 1])
    limit = jnp.where((extra > 0)[..., None], jnp.minimum(limit, peak[..., None]), limit)
    limit = jnp.minimum(limit, float(np.finfo(np.float32).max))
    peak = peak.reshape(-1)
    moved = lax.map(lambda one: _mixed(*one, spread=spread), (kept, peak, limit.reshape(-1, 2), images.reshape(-1)))
    # One magnitude: a constant, which no scale changes.
    magnitude = (counts[:, :FINITE_BINS] + counts[:, SIDE_BINS : SIDE_BINS + FINITE_BINS]) > 0
    fixed = magnitude.sum(-1) <= 1
    # Subnormal peaks stay too: XLA takes them for zero.
    fixed |= peak < float(np.finfo(np.float32).tiny)
    found = jnp.where(fixed[:, None], counts, moved + (counts - kept)).reshape(shape)
    fixed = fixed.reshape(shape[:-1])[..., None]
    ends = jnp.where(fixed | (seen <= 0), seen, jnp.minimum(seen * largest, limit))
    return found, leaves[1].astype(jnp.float32), -ends[..., 1], ends[..., 0]


def _mixed(counts: Array, peak: Array, limit: Array, images: Array, *, spread: float) -> Array:
    """Return one tensor's counts, mixed with those of its random scales; ``limit`` of the magnitudes of both sides."""
    edges, index, fraction, weight, _ = (jnp.asarray(constant) for constant in _moves(spread))
    octaves = FINITE_BINS // _BINS
    sides = counts.reshape(2, SIDE_BINS)[:, :FINITE_BINS].reshape(2, octaves, _BINS)
    below = _MOVED - 1
    padded = jnp.pad(sides, ((0, 0), (below, _HEADROOM), (0, 0)))
    exponent = lax.bitcast_convert_type(peak, jnp.int32) >> 23
    source = lax.dynamic_slice_in_dim(padded, exponent, _MOVED + _HEADROOM, axis=1)
    flat = source.reshape(2, -1)
    # Summed from the tail, where it is small.
    above = jnp.pad(jnp.cumsum(flat[:, ::-1], axis=1)[:, ::-1], ((0, 0), (0, 1)))
    lower, upper = above[:, index], above[:, index + 1]
    moved = jnp.einsum("j,sje->se", weight, lower + fraction[None] * (upper - lower))
    start = _HEADROOM * _BINS
    moved = moved.at[:, 0].set(above[:, start])  # what would leave at the lower end stays in the last bin
    scale = lax.bitcast_convert_type(jnp.maximum(exponent, 1) << 23, jnp.float32)
    moved = jnp.where(edges[None] > limit[:, None] / scale, 0.0, moved)
    moved = jnp.maximum(moved[:, :-1] - moved[:, 1:], 0.0)
    mixed = (images * flat[:, start:] + moved) / (images + 1.0)
    whole = jnp.concatenate([flat[:, :start], mixed], axis=1).reshape(source.shape)
    padded = lax.dynamic_update_slice_in_dim(padded, whole, exponent, axis=1)
    inside = padded[:, below : below + octaves].reshape(2, FINITE_BINS)
    return jnp.concatenate([inside, counts.reshape(2, SIDE_BINS)[:, FINITE_BINS:]], axis=1).reshape(-1)
