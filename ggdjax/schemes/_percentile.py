"""Percentile: clip what is larger than a fixed share of all magnitudes.

S. Migacz, "8-bit inference with TensorRT", GTC 2017 (slides) names it as the simple alternative to its KL rule; J.
L. McKinstry et al., "Discovering low-precision networks close to full-precision networks for efficient embedded
inference", arXiv:1809.04191, use 99.9 to 99.99999. The clip value is the percentile of ``|x|`` over **all** values,
zeros included, as NumPy's and the tools' implementations take it; with a ReLU's zeros left out the same number
would clip about twice as much. ``step = clip / qmax``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ggdjax.schemes._magnitudes import magnitudes
from ggdjax.schemes._protocol import top_code
from ggdjax.schemes._registry import register

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from ggdjax.ggd._histogram import Histogram

#: The shares in use, in per cent.
PERCENTAGES = (99.9, 99.99, 99.999)


def percentile(
    histogram: Histogram,
    bits: Int[Array, "setting tensor"],
    signed: Bool[Array, "setting tensor"],
    *,
    percentage: float,
) -> Float[Array, "setting tensor"]:
    """Return ``clip / qmax`` where ``percentage`` per cent of all values have ``|x| <= clip``."""
    size = magnitudes(histogram)
    clip = size.quantile_from_top((1.0 - percentage / 100.0) / size.nonzero_fraction)
    return (size.peak * clip)[None, :] / top_code(bits, signed)


for _percentage in PERCENTAGES:
    register(f"percentile-{_percentage}", paper="Migacz, GTC 2017; McKinstry et al., arXiv:1809.04191")(
        partial(percentile, percentage=_percentage)
    )
