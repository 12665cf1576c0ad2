"""The order m of the tail-weighted fit for codes of a given width."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ggdjax._errors import expect_array

#: The highest order.
MOST = 5.0


def order_for_bits(bits: ArrayLike) -> Float[Array, "..."]:
    """Return the order m = b/2, at most 5, of the tail weighting that suits a step for codes of b bits.

    The step trades rounding noise against what lies beyond the range, so the fit has to be right near the end of the
    range. For an exponential tail ``e^(−λx)`` that end lies at ``λ L ≈ 2 b ln 2`` (rounding noise falls by 4 with every
    bit, and with it the overload that balances it), while ``x^m f(x)``, on which the fit of order m rests, peaks at
    ``λ x = m``: both are proportional to b. The factor ½ was measured: on the feature maps of four networks, 8 to 3
    bits, m = b/2 is within 0.04 dB of the best of six orders chosen by their error (`ggd-best-order`;
    `python -m experiments run orders`). From 10 bits on the order stays 5: higher ones rest on too
    few values.

    Args:
        bits: width b of the codes.

    Raises:
        GgdjaxError: ``bits`` hold no real numbers.
    """
    bits = expect_array("bits", bits, "a width, or an array of widths")
    return jnp.minimum(0.5 * jnp.asarray(bits).astype(jnp.float32), MOST)
