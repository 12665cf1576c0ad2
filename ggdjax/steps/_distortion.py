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
the distortion a smooth function of a real N between whole ones. All ranges end where the density does. A density that
lies within little more than one cell altogether is too narrow for nodes laid out by cells: its nodes lie where it is.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from ggdjax.steps._nodes import EXACT_CELLS, Nodes, Reach, low_cells, middle, tail_nodes, zero_cell
from ggdjax.steps._source import Sides

EULER_MACLAURIN = 1.0 / 360.0
#: Nodes of the overload integral.
TAIL_NODES = 20
OFFSETS = {"mid_tread": 0.0, "mid_rise": 0.5}


class Parts(NamedTuple):
    """D/Δ² and its first and second derivative in log Δ at fixed N, without and with overload."""

    granular: tuple[Array, Array, Array]
    overload: tuple[Array, Array, Array]
    clip: Array  # probability of x beyond the support

    @property
    def total(self) -> tuple[Array, Array, Array]:
        """Granular plus overload."""
        g, o = self.granular, self.overload
        return g[0] + o[0], g[1] + o[1], g[2] + o[2]


def distortion_parts(
    sides: Sides, levels: Float[Array, "..."], phi: Float[Array, "..."], *, offset: float = 0.0
) -> Parts:
    """Return the parts of D/Δ² at φ = log Δ − reference.

    Args:
        sides: batch `[..., side]`.
        levels: N per side of zero, real, ≥ 2.
        phi: log of the step in units of the sides' reference.
        offset: 0 mid-tread, ½ mid-rise.

    Accuracy: 1e-6 of D in float32, 1e-7 in float64; 1e-3 for densities narrower than a cell.
    """
    top = levels - 0.5 + offset
    first = jnp.minimum(float(EXACT_CELLS), jnp.floor(levels) - 1.0) + (0.5 + offset)
    first = lax.stop_gradient(jnp.minimum(first, top))
    log_top = jnp.log(top)
    reach = Reach.of(sides, phi)
    eta, mass_weight = tail_nodes(sides, phi + log_top, TAIL_NODES)
    # (z − (N − 1 + o))² = (½ + z_L (e^η − 1))², η = log(z/z_L)
    error = 0.5 + top[..., None, None] * jnp.expm1(jnp.minimum(eta, 30.0))
    ends = jnp.stack([first, top], axis=-1)[..., None, :]
    pieces = [
        zero_cell(sides, reach, offset=offset),
        low_cells(levels, log_top, reach, offset=offset),
        middle(first, log_top, reach),
        Nodes(log_top[..., None, None] + eta, mass_weight * error * error),
        Nodes(jnp.log(ends), jnp.where(reach.narrow[..., None], 0.0, EULER_MACLAURIN / jnp.square(ends))),
    ]
    # all nodes in one array: one evaluation of the density, and one to compile
    nodes = Nodes.join(pieces, (*phi.shape, sides.k.shape[-1]))
    h, rate, second = sides.at(phi[..., None, None] + nodes.log_z)
    weighted = h * nodes.weight
    terms = (weighted, weighted * rate, weighted * second)
    split = -2 - TAIL_NODES
    ends = _ends(sides, weighted[..., -2:], rate[..., -2:], second[..., -2:])
    g0, g1, g2 = (term[..., :split].sum((-2, -1)) + end for term, end in zip(terms, ends, strict=True))
    o0, o1, o2 = (term[..., split:-2].sum((-2, -1)) for term in terms)
    return Parts((g0, g1, g2), (o0, o1, o2), (h[..., split:-2] * mass_weight).sum((-2, -1)))


def _ends(sides: Sides, h: Array, rate: Array, second: Array) -> tuple[Array, Array, Array]:
    """Euler–Maclaurin term (f'(z_L) − f'(z₀))/360 and two derivatives in φ; f' = (h' − h)/z², weights in h."""
    bend = second - rate * rate  # r'; r'' = p r', because r' ∝ e^w
    third = rate * second + (2.0 * rate + sides.exponent[..., None]) * bend
    changes = (h * change for change in (rate - 1.0, second - rate, third - second))
    value, first, bent = ((change[..., 1] - change[..., 0]).sum(-1) for change in changes)
    return value, first, bent


def log_distortion(sides: Sides, levels: Array, phi: Array, *, offset: float = 0.0) -> Array:
    """Return log D − 2 reference at φ, floored where it underflows."""
    total = distortion_parts(sides, levels, phi, offset=offset).total[0]
    return 2.0 * phi + jnp.log(jnp.maximum(total, jnp.finfo(total.dtype).tiny))


def overload_error(sides: Sides, levels: Array, phi: Array, limit: Array) -> Array:
    """Return the overload part of D/Δ² at φ, of a density cut off at log x − reference = ``limit``."""
    top = levels - 0.5
    edge = phi + jnp.log(top)
    eta, weight = tail_nodes(sides, edge, TAIL_NODES, limit)
    error = 0.5 + top[..., None, None] * jnp.expm1(jnp.minimum(eta, 30.0))
    return (sides.at(edge[..., None, None] + eta)[0] * weight * error * error).sum((-2, -1))
