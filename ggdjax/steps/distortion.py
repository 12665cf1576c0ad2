"""Distortion of a uniform quantizer: granular and overload, without cancellation, in float32.

Levels are (k + o) Δ, k = 0 … N−1, on each side of zero: o = 0 is the mid-tread quantizer (exact zero), o = ½ the
mid-rise one of Max (1960) and Paez & Glisson (1972). In z = x/Δ, with h the density of log x,

    D / Δ² = ∫ e(z) h(φ + log z) d log z,   e(z) = (z − nearest level)²,   φ = log Δ,

so with nodes fixed in z the integral and its derivatives in φ are sums of h, h', h'' with the same weights, all of
one sign. (The textbook sum by parts is a difference of large numbers: at 16 bits it loses all of float32.) Pieces:

    zero cell    [0, ½ + o]             Gauss–Legendre in t, z ∝ t^γ, γ such that the power at zero is smooth
    low cells    k = 1 … K              Gauss–Legendre in each cell
    middle       [z₀, N − ½ + o]        Euler–Maclaurin: 1/12 ∫ f dz + 1/360 (f'(z_L) − f'(z₀)) + O(f''')
    overload     [N − ½ + o, ∞)         Gauss–Legendre in log z up to where the integrand is negligible

with z₀ = min(K, ⌊N⌋ − 1) + ½ + o. At whole N ≤ K + 1 the middle is empty, and every cell is exact. The middle makes
the distortion a smooth function of a real N between whole ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from ggdjax.steps.source import Sides

#: Cells integrated one by one. The first neglected Euler–Maclaurin term is f'''/15120 at z₀ = 16½: below 1e-7 of D.
EXACT_CELLS = 16
EULER_MACLAURIN = 1.0 / 360.0
#: e^−22 = 3e-10: the overload integral ends where its integrand has fallen by this much.
TAIL_DECAY = 22.0
#: Smallest power at zero for the mid-rise zero cell, which needs a finite mass there.
MID_RISE_POWER = 0.05
OFFSETS = {"mid_tread": 0.0, "mid_rise": 0.5}


@dataclass(frozen=True)
class _Nodes:
    """Quadrature constants, in float64; `*_weight` belong to d log z."""

    zero_log: np.ndarray  # log t
    zero_weight: np.ndarray  # of dt/t
    low_log: np.ndarray  # log z
    low_weight: np.ndarray  # e(z) included
    low_cell: np.ndarray  # k
    middle: np.ndarray  # fraction of the way from log z₀ to log z_L
    middle_weight: np.ndarray
    tail: np.ndarray
    tail_weight: np.ndarray


def unit_gauss(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights of Gauss–Legendre on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(n)
    return 0.5 * (1.0 + x), 0.5 * w


@lru_cache
def _nodes(offset: float) -> _Nodes:
    t, t_weight = unit_gauss(16)
    logs, weights, cells = [], [], []
    for k in range(1, EXACT_CELLS + 1):
        x, w = unit_gauss(8 if k == 1 else 6)
        z = k + offset - 0.5 + x
        logs.append(np.log(z))
        weights.append(w * (x - 0.5) ** 2 / z)
        cells.append(np.full(len(x), float(k)))
    # 1 − (1 − x)³: dense at the top of the range, where the density falls, sparse where it is a power of z
    x, w = unit_gauss(64)
    tail, tail_weight = unit_gauss(20)
    return _Nodes(
        zero_log=np.log(t), zero_weight=t_weight / t,
        low_log=np.concatenate(logs), low_weight=np.concatenate(weights), low_cell=np.concatenate(cells),
        middle=1.0 - (1.0 - x) ** 3, middle_weight=w * 3.0 * (1.0 - x) ** 2,
        tail=tail, tail_weight=tail_weight,
    )  # fmt: skip


class Parts(NamedTuple):
    """D/Δ² and its first and second derivative in log Δ at fixed N, without and with overload."""

    granular: tuple[Array, Array, Array]
    overload: tuple[Array, Array, Array]
    clip: Array  # probability of x beyond the support

    @property
    def total(self) -> tuple[Array, Array, Array]:
        """Granular plus overload."""
        return tuple(g + o for g, o in zip(self.granular, self.overload, strict=True))


def distortion_parts(
    sides: Sides, levels: Float[Array, "..."], phi: Float[Array, "..."], *, offset: float = 0.0
) -> Parts:
    """Return the parts of D/Δ² at φ = log Δ − reference.

    Args:
        sides: batch `[..., side]`.
        levels: N per side of zero, real, ≥ 2.
        phi: log of the step in units of the sides' reference.
        offset: 0 mid-tread, ½ mid-rise.

    Accuracy: 1e-6 of D in float32, 1e-7 in float64, for densities wider than a cell at their top level.
    """
    nodes = _nodes(offset)
    top = levels - 0.5 + offset
    log_top = jnp.log(top)
    first = jnp.minimum(float(EXACT_CELLS), jnp.floor(levels) - 1.0) + (0.5 + offset)
    first = lax.stop_gradient(jnp.minimum(first, top))

    granular = _add(
        _zero_cell(sides, phi, nodes, offset),
        _low_cells(sides, levels, phi, nodes),
        _middle(sides, phi, first, top, nodes),
    )
    overload, clip = _overload(sides, phi, top, log_top, nodes)
    return Parts(granular, overload, clip)


def _add(*parts: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    return tuple(sum(p) for p in zip(*parts, strict=True))


def _weighted(values: tuple[Array, Array, Array], weight: Array) -> tuple[Array, Array, Array]:
    """Sum h, h r, h (r² + r') over sides and nodes with weights `[..., side, node]` (or broadcastable, same rank)."""
    h, rate, second = values
    h = h * weight
    return h.sum((-2, -1)), (h * rate).sum((-2, -1)), (h * second).sum((-2, -1))


def _row(x: np.ndarray, like: Array) -> Array:
    return jnp.asarray(x, like.dtype).reshape((1,) * (like.ndim + 1) + (-1,))


def _zero_cell(sides: Sides, phi: Array, nodes: _Nodes, offset: float) -> tuple[Array, Array, Array]:
    """Integral over [0, ½ + o].

    Near zero the density is x^(d' − m − 1). Where d' − m ≤ 0 (a tail-weighted fit that says nothing about the body)
    it would have infinite mass in this cell: there the power is replaced by 0 (mid-tread) inside the cell only,
    continuous at its edge, which bounds the error by that of a finite mass.
    """
    top = 0.5 + offset
    floor = MID_RISE_POWER if offset else 0.0
    power = jnp.maximum(sides.power, floor)
    excess = (power - sides.power)[..., None]
    gamma = lax.stop_gradient(2.0 / jnp.minimum(sides.exponent, power + (0.0 if offset else 2.0)))
    log_z = gamma[..., None] * _row(nodes.zero_log, phi)  # log(z/top)
    z = top * jnp.exp(log_z)
    weight = gamma[..., None] * _row(nodes.zero_weight, phi) * (z - offset) ** 2 * jnp.exp(excess * log_z)
    return _weighted(sides.at(phi[..., None, None] + math.log(top) + log_z), weight)


def _low_cells(sides: Sides, levels: Array, phi: Array, nodes: _Nodes) -> tuple[Array, Array, Array]:
    """Cells k = 1 … min(K, ⌊N⌋ − 1), each with its own nodes."""
    weight = jnp.where(
        _row(nodes.low_cell, phi) <= lax.stop_gradient(levels)[..., None, None] - 1.0,
        _row(nodes.low_weight, phi),
        0.0,
    )
    return _weighted(sides.at(phi[..., None, None] + _row(nodes.low_log, phi)), weight)


def _middle(sides: Sides, phi: Array, first: Array, top: Array, nodes: _Nodes) -> tuple[Array, Array, Array]:
    """Cells between z₀ and z_L by Euler–Maclaurin."""
    start, length = jnp.log(first), jnp.log(top / first)
    log_z = (phi + start)[..., None, None] + length[..., None, None] * _row(nodes.middle, phi)
    weight = length[..., None, None] * _row(nodes.middle_weight / 12.0, phi)
    upper, lower = _slope(sides, phi, top), _slope(sides, phi, first)
    ends = tuple(EULER_MACLAURIN * (u - v) for u, v in zip(upper, lower, strict=True))
    return _add(_weighted(sides.at(log_z), weight), ends)


def _slope(sides: Sides, phi: Array, z: Array) -> tuple[Array, Array, Array]:
    """f'(z) = (h' − h)/z², summed over the sides, and two derivatives in φ."""
    h, rate, second = sides.at((phi + jnp.log(z))[..., None, None])
    bend = second - rate * rate  # r' ; r'' = p (r' ) because r' ∝ e^w
    third = rate * second + (2.0 * rate + sides.exponent[..., None]) * bend
    h = h / (z * z)[..., None, None]
    return (
        (h * (rate - 1.0)).sum((-2, -1)),
        (h * (second - rate)).sum((-2, -1)),
        (h * (third - second)).sum((-2, -1)),
    )


def _overload(
    sides: Sides, phi: Array, top: Array, log_top: Array, nodes: _Nodes
) -> tuple[tuple[Array, Array, Array], Array]:
    """Integral of (z − (N − 1 + o))² = (½ + z_L (e^η − 1))² over η = log(z/z_L) ≥ 0, and the mass there."""
    edge = phi + log_top
    eta, weight = tail_nodes(sides, edge, nodes.tail, nodes.tail_weight)
    values = sides.at(edge[..., None, None] + eta)
    error = 0.5 + top[..., None, None] * jnp.expm1(jnp.minimum(eta, 30.0))
    return _weighted(values, weight * error**2), (values[0] * weight).sum((-2, -1))


def tail_nodes(
    sides: Sides, edge: Array, x: np.ndarray, weight: np.ndarray
) -> tuple[Float[Array, "... side node"], Float[Array, "... side node"]]:
    """Spread nodes on [0, 1] over η ∈ [0, H], H being where η ↦ e^(2η) h(edge + η) has fallen by e^−22.

    With t = p η that is u (e^t − 1) − b t = 22, u = k e^w at the edge, b = (d' − m + 2)/p: a convex function, two
    explicit upper bounds of its root, three Newton steps from the smaller one (each stays above the root).
    """
    p = sides.exponent
    u = jnp.maximum(sides.k * jnp.exp(jnp.clip(p * (edge[..., None] + sides.offset), -60.0, 30.0)), 1e-20)
    b = sides.k + (2.0 - sides.order) / p
    gap = u - b
    quadratic = (jnp.sqrt(gap * gap + 2.0 * u * TAIL_DECAY) - gap) / u
    ratio = jnp.maximum(b, 1e-20) / u
    logarithmic = jnp.log(2.0 * (1.0 + TAIL_DECAY / u + jnp.maximum(ratio * (jnp.log(2.0 * ratio) - 1.0), 0.0)))
    t = jnp.minimum(quadratic, logarithmic)
    for _ in range(3):
        slope = u * jnp.exp(t) - b
        t = t - (u * jnp.expm1(t) - b * t - TAIL_DECAY) / jnp.maximum(slope, 1e-3 * u)
    length = lax.stop_gradient(t / p)[..., None]
    return length * _row(x, edge), length * _row(weight, edge)


def log_distortion(sides: Sides, levels: Array, phi: Array, *, offset: float = 0.0) -> Array:
    """Return log D − 2 reference at φ, floored where it underflows."""
    total = distortion_parts(sides, levels, phi, offset=offset).total[0]
    return 2.0 * phi + jnp.log(jnp.maximum(total, jnp.finfo(total.dtype).tiny))
