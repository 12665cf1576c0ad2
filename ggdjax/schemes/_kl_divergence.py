"""KL divergence: the clip at which the quantized histogram tells least from the original one (TensorRT calibration).

S. Migacz, "8-bit inference with TensorRT", GTC 2017. The magnitudes go into 2048 equal bins up to the peak. For
every i from the number of levels n to 2048: P is the first i bins, what lies beyond is added to the last of them; Q
merges the i bins (without what lies beyond) into n groups and spreads each group's mass evenly over its non-empty
bins. The i of least ``KL(P ‖ Q)`` gives the clip.

Readings taken, where the slides are silent and implementations differ:

* groups: the i bins are cut evenly, ``group = ⌊n·bin/i⌋``, as in NVIDIA's published calibrator (MXNet's older one
  makes groups of ``⌊i/n⌋`` bins and puts the remainder, up to n − 1 bins, into the last);
* levels: n = 2^b unsigned, 2^(b−1) signed, again as NVIDIA's calibrator; i starts at 128 (the slides' number, for
  every width) or n: without that floor a clip at n bins or so has divergence near zero at 3 bits, because nothing
  is merged;
* zeros: exact zeros are left out, and the first bin takes the second's count (as there): a ReLU's zeros would rule
  P;
* ties: the largest i wins, as there; clip: the upper edge of bin i − 1, ``step = clip / qmax`` (the slides add half
  a bin);
* above 11 levels' bits (n > 2048) there is no candidate, and nothing is clipped.

The linear bins are rebuilt from logarithmic ones, each spread evenly over the linear bins it covers: near the peak
a logarithmic bin is 8 to 16 linear ones wide, so isolated outliers are smeared where the original sees gaps between
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ggdjax._mapping import for_each
from ggdjax.schemes._choice import PredictionCode, Searched
from ggdjax.schemes._magnitudes import Magnitudes, magnitudes
from ggdjax.schemes._protocol import SchemeClass, Solution, levels, top_code
from ggdjax.schemes._registry import register

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from ggdjax.ggd._histogram import Histogram

#: Linear bins, the slides' number.
LINEAR_BINS = 2048
#: Fewest bins that are kept, the slides' number.
FIRST = 128


def linear_histogram(size: Magnitudes) -> Float[Array, "tensor bin"]:
    """Return the fraction of nonzero magnitudes in each of 2048 equal bins from 0 to the peak."""
    grid = jnp.linspace(0.0, 1.0, LINEAR_BINS + 1)
    above = jax.vmap(jnp.interp, in_axes=(None, 0, 0))(grid, size.edges, size.survival)
    return jnp.maximum(above[:, :-1] - above[:, 1:], 0.0)


def divergences(mass: Float[Array, " bin"], groups: Int[Array, ""]) -> Float[Array, " cand"]:
    """Return ``KL(P ‖ Q)`` for every clip after bin i = 1 … 2048.

    Infinite where i < 128 or i < ``groups``, or where Q lacks P's last bin.

    Sums over a group are differences of running sums, so one candidate costs n steps instead of 2048. The running sums
    are taken from the tail, where they are small and their differences exact, and ``Σ P log P`` and ``Σ P log Q`` are
    subtracted group by group: the terms are then as small as the divergence. Accurate to about 1e-6 in float32.
    """
    bins = mass.shape[0]
    last = jnp.arange(1, bins + 1)  # i

    def from_tail(values: Array) -> Array:
        return jnp.concatenate([jnp.cumsum(values[::-1])[::-1], jnp.zeros(1, values.dtype)])

    above = from_tail(mass)
    filled = from_tail((mass > 0).astype(jnp.int32))
    own = from_tail(jax.scipy.special.xlogy(mass, mass))

    def edge(group: Array) -> Array:
        return jnp.minimum(-(-(group * last) // groups), last)  # ⌈group · i / n⌉

    def log_mean(begin: Array, end: Array) -> tuple[Array, Array]:
        """Mass of the bins [begin, end), and the logarithm of its mean over those that are not empty: log Q."""
        inside = above[begin] - above[end]
        mean = inside / jnp.maximum(filled[begin] - filled[end], 1).astype(mass.dtype)
        return inside, jnp.log(jnp.where(inside > 0, mean, 1.0))

    def add_group(group: Array, total: Array) -> Array:
        begin, end = edge(group), edge(group + 1)
        inside, log_q = log_mean(begin, end)
        return total + ((own[begin] - own[end]) - inside * log_q)

    total = jax.lax.fori_loop(0, groups, add_group, jnp.zeros(bins, mass.dtype))
    # What lies beyond the clip joins P's last bin, but not Q.
    outliers = above[last]
    tip = mass + outliers
    _, log_q = log_mean(edge(groups - 1), last)
    total = total + jax.scipy.special.xlogy(tip, tip) - jax.scipy.special.xlogy(mass, mass) - outliers * log_q
    divergence = total / above[0] + jnp.log1p(-outliers / above[0])
    return jnp.where((last >= jnp.maximum(groups, FIRST)) & (mass > 0), divergence, jnp.inf)


@register("kl", paper="Migacz, GTC 2017 (TensorRT calibration)", kind=SchemeClass.SEARCH)
def kl_divergence(
    histogram: Histogram, bits: Int[Array, "setting tensor"], signed: Bool[Array, "setting tensor"]
) -> Solution:
    """Return ``clip / qmax`` with the clip of least divergence."""
    size = magnitudes(histogram)
    mass = linear_histogram(size)
    mass = mass.at[:, 0].set(mass[:, 1])
    groups = levels(bits, signed).astype(jnp.int32)
    tensor = jnp.broadcast_to(jnp.arange(bits.shape[1]), bits.shape)

    def clip(cell: tuple[Array, Array]) -> tuple[Array, Array]:
        index, count = cell
        found = divergences(mass[index], jnp.minimum(count, LINEAR_BINS))
        best = LINEAR_BINS - jnp.argmin(found[::-1])
        none = count > LINEAR_BINS
        clip = jnp.where(none, LINEAR_BINS, best).astype(jnp.float32) / LINEAR_BINS
        return clip, jnp.where(none, 0.0, found.min())

    # On a CPU one cell at a time: the number of groups, and so the work, differs from width to width.
    found = for_each(clip, (tensor.reshape(-1), groups.reshape(-1)))
    clips, least = (leaf.reshape(bits.shape) for leaf in found)
    step = clips * size.peak[None, :] / top_code(bits, signed)
    absent = jnp.full_like(step, jnp.nan)
    code = jnp.full(bits.shape, PredictionCode.ABSENT, jnp.int32)
    return Solution(step, evidence=Searched(minimum=least, distortion=absent, sqnr_db=absent, prediction=code))
