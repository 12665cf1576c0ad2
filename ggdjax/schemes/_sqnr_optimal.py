"""The optimal uniform step of a fixed source, times the standard deviation.

D. D. Lin, S. S. Talathi, V. S. Annapureddy, "Fixed point quantization of deep convolutional networks", ICML 2016,
section 3: ``step = ξ · s(b)`` with ξ the standard deviation and s(b) the step of least squared error of a
unit-variance source: Gaussian, Laplacian, or gamma (``f ∝ |x|^(−½) e^(−|x|/a)``), a table there, after Max (1960)
and Paez and Glisson (1972). Here the table is made by the exact minimizer of the steps room.

Readings taken. (1) Their table is that of mid-rise levels; feature maps need an exact zero, so s(b) is the
minimizer for mid-tread levels here (``rule="mid_rise"`` regenerates the published numbers). (2) The source is
symmetric about zero and has no mass at zero. A tensor after a ReLU is its positive half, so b unsigned bits take
the step for b + 1 bits of the whole source, and ξ is the root mean square of the nonzero values (for a two-sided
tensor, the standard deviation about zero).
"""

from __future__ import annotations

import math
from functools import cache, partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax.ggd import GeneralizedGamma
from ggdjax.schemes._magnitudes import magnitudes
from ggdjax.schemes._registry import register
from ggdjax.steps import optimal_step
from ggdjax.steps._source import BITS_MAX

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from ggdjax.ggd import Histogram

#: Unit-variance sources as (a, d, p) of the generalized gamma density of |x|: E x² = a² Γ((d+2)/p) / Γ(d/p) = 1.
SOURCES = {
    "gauss": (math.sqrt(2.0), 1.0, 2.0),
    "laplace": (math.sqrt(0.5), 1.0, 1.0),
    "gamma": (2.0 / math.sqrt(3.0), 0.5, 1.0),
}


@cache
def unit_steps(source: str, *, rule: str = "mid_tread") -> Float[np.ndarray, " level"]:
    """Return the optimal steps of a unit-variance source for N = 2, 4, …, 2^16 levels on each side of zero."""
    with jax.ensure_compile_time_eval():  # a constant of the source, also while a scheme is being traced
        return np.asarray(_solve(jnp.asarray(SOURCES[source], dtype=jnp.float32), rule=rule))


@partial(jax.jit, static_argnames="rule")
def _solve(parameters: Float[Array, "3"], *, rule: str) -> Float[Array, " level"]:
    count = jnp.left_shift(1, jnp.arange(1, BITS_MAX + 1, dtype=jnp.int32)).astype(jnp.float32)
    return optimal_step(GeneralizedGamma(*parameters), levels=count, rule=rule)


def sqnr_optimal(
    histogram: Histogram,
    bits: Int[Array, "setting tensor"],
    signed: Bool[Array, "setting tensor"],
    *,
    source: str,
) -> Float[Array, "setting tensor"]:
    """Return ``ξ · s(b)`` of one of the `SOURCES`."""
    size = magnitudes(histogram)
    deviation = size.peak * jnp.sqrt(size.mean_square)
    return deviation[None, :] * jnp.asarray(unit_steps(source))[bits - signed.astype(bits.dtype) - 1]


for _source in SOURCES:
    register(f"sqnr-{_source}", paper="Lin, Talathi, Annapureddy, ICML 2016")(partial(sqnr_optimal, source=_source))
