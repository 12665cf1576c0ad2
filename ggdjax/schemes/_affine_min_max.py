"""Affine min-max: the codes span exactly ``[min, max]``, with a zero point.

B. Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
CVPR 2018, section 2.1 ``r = S (q − Z)`` and section 3: the range is first widened to contain zero, ``S = (max −
min)/(2^b − 1)``, and the range is then nudged so that zero is a code: ``Z = round(qmin − min / S)``, clipped to the
codes. For a one-sided tensor this is max-abs. The paper's exponential moving averages of min and max over training
batches become the exact extremes of the calibration images here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from ggdjax.schemes._protocol import Solution
from ggdjax.schemes._registry import register

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int

    from ggdjax.ggd._histogram import Histogram


@register("affine-min-max", paper="Jacob et al., CVPR 2018")
def affine_min_max(
    histogram: Histogram, bits: Int[Array, "setting tensor"], signed: Bool[Array, "setting tensor"]
) -> Solution:
    """Return the step S and the zero point Z."""
    low = jnp.minimum(histogram.minimum, 0.0)[None, :]
    high = jnp.maximum(histogram.maximum, 0.0)[None, :]
    codes = jnp.left_shift(1, bits).astype(jnp.float32) - 1.0
    step = high / codes - low / codes  # in two terms: high − low may overflow
    qmin = jnp.where(signed, -jnp.left_shift(1, bits - 1).astype(jnp.float32), 0.0)
    zero_point = jnp.clip(jnp.round(qmin - low / jnp.where(step > 0, step, 1.0)), qmin, qmin + codes)
    return Solution(step, zero_point)
