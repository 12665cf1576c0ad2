"""The closed-form step where many values round to zero.

Of the error ``D = Δ²/12 · P + ∫_{|x|<Δ/2} x² f dx + overload`` with ``P = P(Δ/2 < |x| < L)``, the derivative in Δ = L/n
vanishes where

    O(L) = L / (12 n²) · (P + Δ/2 · f(Δ/2)),

the support equation of Hui and Neuhoff with a share of rounded values for 1; f is the density of |x|. For light tails
the share is near 1. Under heavy ones 83 to 99 % of the values lie in the zero cell, where the error is x², not Δ²/12,
and the plain equation gives a step too small by up to 5 dB.

Both terms are read off the histogram, the overload is that of the fit; nothing here is an error of a step on the data.
The share falls as the step grows, so that under heavy tails the equation can have several roots. The iteration starts
at full range and thus finds the largest: too small a step costs more than too large a one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ggdjax.schemes._protocol import levels
from ggdjax.steps import closed_form_step

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from ggdjax.ggd import TailWeighted
    from ggdjax.schemes._magnitudes import Magnitudes

#: Solutions of the equation, each with the share of the one before. Light tails need two.
_ROUNDS = 7
#: Half of the interval of log x on which the density is measured: 28 of the histogram's bins.
_HALF = 0.1
#: A share outside is noise of the density, or an empty tensor.
_LEAST, _MOST = 1e-9, 1.5


def dead_zone_step(
    size: Magnitudes,
    tail: TailWeighted,
    bits: Int[Array, "setting tensor"],
    signed: Bool[Array, "setting tensor"],
) -> Float[Array, "setting tensor"]:
    """Return the largest root of the support equation with its dead zone, up to full range.

    Args:
        size: magnitudes of the values that were fitted.
        tail: their fit, batch shape ``setting tensor``.
        bits: width of the codes.
        signed: whether they are two's complement.
    """
    top = levels(bits, signed) - 0.5
    peak = jnp.where(size.peak > 0, size.peak, 1.0)[None]
    edges = size.edges

    def above(x: Float[Array, "place setting tensor"]) -> Float[Array, "place setting tensor"]:
        return jax.vmap(jnp.interp, in_axes=(2, 0, 0), out_axes=2)(x, edges, size.survival)

    def share(step: Float[Array, "setting tensor"]) -> Float[Array, "setting tensor"]:
        half, end = 0.5 * step / peak, jnp.minimum(step * top / peak, 1.0)
        below, beyond, inner, outer = above(jnp.stack([half * jnp.exp(-_HALF), half * jnp.exp(_HALF), half, end]))
        density = (below - beyond) / (2.0 * _HALF)  # x f(x) at Δ/2
        return jnp.clip(inner - outer + density, _LEAST, _MOST)

    def solve(_: int, step: Float[Array, "setting tensor"]) -> Float[Array, "setting tensor"]:
        return jnp.minimum(closed_form_step(tail, bits, signed=signed, rounded=share(step)), peak / top)

    return jax.lax.fori_loop(0, _ROUNDS, solve, jnp.broadcast_to(peak / top, bits.shape))
