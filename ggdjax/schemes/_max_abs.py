"""Max-abs: the largest magnitude seen is the largest that can be represented; nothing is clipped.

The oldest rule. Symmetric reading: ``step = max|x| / qmax`` with ``qmax = 2^b − 1`` (unsigned) or ``2^(b−1) − 1``
(signed). Some tools divide by ``2^(b−1)`` instead, to use the extra negative code; the difference is one part in
``2^(b−1)`` and costs the positive peak half a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggdjax.schemes._magnitudes import magnitudes
from ggdjax.schemes._protocol import top_code
from ggdjax.schemes._registry import register

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from ggdjax.ggd._histogram import Histogram


@register("max-abs", paper="folklore; the symmetric `min-max` of most tools")
def max_abs(
    histogram: Histogram, bits: Int[Array, "setting tensor"], signed: Bool[Array, "setting tensor"]
) -> Float[Array, "setting tensor"]:
    """Return ``max|x| / qmax``."""
    return magnitudes(histogram).peak[None, :] / top_code(bits, signed)
