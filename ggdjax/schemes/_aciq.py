"""ACIQ: clip where a Gaussian's or Laplacian's clipping noise balances the rounding noise.

R. Banner, Y. Nahshan, D. Soudry, "Post training 4-bit quantization of convolutional networks for rapid-deployment",
NeurIPS 2019, section 2. For a source symmetric about zero, clipped at ``±α`` and rounded with ``Δ = 2α / 2^M``::

    E(α) = 2 ∫_α^∞ (x − α)² f(x) dx + α² / (3 · 4^M)

``E' = 0`` gives the clip in units of the source's scale; with N = 2^(M−1) levels on each side of zero it is the
same support equation as for the generalized gamma (Hui and Neuhoff 2001), for these two sources:

* Laplace, ``f = e^(−|x|/b) / (2b)``, t = α/b (their eq. 6):  ``e^(−t) = t / (3 · 4^M)``, so ``t = W₀(3 · 4^M)``;
* Gauss, z = α/σ (their eq. 8):  ``2 (φ(z) − z Q(z)) = z / (3 · 4^M)``, φ and Q the normal density and its upper
  tail.

*ReLU form*: M bits are spent on the positive half alone, so Δ halves, and half of the mass rounds as well as clips:
the equations are those of ``M + 1`` bits. We solve the equations instead of copying the published values. That also
settles which of the values in circulation is right: for Laplace and M = 2 the root is 2.83 (3.89, 5.03 for M = 3,
4), while some code carries 2.33; for Gauss it is 1.71, 2.15, 2.55.

Readings taken. The paper's derivation has a source symmetric about zero; its code measures the scale on the tensor
as it is, after the ReLU: ``b = E|x − E x|``, ``σ² = E(x − E x)²`` over all values, zeros included, and centres the
range at the mean.

* ``aciq-laplace``, ``aciq-gauss``: that scale, α of M bits, the largest representable magnitude ``|E x| + α``.
* ``…-relu``: the same with α of M + 1 bits where codes are unsigned: the code's ReLU ("half range") path.
* ``…-half``: what the derivation of the ReLU form asks for: the tensor is the positive half of a symmetric source
  with mean zero, whose scale the nonzero values alone tell (``b = E|x|``, ``σ² = E x²`` over x ≠ 0); α of M + 1
  bits where codes are unsigned.

The clip never exceeds the peak, ``step = clip / qmax``, and zero stays a code (the authors' code gives it a zero
point).
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ggdjax.schemes._magnitudes import Magnitudes, magnitudes
from ggdjax.schemes._protocol import top_code
from ggdjax.schemes._registry import register

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from ggdjax.ggd._histogram import Histogram

#: Newton steps: from their starts both equations are solved to float32 in at most 8 for M = 1 to 17.
_STEPS = 12


def laplace_clip(bits: Float[Array, "*cell"]) -> Float[Array, "*cell"]:
    """Return ``t = α/b``, the root of ``t + log t = log 3 + M log 4``, that is ``W₀(3 · 4^M)``; M = ``bits`` ≥ 1."""
    target = math.log(3.0) + bits * math.log(4.0)

    def newton(_: int, t: Array) -> Array:
        return t * (1.0 + target - jnp.log(t)) / (1.0 + t)

    return jax.lax.fori_loop(0, _STEPS, newton, target)


def gauss_clip(bits: Float[Array, "*cell"]) -> Float[Array, "*cell"]:
    """Return ``z = α/σ``, the root of ``log 2(φ(z) − z Q(z)) − log z + log 3 + M log 4 = 0``; M = ``bits`` ≥ 1."""
    target = math.log(3.0) + bits * math.log(4.0)

    def newton(_: int, z: Array) -> Array:
        tail = 0.5 * jax.scipy.special.erfc(z * math.sqrt(0.5))
        excess = jnp.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi) - z * tail  # its derivative is −Q
        residual = jnp.log(2.0 * excess) - jnp.log(z) + target
        return z + residual / (tail / excess + 1.0 / z)

    # The residual decreases and is concave in z, so Newton's steps from the left never cross the root.
    return jax.lax.fori_loop(0, _STEPS, newton, jnp.sqrt(bits))


def _moments_about_mean(size: Magnitudes) -> tuple[Array, Array, Array]:
    """Return ``|E x|``, ``E|x − E x|`` and the standard deviation over all values, in units of the peak."""
    mean = jnp.sum((2.0 * size.positive - size.weight) * size.middle, axis=1) * size.nonzero_fraction
    # E|x − m| = 2 E(x − m)₊, and with m's own side of zero only that side's values exceed it.
    own = jnp.where((mean >= 0)[:, None], size.positive, size.weight - size.positive)
    offset = jnp.abs(mean)[:, None]
    low, high = jnp.maximum(size.lower, offset), jnp.maximum(size.upper, offset)
    width = size.upper - size.lower
    inside = (high - low) / jnp.where(width > 0, width, 1.0)
    inside = jnp.where(width > 0, inside, (size.upper > offset).astype(width.dtype))
    excess = jnp.sum(own * inside * (0.5 * (low + high) - offset), axis=1) * size.nonzero_fraction
    variance = size.mean_square * size.nonzero_fraction - mean * mean
    return jnp.abs(mean), 2.0 * excess, jnp.sqrt(jnp.maximum(variance, 0.0))


def aciq(
    histogram: Histogram,
    bits: Int[Array, "setting tensor"],
    signed: Bool[Array, "setting tensor"],
    *,
    source: str,
    form: str,
) -> Float[Array, "setting tensor"]:
    """Return ``min(offset + α, peak) / qmax`` (``form`` "plain", "relu" or "half")."""
    size = magnitudes(histogram)
    if form == "half":
        offset = jnp.zeros_like(size.mean)
        scale = size.mean if source == "laplace" else jnp.sqrt(size.mean_square)
    else:
        offset, deviation, sigma = _moments_about_mean(size)
        scale = deviation if source == "laplace" else sigma
    effective = bits if form == "plain" else bits + (~signed).astype(bits.dtype)
    solve = laplace_clip if source == "laplace" else gauss_clip
    clip = offset[None, :] + scale[None, :] * solve(effective.astype(jnp.float32))
    return size.peak[None, :] * jnp.minimum(clip, 1.0) / top_code(bits, signed)


for _source in ("laplace", "gauss"):
    for _form, _suffix in (("plain", ""), ("relu", "-relu"), ("half", "-half")):
        register(f"aciq-{_source}{_suffix}", paper="Banner, Nahshan, Soudry, NeurIPS 2019")(
            partial(aciq, source=_source, form=_form)
        )
