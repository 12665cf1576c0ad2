"""OCTAV: the clip of least squared error by Newton's recursion on the data.

C. Sakr et al., "Optimal clipping and magnitude-aware differentiation for improved quantization-aware training",
ICML 2022, eqs. 5 and 6. With N levels on one side, ``Δ = s/N``, the error of a tensor clipped at s is modelled as

    ``J(s) = s² / (12 N²) · P(0 < |x| ≤ s) + E[(|x| − s)² : |x| > s]``

(signed: ``1/(12 N²) = 4^(−B)/3``, their eq. 5; unsigned: ``4^(−B)/12``), zeros rounding without error. Newton's
step on ``J'``, the two probabilities held, is

    ``s ← E[|x| : |x| > s] / ( P(0 < |x| ≤ s) / (12 N²) + P(|x| > s) )``

from ``s = E[|x| : x ≠ 0]``. ``−E[(|x| − s)₊]`` is concave in s: the recursion rises monotonically to the root. The
model has no dead zone and no partial top cell, which is where it differs from the exact search. The sums run over
the histogram's bins, with uniform density in each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ggdjax.schemes._choice import Searched
from ggdjax.schemes._magnitudes import magnitudes
from ggdjax.schemes._prediction import predict
from ggdjax.schemes._protocol import SchemeClass, Solution, levels
from ggdjax.schemes._registry import register

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int

    from ggdjax.ggd._histogram import Histogram

#: Newton steps. Each raises s by about the mean excess over it, so an exponential tail at 16 bits needs about 25.
_STEPS = 48


@register("octav", paper="Sakr et al., ICML 2022", kind=SchemeClass.SEARCH)
def octav(histogram: Histogram, bits: Int[Array, "setting tensor"], signed: Bool[Array, "setting tensor"]) -> Solution:
    """Return ``s / N`` with the clip s of least modelled error."""
    size = magnitudes(histogram)
    edges, survival = size.edges, size.survival
    first = size.weight * size.middle
    above_first = jnp.cumsum(first[:, ::-1], axis=1)[:, ::-1]
    count = levels(bits, signed)
    rounding = 1.0 / (12.0 * count * count)

    def one_tensor(
        edges: Array, survival: Array, above_first: Array, weight: Array, start: Array, rounding: Array
    ) -> Array:
        above_first = jnp.concatenate([above_first, jnp.zeros_like(above_first[:1])])

        def newton(_: int, s: Array) -> Array:
            k = jnp.clip(jnp.searchsorted(edges, s, side="right") - 1, 0, weight.shape[0] - 1)
            high, width = edges[k + 1], edges[k + 1] - edges[k]
            part = weight[k] * jnp.where(width > 0, (high - s) / jnp.where(width > 0, width, 1.0), 0.0)
            beyond = survival[k + 1] + part
            excess = above_first[k + 1] + part * 0.5 * (high + s)
            return jnp.where(beyond > 0, excess / (rounding * (1.0 - beyond) + beyond), s)

        return jax.lax.fori_loop(0, _STEPS, newton, jnp.broadcast_to(start, rounding.shape))

    clip = jax.vmap(one_tensor, in_axes=(0, 0, 0, 0, 0, 1), out_axes=1)(
        edges, survival, above_first, size.weight, size.mean, rounding
    )
    clip = jnp.minimum(clip, 1.0)
    step = size.peak[None, :] * clip / count
    # J(s), per nonzero value: P(|x| ≤ s) and the squared excess, bin by bin.
    low, high = (jnp.maximum(edge[None] - clip[..., None], 0.0) for edge in (size.lower, size.upper))
    overload = jnp.sum(size.weight[None] * (low * low + low * high + high * high) / 3.0, axis=-1)
    inside = jnp.sum(jnp.where(low == 0.0, size.weight[None], 0.0), axis=-1)
    least = (clip * clip * rounding * inside + overload) / jnp.where(size.mean_square > 0, size.mean_square, 1.0)[None]
    return Solution(step, evidence=Searched(minimum=least, **predict(size, step, bits, signed)._asdict()))
