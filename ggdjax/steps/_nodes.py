"""Quadrature nodes of the distortion: log z and weights of d log z, z = x/Δ, batched."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float

from ggdjax.steps._extent import decay_length, energy_end, energy_peak, mass_start
from ggdjax.steps._source import Sides

#: Cells integrated one by one. The first neglected Euler–Maclaurin term is f'''/15120 at z₀ = 16½: below 1e-7 of D.
EXACT_CELLS = 16
#: Smallest power at zero for the mid-rise zero cell, which needs a finite mass there.
MID_RISE_POWER = 0.05
#: A density is narrow where it spans less than this many cells, and less than this much of log x.
NARROW, NARROW_LOG = 2.5, 3.0


class Nodes(NamedTuple):
    """Nodes of one piece of the range, or of several."""

    log_z: Float[Array, "... #side node"]
    weight: Float[Array, "... #side node"]

    @classmethod
    def join(cls, pieces: Sequence[Nodes], shape: tuple[int, ...]) -> Nodes:
        """Return all pieces one after the other, for `[batch, side]` of the given shape."""
        return cls(*(_concatenate(arrays, shape) for arrays in zip(*pieces, strict=True)))


def _concatenate(arrays: Sequence[Array], shape: tuple[int, ...]) -> Array:
    return jnp.concatenate([jnp.broadcast_to(x, (*shape, x.shape[-1])) for x in arrays], axis=-1)


class Reach(NamedTuple):
    """Where the density starts and ends in log z, and whether it is too narrow for nodes laid out by cells."""

    low: Float[Array, "... side"]
    high: Float[Array, "... side"]
    narrow: Bool[Array, "... side"]

    @classmethod
    def of(cls, sides: Sides, phi: Float[Array, "..."]) -> Reach:
        """Return the reach at φ = log Δ − reference; nothing of it is differentiated."""
        low, high = (lax.stop_gradient(end - phi[..., None]) for end in (mass_start(sides), energy_end(sides)))
        # exp is bounded: a density far below or above the levels is not narrow in their sense
        span = jnp.exp(jnp.minimum(high, 20.0)) - jnp.exp(jnp.minimum(low, 20.0))
        return cls(low, high, (high - low < NARROW_LOG) & (span < NARROW))


def unit_gauss(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights of Gauss–Legendre on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(n)
    return 0.5 * (1.0 + x), 0.5 * w


def _row(x: np.ndarray, like: Float[Array, "... side"]) -> Array:
    return jnp.asarray(x, like.dtype).reshape((1,) * like.ndim + (-1,))


@lru_cache
def _low_table(offset: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log z, weight with e(z), and k of the nodes in the cells k = 1 … K, in float64."""
    logs, weights, cells = [], [], []
    for k in range(1, EXACT_CELLS + 1):
        x, w = unit_gauss(8 if k == 1 else 6)
        z = k + offset - 0.5 + x
        logs.append(np.log(z))
        weights.append(w * (x - 0.5) ** 2 / z)
        cells.append(np.full(len(x), float(k)))
    return np.concatenate(logs), np.concatenate(weights), np.concatenate(cells)


def zero_cell(sides: Sides, reach: Reach, *, offset: float) -> Nodes:
    """Lay nodes over [0, ½ + o], z ∝ t^γ.

    Near zero the density is x^(d' − m − 1). Where d' − m ≤ 0 (a tail-weighted fit that says nothing about the body)
    it would have infinite mass in this cell: there the power is replaced by 0 (mid-tread) inside the cell only,
    continuous at its edge, which bounds the error by that of a finite mass.
    """
    t, t_weight = unit_gauss(16)
    floor = MID_RISE_POWER if offset else 0.0
    power = jnp.maximum(sides.power, floor)
    excess = (power - sides.power)[..., None]
    gamma = lax.stop_gradient(2.0 / jnp.minimum(sides.exponent, power + (0.0 if offset else 2.0)))[..., None]
    edge = float(np.log(0.5 + offset))
    # nodes end where the energy ends, if that is below the edge: a wide cell must not lose the density between nodes
    log_z = jnp.minimum(edge, reach.high)[..., None] + gamma * _row(np.log(t), reach.high)
    size = jnp.where(reach.narrow[..., None], 0.0, gamma)
    weight = size * _row(t_weight / t, reach.high) * jnp.square(jnp.exp(log_z) - offset)
    return Nodes(log_z, weight * jnp.exp(excess * (log_z - edge)))


def low_cells(levels: Array, log_top: Array, reach: Reach, *, offset: float) -> Nodes:
    """Lay nodes over the cells k = 1 … min(K, ⌊N⌋ − 1) one by one; for a narrow density, over its reach up to z_L."""
    log_z, weight, cell = (_row(x, reach.high) for x in _low_table(offset))
    last = lax.stop_gradient(levels)[..., None, None] - 1.0
    weight = jnp.where(cell <= last, weight, 0.0)
    x, x_weight = (_row(a, reach.high) for a in unit_gauss(log_z.shape[-1]))
    length = jnp.maximum(jnp.minimum(reach.high, log_top[..., None]) - reach.low, 0.0)[..., None]
    own_log_z = reach.low[..., None] + length * x
    z = jnp.exp(jnp.minimum(own_log_z, 20.0)) - offset
    own_weight = length * x_weight * jnp.square(z - jnp.clip(jnp.round(z), 0.0, last))
    narrow = reach.narrow[..., None]
    return Nodes(jnp.where(narrow, own_log_z, log_z), jnp.where(narrow, own_weight, weight))


def middle(first: Array, log_top: Array, reach: Reach) -> Nodes:
    """Lay nodes for 1/12 ∫ f dz over [z₀, z_L], or where the density starts and ends between them.

    Along 1 − (1 − x)³: dense at the top of the range, where the density falls, sparse where it is a power of z.
    """
    x, weight = unit_gauss(64)
    start = jnp.maximum(jnp.log(first)[..., None], reach.low)
    length = jnp.maximum(jnp.minimum(log_top[..., None], reach.high) - start, 0.0)
    length = jnp.where(reach.narrow, 0.0, length)[..., None]
    log_z = start[..., None] + length * _row(1.0 - (1.0 - x) ** 3, start)
    return Nodes(log_z, length * _row(weight * (1.0 - x) ** 2 / 4.0, start))


def tail_nodes(sides: Sides, edge: Array, count: int, last: Array | None = None) -> Nodes:
    """Lay nodes over η ∈ [H₀, H], log x = edge + η (`log_z` of the result is η).

    From the edge, or from where the density starts beyond it, to where η ↦ e^(2η) h(edge + η) has fallen by e^−22
    from the edge, or from its peak beyond it; with ``last``, the log x where the density is cut off, to there at most.
    """
    x, weight = unit_gauss(count)
    edge = lax.stop_gradient(edge)[..., None]
    start = jnp.maximum(mass_start(sides) - edge, 0.0)
    first = jnp.maximum(edge, energy_peak(sides))
    end = decay_length(sides, first)
    end = jnp.where(first > edge, (first + end) - edge, end)
    if last is not None:
        start, end = (jnp.minimum(x, jnp.maximum(last[..., None] - edge, 0.0)) for x in (start, end))
    start, length = (lax.stop_gradient(x)[..., None] for x in (start, end - start))
    return Nodes(start + length * _row(x, edge), length * _row(weight, edge))
