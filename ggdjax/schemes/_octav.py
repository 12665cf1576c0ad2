"""OCTAV: the clip of least squared error by Newton's recursion on the data.

C. Sakr et al., "Optimal clipping and magnitude-aware differentiation for improved quantization-aware training",
ICML 2022, eqs. 5 and 6. With N levels on one side, ``Δ = s/N``, the error of a tensor clipped at s is modelled as

    ``J(s) = s² / (12 N²) · P(0 < |x| ≤ s) + E[(|x| − s)² : |x| > s]``

(signed: ``1/(12 N²) = 4^(−B)/3``, their eq. 5; unsigned: ``4^(−B)/12``), zeros rounding without error. Newton's
step on ``J'``, the two probabilities held, is

    ``s ← E[|x| : |x| > s] / ( P(0 < |x| ≤ s) / (12 N²) + P(|x| > s) )``

from ``s = E[|x| : x ≠ 0]``. Here the sums run over the histogram's bins, with uniform density in each: what numerator
less s times denominator leaves falls with s, from a positive start, so there is one fixed point. Its bin is where the
sign changes between edges; in a bin it is the root of a quadratic. No iteration is left, whatever the width.

The model has no dead zone and no partial top cell, which is where it differs from the exact search.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from ggdjax.schemes._choice import Searched
from ggdjax.schemes._magnitudes import magnitudes
from ggdjax.schemes._prediction import predict
from ggdjax.schemes._protocol import SchemeClass, Solution, levels
from ggdjax.schemes._registry import register

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int

    from ggdjax.ggd._histogram import Histogram


@register("octav", paper="Sakr et al., ICML 2022", kind=SchemeClass.SEARCH)
def octav(histogram: Histogram, bits: Int[Array, "setting tensor"], signed: Bool[Array, "setting tensor"]) -> Solution:
    """Return ``s / N`` with the clip s of least modelled error."""
    size = magnitudes(histogram)
    edges, survival = size.edges, size.survival
    first = jnp.pad(size.weight * size.middle, ((0, 0), (0, 1)))
    above_first = jnp.cumsum(first[:, ::-1], axis=1)[:, ::-1]
    count = levels(bits, signed)
    rounding = 1.0 / (12.0 * count * count)
    share = rounding[..., None]
    # Numerator less s times denominator, at the edges: [setting, tensor, edge].
    surplus = above_first[None] - edges[None] * (share * (1.0 - survival[None]) + survival[None])
    k = jnp.clip(jnp.sum(surplus > 0, axis=-1, keepdims=True) - 1, 0, size.weight.shape[-1] - 1)

    def at(values: Array) -> Array:
        values = jnp.broadcast_to(values, surplus.shape[:-1] + values.shape[-1:])
        return jnp.take_along_axis(values, k, axis=-1)[..., 0]

    low, width, above, left = at(edges[None]), at((size.upper - size.lower)[None]), at(survival[None]), at(surplus)
    density = jnp.where(width > 0, at(size.weight[None]) / jnp.where(width > 0, width, 1.0), 0.0)
    # Above the bin's lower edge by t: left − fall · t + density (1 − 2 rounding) t² / 2.
    fall = rounding * (1.0 - above + low * density) + above
    root = jnp.sqrt(jnp.maximum(fall * fall - 2.0 * density * (1.0 - 2.0 * rounding) * left, 0.0))
    clip = low + jnp.clip(2.0 * left / jnp.maximum(fall + root, 1e-30), 0.0, width)
    step = size.peak[None, :] * clip / count
    # J(s), per nonzero value: P(|x| ≤ s) and the squared excess, bin by bin.
    low, high = (jnp.maximum(edge[None] - clip[..., None], 0.0) for edge in (size.lower, size.upper))
    overload = jnp.sum(size.weight[None] * (low * low + low * high + high * high) / 3.0, axis=-1)
    inside = jnp.sum(jnp.where(low == 0.0, size.weight[None], 0.0), axis=-1)
    least = (clip * clip * rounding * inside + overload) / jnp.where(size.mean_square > 0, size.mean_square, 1.0)[None]
    return Solution(step, evidence=Searched(minimum=least, **predict(size, step, bits, signed)._asdict()))
