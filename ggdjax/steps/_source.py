"""One internal form for every source of a step: the sides of zero, batched, in the units of the data.

A source is a `GeneralizedGamma` (one side, or |x| of a symmetric tensor), a `TailWeighted` one, or a `Hurdle`
(point mass at zero and two sides with their own weights and fits); a `FitResult` stands for its tail. All of them
become `Sides`: per side

    log( x f(x) ) = log_scale − m y − k (e^w − 1 − w),      y = log x − loc,   w = p y,

which is the density of log x, times the side's weight. It stays accurate in float32 where the scale a of the
generalized gamma distribution over- or underflows (k → ∞, p → 0). `loc` is Prentice's μ = log a + log(k)/p.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

from ggdjax._errors import GgdjaxError, refusal
from ggdjax.ggd import FitResult, GeneralizedGamma, Hurdle, SymmetricGeneralizedGamma, TailWeighted
from ggdjax.ggd._arrays import is_concrete
from ggdjax.ggd._special import stirling_remainder

#: What a step can be computed from.
Source = GeneralizedGamma | SymmetricGeneralizedGamma | TailWeighted | Hurdle | FitResult

BITS_MIN, BITS_MAX = 2, 16
LEVELS_MIN = 2.0
#: Fits outside these ranges say nothing more about a step in float32; they are clipped, not refused.
K_MIN, K_MAX = 1e-5, 1e6
P_MIN, P_MAX = 1e-2, 1e3
#: exp() of it is zero in float32 and float64 alike, and it stays finite under differentiation.
LOG_ZERO = -1e4


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Sides:
    """The sides of zero of a batch of tensors; `reference` and `usable` have no side axis."""

    offset: Float[Array, "... side"]  # reference − loc ≥ 0: the sides share one logarithmic coordinate
    exponent: Float[Array, "... side"]  # p
    k: Float[Array, "... side"]  # d'/p
    order: Float[Array, "... side"]  # m
    log_scale: Float[Array, "... side"]  # log weight + log E[x^m] − m loc + log of the normalizer of Y = log x
    log_energy: Float[Array, "... side"]  # log of weight · E[x²] − 2 reference
    reference: Float[Array, "..."]  # the larger loc of the sides that hold mass: log x = reference is the unit
    usable: Bool[Array, "..."]  # False: no mass, or parameters that are not finite and positive; a stand-in is held

    @property
    def power(self) -> Float[Array, "... side"]:
        """d' − m: near zero the density grows as x^(power − 1)."""
        return self.k * self.exponent - self.order

    def at(self, y: Float[Array, "... side node"]) -> tuple[Array, Array, Array]:
        """Return x f(x) at log x = reference + y, and its first two derivatives in y, divided by it.

        The three are h, r = h'/h and h''/h = r² + r' with r = −m − k p (e^w − 1), r' = −k p² e^w.
        """
        p, k, m = self.exponent[..., None], self.k[..., None], self.order[..., None]
        y = y + self.offset[..., None]
        # e^30 is beyond any tail that counts; the bounds keep h r² = 0 · finite instead of 0 · ∞
        w = jnp.minimum(p * y, 30.0)
        e = jnp.expm1(w)
        log_h = self.log_scale[..., None] - m * y - k * (e - w)
        rate = jnp.maximum(-m - k * p * e, -1e15)
        # exp is bounded because the distant sides of a coarse search may lie far under a diverging x^(−m)
        return jnp.exp(jnp.minimum(log_h, 60.0)), rate, rate * rate - k * p * p * (1.0 + e)


def log_normalizer(k: Array, p: Array) -> Array:
    """Return log p + k log k − k − log Γ(k): log of the density of log x at loc."""
    return jnp.log(p) + 0.5 * (jnp.log(k) - math.log(2.0 * math.pi)) - stirling_remainder(k)


def _log_moment(k: Array, r: Array) -> Array:
    """Return log Γ(k + r) − log Γ(k) − r log k without the cancellation of large k."""
    return (k + r - 0.5) * jnp.log1p(r / k) - r + stirling_remainder(k + r) - stirling_remainder(k)


def sides_of(source: Source) -> Sides:
    """Turn any source into `Sides` (see the module's docstring)."""
    if isinstance(source, FitResult):
        source = source.tail
    if isinstance(source, SymmetricGeneralizedGamma):
        source = source.magnitude
    if isinstance(source, Hurdle):
        tail, weight = source.tail, source.weight
    elif isinstance(source, TailWeighted | GeneralizedGamma):
        tail, weight = source, None
    else:
        wanted = "a GeneralizedGamma, SymmetricGeneralizedGamma, TailWeighted, Hurdle or FitResult"
        raise refusal("source", source, wanted, "for samples, fit them first: `gd.fit(x)`")
    if isinstance(tail, TailWeighted):
        g, order, log_moment = tail.distribution, tail.order, tail.log_moment
    else:
        g, order, log_moment = tail, 0.0, 0.0
    fields = [g.loc, g.d, g.p, order, log_moment] + ([] if weight is None else [weight])
    fields = [jnp.asarray(x, float_dtype(x)) for x in fields]
    dtype = jnp.result_type(*fields)
    shape = jnp.broadcast_shapes(*(x.shape for x in fields))
    fields = [jnp.broadcast_to(x.astype(dtype), shape) for x in fields]
    if weight is None:
        fields = [x[..., None] for x in fields] + [jnp.ones((*shape, 1), dtype)]
    return _assemble(*fields)


def _assemble(loc: Array, d: Array, p: Array, order: Array, log_moment: Array, weight: Array) -> Sides:
    sane = jnp.isfinite(loc) & jnp.isfinite(d) & jnp.isfinite(p) & (d > 0) & (p > 0)
    sane &= jnp.isfinite(order) & jnp.isfinite(log_moment) & jnp.isfinite(weight)
    held = sane & (weight > 0)
    usable = held.any(-1)
    # Nothing to fit: every solver still runs to a finite end, on an exponential density of scale 1.
    keep = sane & usable[..., None]
    loc, order, log_moment = (jnp.where(keep, x, 0.0) for x in (loc, order, log_moment))
    p = jnp.clip(jnp.where(keep, p, 1.0), P_MIN, P_MAX)
    k = jnp.clip(jnp.where(keep, d, 1.0) / p, K_MIN, K_MAX)
    weight = jnp.where(usable[..., None], weight, 1.0)
    held |= ~usable[..., None]
    log_weight = jnp.where(held, jnp.log(jnp.where(held, weight, 1.0)), LOG_ZERO)
    reference = jnp.where(held, loc, -jnp.inf).max(-1)
    # A side without mass must not stretch the coordinate, whatever its parameters are.
    offset = jnp.where(held, reference[..., None] - loc, 0.0)
    log_level = log_weight + log_moment - order * loc
    # E x² = E[x^m] E_g[x^(2−m)]; the moment exists for d' − m + 2 > 0, and d' − m is floored at 0, as the zero cell.
    log_second = log_level + _log_moment(k, jnp.maximum(2.0 - order, 2.0 - k * p) / p)
    return Sides(
        offset=offset,
        exponent=p,
        k=k,
        order=order,
        log_scale=log_level + log_normalizer(k, p),
        log_energy=log_second - 2.0 * offset,
        reference=reference,
        usable=usable,
    )


def float_dtype(x: ArrayLike) -> jnp.dtype:
    """Return the dtype of a floating array, and the default float for Python numbers and integers."""
    dtype = getattr(x, "dtype", None)
    return dtype if dtype is not None and jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)


def levels_of(bits: ArrayLike | None, levels: ArrayLike | None, signed: ArrayLike, dtype: jnp.dtype) -> Array:
    """Return the number of levels N on one side of zero: 2^bits unsigned, 2^(bits−1) signed, or `levels`.

    Raises:
        GgdjaxError: neither or both of `bits` and `levels` given; bits not whole or outside 2..16; levels < 2.
    """
    if (bits is None) == (levels is None):
        raise GgdjaxError("give exactly one of `bits` (2..16) and `levels` (levels on one side of zero, ≥ 2)")
    if levels is not None:
        if is_concrete(levels):
            _check("levels", np.asarray(levels), lambda v: np.isfinite(v) & (v >= LEVELS_MIN), "≥ 2")
        return jnp.asarray(levels).astype(dtype)
    if is_concrete(bits):
        _check(
            "bits",
            np.asarray(bits),
            lambda v: (v >= BITS_MIN) & (v <= BITS_MAX) & (v == np.round(v)),
            f"an integer from {BITS_MIN} to {BITS_MAX}",
        )
    bits, minus = jnp.asarray(bits).astype(jnp.int32), jnp.asarray(signed).astype(jnp.int32)
    shape = jnp.broadcast_shapes(bits.shape, minus.shape)
    exponent = jnp.broadcast_to(bits, shape) - jnp.broadcast_to(minus, shape)
    return jnp.ldexp(jnp.ones(shape, dtype), exponent)  # exact; exp2 may be one unit in the last place off


def _check(name: str, value: np.ndarray, good, expected: str) -> None:
    bad = ~good(value)
    if bad.any():
        raise GgdjaxError(f"`{name}` is {value[bad].flat[0] if value.ndim else value}; expected {expected}")


def broadcast(sides: Sides, levels: Array) -> tuple[Sides, Array]:
    """Broadcast a batch of sides against the levels: every array `[*batch, side]` or `[*batch]`."""
    batch = jnp.broadcast_shapes(sides.reference.shape, levels.shape)
    count = sides.k.shape[-1]
    per_side = sides.reference.ndim + 1

    def spread(x: Array) -> Array:
        return jnp.broadcast_to(x, (*batch, count) if x.ndim == per_side else batch)

    return jax.tree.map(spread, sides), jnp.broadcast_to(levels, batch)
