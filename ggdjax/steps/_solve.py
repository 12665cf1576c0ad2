"""The public step solvers: any source, any batch, tensors × bit widths in one call.

    step = closed_form_step(fit.tail, bits=8)                      Lambert W, corrected
    step = optimal_step(fit.tail, bits=jnp.arange(2, 9)[:, None])  exact minimiser, bits × tensors
    result = solve(fit.tail, 8, method="support")                  step, code, predicted distortion and SQNR
    result = predict(fit.tail, step, 8)                            the same for a step from anywhere
    error = overload(fit.tail, step, levels=256.0)                 the part of it beyond the range

With N levels on a side of zero (2^bits unsigned, 2^(bits−1) signed) the mid-tread quantizer is Δ clip(round(x/Δ)) to
0 … N−1 (to −(N−1) … N−1 where both sides hold mass). A point mass at zero costs nothing and moves nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from ggdjax._errors import GgdjaxError, near_matches
from ggdjax.ggd._arrays import is_concrete
from ggdjax.steps import _closed_form as closed_form
from ggdjax.steps import _optimal as optimal
from ggdjax.steps import _support as support
from ggdjax.steps._distortion import OFFSETS, distortion_parts, overload_error
from ggdjax.steps._source import Sides, Source, broadcast, levels_of, sides_of

#: The ways that `solve` knows to choose a step.
METHODS = ("closed_form", "lambert", "support", "optimal", "power_of_two")
#: Elements solved together: on a CPU as many as have their nodes in its cache, elsewhere those of about 1 GiB, since
#: every chunk is a chain of kernels. The result does not depend on it.
CHUNK, CHUNK_OF_ACCELERATORS = 64, 1 << 13


class StepCode(enum.IntEnum):
    """What became of one element; the step is finite and positive in every case."""

    CONVERGED = 0
    DEGENERATE = 1
    AT_BOUND = 2

    @property
    def message(self) -> str:
        """What happened, and what to do."""
        return _MESSAGES[self]


_MESSAGES = {
    StepCode.CONVERGED: "converged",
    StepCode.DEGENERATE: "no mass beside zero, or parameters that are not finite and positive: the step is a "
    "stand-in (that of an exponential density of scale 1); look at the fit's own code",
    StepCode.AT_BOUND: "the minimum lies at the edge of the search, or the step at the edge of the number type: "
    "the step is usable; check the fit, or rescale the data",
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Distortion:
    """Mean squared error in squared units of the data: total = granular + overload."""

    granular: Float[Array, "..."]
    overload: Float[Array, "..."]
    total: Float[Array, "..."]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Steps and what the fitted density predicts for them; arrays of the batch shape of source × bits."""

    step: Float[Array, "..."]
    code: Int[Array, "..."]  # StepCode
    distortion: Distortion
    sqnr_db: Float[Array, "..."]  # 10 log10( E[x²] / total distortion )
    clip_probability: Float[Array, "..."]  # P(|x| > (N − ½) Δ), mid-rise P(|x| > N Δ); zeros count as not clipped


def closed_form_step(
    source: Source,
    bits: ArrayLike | None = None,
    *,
    levels: ArrayLike | None = None,
    signed: ArrayLike = False,
    corrected: bool = True,
    rounded: ArrayLike = 1.0,
) -> Float[Array, "..."]:
    """Return the step by the Lambert W closed form of the support equation (Hui & Neuhoff 2001; `closed_form`).

    Args:
        source: any `Source`, batched.
        bits: integer(s) from 2 to 16, broadcast against the batch.
        levels: instead of `bits`, the levels N on one side of zero, real, ≥ 2; differentiable.
        signed: two-sided: N = 2^(bits−1) levels on each side, and with a one-sided source that is a fit of ``|x|``.
        corrected: use N − ½ for N and the next term of the tail: losses of hundredths of a dB.
        rounded: share of the values whose error is Δ²/12, > 0, broadcast against the batch: O(L) = share · L/(12 N²).

    Returns:
        The step in the units of the data, finite and positive, of the broadcast batch shape. Differentiable.

    Raises:
        GgdjaxError: `bits` or `levels` out of range (values that are being traced are not looked at).

    Example:
        >>> density = gd.GeneralizedGamma(a=1.0, d=1.0, p=1.0)
        >>> [round(float(step), 3) for step in gd.closed_form_step(density, bits=np.array([4, 6, 8]))]
        [0.406, 0.137, 0.044]
    """
    sides, n = _inputs(source, bits, levels, signed, "mid_tread")
    share = jnp.broadcast_to(jnp.asarray(rounded).astype(n.dtype), n.shape)
    return _batched(_Solver("closed_form" if corrected else "lambert", OFFSETS["mid_tread"], False), sides, n, share)


def support_step(
    source: Source,
    bits: ArrayLike | None = None,
    *,
    levels: ArrayLike | None = None,
    signed: ArrayLike = False,
) -> Float[Array, "..."]:
    """Return L/(N − ½) with the support equation O(L) = L/(12 N²) solved exactly; see `closed_form_step`.

    Differentiable in the fit and in `levels` by the implicit function theorem.
    """
    return _steps(source, bits, levels, signed, "support", "mid_tread")


def optimal_step(
    source: Source,
    bits: ArrayLike | None = None,
    *,
    levels: ArrayLike | None = None,
    signed: ArrayLike = False,
    rule: str = "mid_tread",
) -> Float[Array, "..."]:
    """Return the global minimiser of the distortion under the fitted density; see `closed_form_step`.

    Args:
        source: any `Source`, batched.
        bits: integer(s) from 2 to 16.
        levels: instead of `bits`, N on one side of zero, real, ≥ 2.
        signed: two-sided: N = 2^(bits−1).
        rule: "mid_tread" (levels kΔ) or "mid_rise" (levels (k + ½)Δ: the tables of Max 1960, Paez & Glisson 1972).

    Differentiable in the fit and in `levels` by the implicit function theorem. Accuracy 1e-6, float32 as float64.

    Example:
        >>> gaussian = gd.GeneralizedGamma.half_normal(1.0)
        >>> round(float(gd.optimal_step(gaussian, levels=4, rule="mid_rise")), 3)  # Max (1960): 0.5860
        0.586
    """
    return _steps(source, bits, levels, signed, "optimal", rule)


def power_of_two_step(
    source: Source,
    bits: ArrayLike | None = None,
    *,
    levels: ArrayLike | None = None,
    signed: ArrayLike = False,
    rule: str = "mid_tread",
) -> Float[Array, "..."]:
    """Return the best step among the powers of two; see `optimal_step`. Its derivatives are zero."""
    return _steps(source, bits, levels, signed, "power_of_two", rule)


def solve(
    source: Source,
    bits: ArrayLike | None = None,
    *,
    levels: ArrayLike | None = None,
    signed: ArrayLike = False,
    method: str = "closed_form",
    rule: str = "mid_tread",
) -> StepResult:
    """Return the step by `method`, with its result code and predictions.

    Args:
        source: any `Source`, batched.
        bits: integer(s) from 2 to 16, broadcast against the batch.
        levels: instead of `bits`, N on one side of zero, real, ≥ 2.
        signed: two-sided: N = 2^(bits−1).
        method: "closed_form", "lambert" (closed form without corrections), "support", "optimal", "power_of_two".
        rule: "mid_tread" or "mid_rise".

    Raises:
        GgdjaxError: an unknown method or rule (with the near matches), `bits` or `levels` out of range.

    Example:
        >>> result = gd.steps.solve(gd.GeneralizedGamma(a=1.0, d=1.0, p=1.0), bits=8, method="support")
        >>> gd.steps.StepCode(int(result.code)).message
        'converged'
    """
    if method not in METHODS:
        raise GgdjaxError(f"`method` {method!r} is unknown; {near_matches(method, METHODS)}")
    sides, n = _inputs(source, bits, levels, signed, rule)
    return _batched(_Solver(method, OFFSETS[rule], True), sides, n)


def predict(
    source: Source,
    step: ArrayLike,
    bits: ArrayLike | None = None,
    *,
    levels: ArrayLike | None = None,
    signed: ArrayLike = False,
    rule: str = "mid_tread",
) -> StepResult:
    """Return the predicted distortion, SQNR and clip probability of given steps (positive; broadcast to the batch).

    Raises:
        GgdjaxError: a step that is not finite and positive, an unknown rule, `bits` or `levels` out of range.

    Example:
        >>> result = gd.steps.predict(gd.GeneralizedGamma(a=1.0, d=1.0, p=1.0), step=0.1, bits=4)
        >>> round(float(result.clip_probability), 3)
        0.212
    """
    sides, n = _inputs(source, bits, levels, signed, rule)
    if is_concrete(step) and not (np.isfinite(np.asarray(step)) & (np.asarray(step) > 0)).all():
        raise GgdjaxError(f"`step` is {step}; expected finite positive numbers")
    step = jnp.asarray(step).astype(n.dtype)
    shape = jnp.broadcast_shapes(n.shape, step.shape)
    sides, n = broadcast(sides, jnp.broadcast_to(n, shape))
    step = jnp.broadcast_to(step, shape)

    return _batched(_Predictor(OFFSETS[rule]), sides, n, step)


def overload(
    source: Source, step: Float[Array, "..."], levels: Float[Array, "..."], *, limit: ArrayLike = np.inf
) -> Float[Array, "..."]:
    """Return the predicted squared error of the values beyond ``(N − ½) Δ``, per value of the source, in squared steps.

    Args:
        source: any `Source`, batched.
        step: Δ, broadcast against the batch; anything where it is not finite and positive.
        levels: N on one side of zero, real, ≥ 1.
        limit: where the density is cut off, in the units of the data; infinity: nowhere.
    """
    sides = sides_of(source)
    limit = jnp.asarray(limit).astype(sides.k.dtype)
    shape = jnp.broadcast_shapes(sides.reference.shape, step.shape, levels.shape, limit.shape)
    sides, n = broadcast(sides, jnp.broadcast_to(levels.astype(sides.k.dtype), shape))
    phi, last = (jnp.log(jnp.broadcast_to(x, shape)) - sides.reference for x in (step, limit))
    return overload_error(sides, n, phi, last)


class _Solver(NamedTuple):
    """Hashable, so that one compilation serves every call with the same choices and shape."""

    method: str
    offset: float
    predictions: bool

    def __call__(self, sides: Sides, levels: Array, rounded: Array | float = 1.0) -> Any:
        return _solve(sides, levels, rounded, method=self.method, offset=self.offset, predictions=self.predictions)


class _Predictor(NamedTuple):
    """As `_Solver`, for steps that are given."""

    offset: float

    def __call__(self, sides: Sides, levels: Array, step: Array) -> StepResult:
        code = jnp.where(sides.usable, StepCode.CONVERGED, StepCode.DEGENERATE).astype(jnp.int32)
        return _predict(sides, levels, jnp.log(step) - sides.reference, step, code, self.offset)


def _inputs(
    source: Source, bits: ArrayLike | None, levels: ArrayLike | None, signed: ArrayLike, rule: str
) -> tuple[Sides, Array]:
    if rule not in OFFSETS:
        raise GgdjaxError(f"`rule` {rule!r} is unknown; {near_matches(rule, OFFSETS)}")
    sides = sides_of(source)
    return broadcast(sides, levels_of(bits, levels, signed, sides.k.dtype))


def _steps(
    source: Source, bits: ArrayLike | None, levels: ArrayLike | None, signed: ArrayLike, method: str, rule: str
) -> Array:
    sides, n = _inputs(source, bits, levels, signed, rule)
    return _batched(_Solver(method, OFFSETS[rule], False), sides, n)


@partial(jax.jit, static_argnames="solver")
def _batched(solver: Callable[..., Any], sides: Sides, *arrays: Array) -> Any:
    """Flatten the batch, solve it in chunks that fit the cache, restore its shape."""
    shape = sides.reference.shape
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(shape) :]), (sides, *arrays))
    if (count := flat[1].size) <= CHUNK:
        result = solver(*flat)
    else:
        few, many = (partial(_chunked, solver, min(size, count)) for size in (CHUNK, CHUNK_OF_ACCELERATORS))
        result = lax.platform_dependent(*flat, cpu=few, default=many)
    return jax.tree.map(lambda x: x.reshape(shape), result)


def _chunked(solver: Callable[..., Any], size: int, *flat: Any) -> Any:
    count = flat[1].size
    pieces = -(-count // size)

    def split(x: Array) -> Array:
        padded = jnp.pad(x, ((0, pieces * size - count), *((0, 0),) * (x.ndim - 1)), mode="edge")
        return padded.reshape(pieces, size, *x.shape[1:])

    result = lax.map(lambda piece: solver(*piece), jax.tree.map(split, flat))
    return jax.tree.map(lambda x: x.reshape(-1)[:count], result)


def _solve(
    sides: Sides, levels: Array, rounded: Array | float, *, method: str, offset: float, predictions: bool
) -> Any:
    top = levels - 0.5 + offset
    inside = jnp.ones(levels.shape, bool)
    if method == "support":
        phi = support.support(sides, levels) - jnp.log(top)
    elif method in ("closed_form", "lambert"):
        corrected = method == "closed_form"
        phi = closed_form.support(sides, levels, corrected=corrected, offset=offset, rounded=rounded)
        phi = phi - jnp.log(top)
    else:
        phi, inside = optimal.minimise(sides, levels, offset=offset)
    limits = jnp.finfo(phi.dtype)
    low, high = np.log(float(limits.tiny)) + 1.0, np.log(float(limits.max)) - 1.0
    log_step = phi + sides.reference
    step = jnp.exp(jnp.clip(log_step, low, high))
    if method == "power_of_two":
        step = optimal.nearest_power_of_two(sides, levels, step, offset=offset)
    if not predictions:
        return step
    bounded = ~inside | (log_step < low) | (log_step > high)
    code = jnp.where(bounded, StepCode.AT_BOUND, StepCode.CONVERGED)
    code = jnp.where(sides.usable, code, StepCode.DEGENERATE).astype(jnp.int32)
    return _predict(sides, levels, jnp.log(step) - sides.reference, step, code, offset)


def _predict(sides: Sides, levels: Array, phi: Array, step: Array, code: Array, offset: float) -> StepResult:
    parts = distortion_parts(sides, levels, phi, offset=offset)
    limits = jnp.finfo(phi.dtype)
    total = jnp.clip(parts.total[0], limits.tiny, limits.max)
    sqnr = (10.0 / np.log(10.0)) * (jax.nn.logsumexp(sides.log_energy, axis=-1) - 2.0 * phi - jnp.log(total))

    def physical(value: Array) -> Array:
        return jnp.minimum(step * (step * value), limits.max)

    distortion = Distortion(
        granular=physical(parts.granular[0]), overload=physical(parts.overload[0]), total=physical(total)
    )
    return StepResult(
        step=step, code=code, distortion=distortion, sqnr_db=sqnr, clip_probability=jnp.clip(parts.clip, 0.0, 1.0)
    )
