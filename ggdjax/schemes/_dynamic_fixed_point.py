"""Dynamic fixed point: the finest power-of-two step at which nothing overflows.

P. Gysel, J. Pimentel, M. Motamedi, S. Ghiasi, "Ristretto: A framework for empirical study of resource-efficient
inference in convolutional neural networks", IEEE Trans. Neural Networks and Learning Systems 29(11), 2018, section
III-C: a layer's values share an integer length ``il = ⌈log2 max|x|⌉`` and the fractional length ``fl = b − il``;
signed values spend one more bit on the sign, so ``fl = b − 1 − il`` there.

Their code takes the integer length of feature maps without the sign bit ("we reduce the integer length by one
bit"): that is the unsigned case here; the sign bit is counted for tensors that have a sign, as their code does for
weights. A maximum just under ``2^il`` saturates by less than one step, as it does there: overflow means ``max|x| >
2^il``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from ggdjax.schemes._magnitudes import magnitudes
from ggdjax.schemes._protocol import levels
from ggdjax.schemes._registry import register

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from ggdjax.ggd._histogram import Histogram


@register("dynamic-fixed-point", paper="Gysel et al., IEEE TNNLS 29(11), 2018 (Ristretto)")
def dynamic_fixed_point(
    histogram: Histogram, bits: Int[Array, "setting tensor"], signed: Bool[Array, "setting tensor"]
) -> Float[Array, "setting tensor"]:
    """Return ``2^(−fl)``, exactly a power of two."""
    mantissa, exponent = jnp.frexp(magnitudes(histogram).peak)  # peak = mantissa · 2^exponent, mantissa in [½, 1)
    integer_length = exponent - (mantissa == 0.5).astype(exponent.dtype)
    power_of_two = jnp.ldexp(jnp.ones_like(mantissa), integer_length)
    return power_of_two[None, :] / levels(bits, signed)
