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
    first = jnp.minimum(float(EXACT_CELLS), jnp.floor(levels) - 1.0) + (0.5 + offset)
    first = lax.stop_gradient(jnp.minimum(first, top))
    edge = phi + jnp.log(top)
    # all nodes at once, [batch, side, node]: one evaluation of the density, in the order of `pieces`
    pieces = [
        _zero_cell(sides, phi, nodes, offset),
        _low_cells(sides, levels, nodes),
        _middle(first, top, nodes),
        _overload(sides, edge, top, nodes),
        (jnp.log(jnp.stack([first, top], axis=-1))[..., None, :], jnp.zeros((1,) * phi.ndim + (1, 2), phi.dtype)),
    ]
    shape = (*phi.shape, sides.k.shape[-1])
    log_z, weight = (
        jnp.concatenate([jnp.broadcast_to(part[i], (*shape, part[i].shape[-1])) for part in pieces], axis=-1)
        for i in (0, 1)
    )
    h, rate, second = sides.at(phi[..., None, None] + log_z)
    terms = (h * weight, h * rate * weight, h * second * weight)
    split = -2 - len(nodes.tail)
    granular = tuple(term[..., :split].sum((-2, -1)) for term in terms)
    overload = tuple(term[..., split:-2].sum((-2, -1)) for term in terms)
    ends = _ends(sides, first, top, h[..., -2:], rate[..., -2:], second[..., -2:])
    granular = tuple(g + e for g, e in zip(granular, ends, strict=True))
    tail_weight = pieces[3][2]
    return Parts(granular, overload, (h[..., split:-2] * tail_weight).sum((-2, -1)))


def _row(x: np.ndarray, like: Array) -> Array:
    return jnp.asarray(x, like.dtype).reshape((1,) * (like.ndim + 1) + (-1,))


def _zero_cell(sides: Sides, phi: Array, nodes: _Nodes, offset: float) -> tuple[Array, Array]:
    """Nodes log z and weights of the integral over [0, ½ + o].

    Near zero the density is x^(d' − m − 1). Where d' − m ≤ 0 (a tail-weighted fit that says nothing about the body)
    it would have infinite mass in this cell: there the power is replaced by 0 (mid-tread) inside the cell only,
    continuous at its edge, which bounds the error by that of a finite mass.
    """
    floor = MID_RISE_POWER if offset else 0.0
    power = jnp.maximum(sides.power, floor)
    excess = (power - sides.power)[..., None]
    gamma = lax.stop_gradient(2.0 / jnp.minimum(sides.exponent, power + (0.0 if offset else 2.0)))[..., None]
    # nodes end where the energy ends, if that is below the edge: a wide cell must not lose the density between nodes
    edge = float(np.log(0.5 + offset))
    end = lax.stop_gradient(jnp.minimum(edge, energy_end(sides) - phi[..., None]))[..., None]
    log_z = end + gamma * _row(nodes.zero_log, phi)
    weight = gamma * _row(nodes.zero_weight, phi) * (jnp.exp(log_z) - offset) ** 2
    return log_z, weight * jnp.exp(excess * (log_z - edge))


def _low_cells(sides: Sides, levels: Array, nodes: _Nodes) -> tuple[Array, Array]:
    """Cells k = 1 … min(K, ⌊N⌋ − 1), each with its own nodes."""
    there = _row(nodes.low_cell, levels) <= lax.stop_gradient(levels)[..., None, None] - 1.0
    return _row(nodes.low_log, levels), jnp.where(there, _row(nodes.low_weight, levels), 0.0)


def _middle(first: Array, top: Array, nodes: _Nodes) -> tuple[Array, Array]:
    """1/12 ∫ f dz between z₀ and z_L."""
    length = jnp.log(top / first)[..., None, None]
    log_z = jnp.log(first)[..., None, None] + length * _row(nodes.middle, top)
    return log_z, length * _row(nodes.middle_weight / 12.0, top)


def _ends(sides: Sides, first: Array, top: Array, h: Array, rate: Array, second: Array) -> tuple[Array, Array, Array]:
    """Euler–Maclaurin term (f'(z_L) − f'(z₀))/360 and two derivatives in φ; f' = (h' − h)/z², nodes (z₀, z_L)."""
    bend = second - rate * rate  # r'; r'' = p r', because r' ∝ e^w
    third = rate * second + (2.0 * rate + sides.exponent[..., None]) * bend
    z = jnp.stack([-first * first, top * top], axis=-1)[..., None, :]
    h = EULER_MACLAURIN * h / z
    return tuple((h * change).sum((-2, -1)) for change in (rate - 1.0, second - rate, third - second))


def _overload(sides: Sides, edge: Array, top: Array, nodes: _Nodes) -> tuple[Array, Array, Array]:
    """Integral of (z − (N − 1 + o))² = (½ + z_L (e^η − 1))² over η = log(z/z_L) ≥ 0; third, weights of the mass."""
    eta, weight = tail_nodes(sides, edge, nodes.tail, nodes.tail_weight)
    error = 0.5 + top[..., None, None] * jnp.expm1(jnp.minimum(eta, 30.0))
    return jnp.log(top)[..., None, None] + eta, weight * error**2, weight


def tail_nodes(
    sides: Sides, edge: Array, x: np.ndarray, weight: np.ndarray
) -> tuple[Float[Array, "... side node"], Float[Array, "... side node"]]:
    """Spread nodes on [0, 1] over η ∈ [0, H], H being where η ↦ e^(2η) h(edge + η) has fallen by e^−22."""
    length = lax.stop_gradient(_decay_length(sides, edge[..., None]))[..., None]
    return length * _row(x, edge), length * _row(weight, edge)


def energy_peak(sides: Sides) -> Float[Array, "... side"]:
    """Return where x² f(x) has most of its mass per unit of log x, in log x − reference: k e^w = (d' − m + 2)/p."""
    b = sides.k + (2.0 - sides.order) / sides.exponent
    return jnp.log(jnp.maximum(b, sides.k * 1e-3) / sides.k) / sides.exponent - sides.offset


def highest_energy_peak(sides: Sides) -> Float[Array, "..."]:
    """Return the largest `energy_peak` of the sides that hold a share of the energy that counts (e^−3 of the most)."""
    counts = sides.log_energy > sides.log_energy.max(-1, keepdims=True) - 3.0
    return jnp.where(counts, energy_peak(sides), -jnp.inf).max(-1)


def energy_end(sides: Sides) -> Float[Array, "... side"]:
    """Return log x − reference beyond which x² f(x) is negligible (e^−22 of its peak)."""
    peak = energy_peak(sides)
    return peak + _decay_length(sides, peak)


def _decay_length(sides: Sides, edge: Float[Array, "... #side"]) -> Float[Array, "... side"]:
    """Return H > 0 with e^(2H) h(edge + H) = e^−22 h(edge), from above.

    With t = p H that is u (e^t − 1) − b t = 22, u = k e^w at the edge, b = (d' − m + 2)/p: a convex function, two
    explicit upper bounds of its root, three Newton steps from the smaller one (each stays above the root).
    """
    p = sides.exponent
    u = jnp.maximum(sides.k * jnp.exp(jnp.clip(p * (edge + sides.offset), -60.0, 30.0)), 1e-20)
    b = sides.k + (2.0 - sides.order) / p
    gap = u - b
    quadratic = (jnp.sqrt(gap * gap + 2.0 * u * TAIL_DECAY) - gap) / u
    ratio = jnp.maximum(b, 1e-20) / u
    logarithmic = jnp.log(2.0 * (1.0 + TAIL_DECAY / u + jnp.maximum(ratio * (jnp.log(2.0 * ratio) - 1.0), 0.0)))
    t = jnp.minimum(quadratic, logarithmic)
    for _ in range(3):
        slope = u * jnp.exp(t) - b
        t = t - (u * jnp.expm1(t) - b * t - TAIL_DECAY) / jnp.maximum(slope, 1e-3 * u)
    return t / p


def log_distortion(sides: Sides, levels: Array, phi: Array, *, offset: float = 0.0) -> Array:
    """Return log D − 2 reference at φ, floored where it underflows."""
    total = distortion_parts(sides, levels, phi, offset=offset).total[0]
    return 2.0 * phi + jnp.log(jnp.maximum(total, jnp.finfo(total.dtype).tiny))
