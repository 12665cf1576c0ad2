"""The family by the moments, then its optimal step.

After J. Lee, S. Ha, S. Choi, W.-J. Lee, S. Lee, "Quantization for rapid deployment of deep neural networks",
arXiv 1810.05488, 2018, of which the abstract alone was at hand. From it: parameters are estimated per tensor from few
samples, no network is trained, and the step is the optimal one of a distribution. The rest is ours:

* the families are the Gaussian, the Laplacian and the gamma distribution with shape ½ of |x|, all symmetric about zero,
  for which optimal uniform steps are tabulated (`_sqnr_optimal`);
* the family is the one whose ``(E|x|)² / E x²`` is nearest to that of the nonzero values, on a logarithmic scale:
  2/π, 1/2 and 1/3. The ratio of the first two moments is what few samples tell best;
* its scale is the root mean square of the nonzero values, and b unsigned bits take the step for b + 1 bits of the whole
  source, as in `_sqnr_optimal`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax.numpy as jnp

from ggdjax.schemes._magnitudes import magnitudes
from ggdjax.schemes._registry import register
from ggdjax.schemes._sqnr_optimal import unit_steps

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from ggdjax.ggd import Histogram

#: Family -> (E|x|)² / E x².
RATIOS = {"gauss": 2.0 / math.pi, "laplace": 1.0 / 2.0, "gamma": 1.0 / 3.0}


@register("moments", paper="after Lee, Ha, Choi, Lee, Lee, arXiv 1810.05488, 2018 (by its abstract)")
def moments(
    histogram: Histogram, bits: Int[Array, "setting tensor"], signed: Bool[Array, "setting tensor"]
) -> Float[Array, "setting tensor"]:
    """Return the optimal step of the family that the first two moments choose."""
    size = magnitudes(histogram)
    square = jnp.where(size.mean_square > 0, size.mean_square, 1.0)
    ratio = jnp.log(jnp.maximum(size.mean * size.mean / square, 1e-12))
    known = jnp.log(jnp.asarray(list(RATIOS.values()), jnp.float32))
    family = jnp.argmin(jnp.abs(ratio[:, None] - known[None, :]), axis=1)
    steps = jnp.stack([jnp.asarray(unit_steps(name)) for name in RATIOS])
    unit = steps[family[None, :], bits - signed.astype(bits.dtype) - 1]
    return (size.peak * jnp.sqrt(size.mean_square))[None, :] * unit
