"""The tail-weighted maximum-likelihood fit itself, to weighted values.

If x has the density GGD(a, d, p), the density ∝ ``x^m f(x)`` is GGD(a, d + m, p). So a fit with weights ``x^m``
is exact where ``x^m f`` has its mass: m = 0 is plain maximum likelihood, m = 2 fits the distribution of energy,
which is what a signal-to-noise ratio counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ggdjax._errors import GgdjaxError, expect_array, summary
from ggdjax._tables import html_table
from ggdjax.ggd._arrays import is_concrete, pad_rank
from ggdjax.ggd._distribution import GeneralizedGamma
from ggdjax.ggd._histogram import histogram_counts
from ggdjax.ggd._profile import P_MAX, P_MIN, Root, evaluate, maximize, polish
from ggdjax.ggd._standard_errors import StandardErrors, standard_errors
from ggdjax.ggd._tail import TailWeighted

#: Fewer occupied bins (distinct values) than this do not determine three parameters.
_FEWEST = 5
#: Values worked on at a time: on a CPU what its cache holds, elsewhere 256 MiB: every block is a chain of kernels.
_BLOCK, _BLOCK_OF_ACCELERATORS = 1 << 17, 1 << 26
#: Standard deviation and minus the mean of log x for a standard Weibull variable (π/√6 and Euler's constant),
#: the one-parameter shape that stands in where the data do not determine the fit.
WEIBULL_DEVIATION, EULER = 1.2825498301618641, 0.5772156649015329


class FitCode(IntEnum):
    """What a fit came to. Every code comes with finite parameters that can be used."""

    CONVERGED = 0
    LOG_NORMAL_BOUNDARY = 1
    UPPER_BOUNDARY = 2
    CONSTANT = 3
    ALL_ZERO = 4
    TOO_FEW = 5

    @property
    def message(self) -> str:
        """One sentence: what happened, and what to try."""
        return _MESSAGES[self]


_MESSAGES = {
    FitCode.CONVERGED: "the likelihood has its maximum inside the bracket of p",
    FitCode.LOG_NORMAL_BOUNDARY: f"the likelihood rises to p = {P_MIN}: the data are log-normal or heavier; "
    "the boundary fit is returned, try another `order`",
    FitCode.UPPER_BOUNDARY: f"the likelihood rises to p = {P_MAX:.0f}: the data end at a sharp limit; "
    "the boundary fit is returned, the maximum is as good a support",
    FitCode.CONSTANT: "all nonzero values are equal: a narrow Weibull distribution at that value is returned",
    FitCode.ALL_ZERO: "there is no nonzero finite value: an exponential distribution of scale 1 is returned",
    FitCode.TOO_FEW: f"fewer than {_FEWEST} distinct values: a Weibull distribution of their mean and deviation "
    "in log x is returned; give more data",
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class FitResult:
    """A fit per tensor; all leaves share the batch shape of the data.

    Args:
        distribution: ``GGD(a, d' − m, p)``, the fit brought back from the size-biased density; equal to the fit
            itself for order 0.
        tail: the fit in the form that the steps use, ``f(x) ≈ E[x^m] x^(−m) GGD(a, d', p)``.
        code: `FitCode` as an integer.
        log_likelihood: mean log-density of the size-biased fit per value (weights ``x^m``, summing to one).
        iterations: Newton steps that still moved log p by more than 1e-5.
        standard_errors: of (a, d, p): from the observed information for order 0, from the sandwich
            ``A⁻¹BA⁻¹`` (White 1982) otherwise; inf where the data do not determine the parameter.
        order: the order m that was used.
    """

    distribution: GeneralizedGamma
    tail: TailWeighted
    code: Int[Array, "..."]
    log_likelihood: Float[Array, "..."]
    iterations: Int[Array, "..."]
    standard_errors: StandardErrors
    order: Float[Array, "..."]

    def __repr__(self) -> str:
        shape = np.shape(self.order)
        if shape or not is_concrete(self.order):
            return summary(self, batch_shape=shape)
        code = FitCode(int(self.code)).name.lower()
        return summary(self, distribution=self.distribution, order=f"{float(self.order):g}", code=code)

    def _repr_html_(self) -> str:
        leaves = (self.distribution.a, self.distribution.d, self.distribution.p, self.order, self.code)
        if not is_concrete(self.order):
            return html_table(self, (), 0)
        columns = [np.asarray(leaf).reshape(-1) for leaf in leaves]
        rows = (
            {"tensor": i, "a": a, "d": d, "p": p, "order": order, "result": FitCode(int(code)).message}
            for i, (a, d, p, order, code) in enumerate(zip(*columns, strict=True))
        )
        return html_table(self, rows, columns[0].size)

    def messages(self) -> list[str]:
        """Return the message of each fit, flattened."""
        return [FitCode(int(code)).message for code in np.asarray(self.code).reshape(-1)]


def log_samples(
    x: Float[Array, "... n"], side: str
) -> tuple[Float[Array, "... n"], Float[Array, "... n"], Float[Array, "..."]]:
    """Return the magnitudes on one side (0 where a value does not count), log x less log_scale (0 there), log_scale.

    The scale is the largest magnitude, held in differentiation.
    """
    x = {"positive": x, "negative": -x, "magnitude": jnp.abs(x)}[side]
    # Subnormal numbers count as zeros here: XLA's logarithm of them is −inf.
    used = (x >= float(jnp.finfo(x.dtype).tiny)) & jnp.isfinite(x)
    magnitude = jnp.where(used, x, 0.0)
    top = lax.stop_gradient(magnitude.max(-1, keepdims=True))
    top = jnp.where(top > 0, top, 1.0)
    log_scale = jnp.log(top)
    return magnitude, jnp.log(jnp.where(used, x, top)) - log_scale, log_scale[..., 0]


def fit_weighted(
    log_x: Float[Array, "... n"],
    weight: Float[Array, "... n"],
    order: ArrayLike = 0,
    *,
    log_scale: ArrayLike = 0.0,
) -> FitResult:
    """Fit to values ``exp(log_scale + log_x)`` that count ``weight`` ≥ 0 times (any real number, not only integers).

    Differentiable once in ``log_x``, ``weight`` and ``log_scale`` by the implicit function theorem. ``log_x`` must
    be finite also where the weight is 0, and its largest value near 0 for best accuracy.
    """
    log_x, weight = jnp.asarray(log_x), jnp.asarray(weight)
    shape = jnp.broadcast_shapes(log_x.shape, weight.shape)
    log_x, weight = jnp.broadcast_to(log_x, shape), jnp.broadcast_to(weight, shape)
    order = checked_order(order, shape[:-1], log_x.dtype)
    return _fit_weighted(log_x, weight, order, _per_tensor("log_scale", log_scale, shape[:-1], log_x.dtype))


def checked_order(order: ArrayLike, batch_shape: tuple[int, ...], dtype: Any) -> Array:
    """Return the order of every tensor; what is negative or does not broadcast raises `GgdjaxError`."""
    if isinstance(order, str):
        raise GgdjaxError(f"`order` is {order!r}; expected a number ≥ 0, or one per tensor")
    order = expect_array("order", order, "a number, or one per tensor")
    if is_concrete(order) and np.any(~(np.asarray(order) >= 0)):
        raise GgdjaxError("`order` holds a negative number or NaN; expected numbers ≥ 0 (2 weights by energy)")
    return _per_tensor("order", order, batch_shape, dtype)


def _per_tensor(name: str, value: ArrayLike, batch_shape: tuple[int, ...], dtype: Any) -> Array:
    value = jnp.asarray(value).astype(dtype)
    padded = pad_rank(value, len(batch_shape))
    if padded.ndim > len(batch_shape) or any(n not in (1, m) for n, m in zip(padded.shape, batch_shape, strict=True)):
        raise GgdjaxError(f"`{name}` has shape {value.shape}; expected one number per tensor, {batch_shape}")
    return jnp.broadcast_to(padded, batch_shape)


def by_tensor(function: Callable[..., FitResult], size: int, *arrays: Array) -> FitResult:
    """Map over the tensors, a block at a time: on a CPU about ``_BLOCK`` values, which stay in its cache."""
    shape = arrays[-1].shape
    if not shape:
        return function(*arrays)
    count = int(np.prod(shape))

    def rows(v: Array, batch: int) -> Array:
        flat = v.reshape(count, *v.shape[len(shape) :])
        # A last block of its own size would be compiled by itself.
        return jnp.pad(flat, ((0, -count % batch), *((0, 0),) * (flat.ndim - 1)), mode="edge")

    def mapped(batch: int, *arrays: Array) -> FitResult:
        result = lax.map(lambda one: function(*one), tuple(rows(v, batch) for v in arrays), batch_size=batch)
        return jax.tree.map(lambda leaf: leaf[:count], result)

    few, many = (partial(mapped, max(1, min(block // size, count))) for block in (_BLOCK, _BLOCK_OF_ACCELERATORS))
    one_block = count * size <= _BLOCK
    result = few(*arrays) if one_block else lax.platform_dependent(*arrays, cpu=few, default=many)
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), result)


@jax.jit
def _fit_weighted(log_x: Array, weight: Array, order: Array, log_scale: Array) -> FitResult:
    return by_tensor(fit_bins, log_x.shape[-1], log_x, weight, order, log_scale)


def fit_bins(log_x: Array, weight: Array, order: Array, log_scale: Array) -> FitResult:
    """Fit to values that count ``weight`` times; the array core of `fit_weighted`."""
    c, share, center, log_moment = _centre(log_x, weight, order)
    occupied = (weight > 0).sum(-1)
    root = maximize(c, share)
    return _result(root, c, share, center, log_moment, log_scale, order, occupied, weight.sum(-1), steps=1)


def fit_values(x: Array, order: Array, *, side: str) -> FitResult:
    """Search the maximum on the histogram of the samples, then polish on the samples themselves."""
    magnitude, log_x, log_scale = log_samples(x, side)
    weight = (magnitude > 0).astype(x.dtype)
    c, share, center, log_moment = _centre(log_x, weight, order)

    bins = histogram_counts(lax.stop_gradient(magnitude), axis=-1).compress("positive")
    # Relative to the same scale as the samples.
    shift = (bins.log_scale.astype(x.dtype) - log_scale)[..., None]
    binned = _centre(bins.log_x.astype(x.dtype) + shift, bins.weight.astype(x.dtype), order)
    root = maximize(*binned[:2])
    occupied = (bins.weight > 0).sum(-1)
    count = weight.sum(-1)
    return _result(root, c, share, center, log_moment, log_scale, order, occupied, count, steps=2)


def _centre(log_x: Array, weight: Array, order: Array) -> tuple[Array, Array, Array, Array]:
    """Return logarithms with weighted mean 0, weights ``∝ weight · x^m`` of sum 1, that mean, and log E[x^m]."""
    tilted = weight * jnp.exp(order[..., None] * log_x)
    total, count = tilted.sum(-1), weight.sum(-1)
    some = total > 0
    safe = jnp.where(some, total, 1.0)
    # Without data: one point of weight 1, so that everything below stays finite.
    first = jnp.arange(log_x.shape[-1]).reshape((1,) * (log_x.ndim - 1) + (-1,)) == 0
    share = jnp.where(
        some[..., None], tilted / safe[..., None], jnp.broadcast_to(first, log_x.shape).astype(log_x.dtype)
    )
    center = (share * log_x).sum(-1)
    c = log_x - center[..., None]
    # Once more: the rounding of a sum of large numbers.
    rest = (share * c).sum(-1)
    # Empty bins must not take part in the largest exponent.
    c = jnp.where(share > 0, c - rest[..., None], 0.0)
    log_moment = jnp.where(some, jnp.log(safe) - jnp.log(jnp.where(some, count, 1.0)), 0.0)
    return c, share, center + rest, log_moment


def _result(
    root: Root,
    c: Array,
    share: Array,
    center: Array,
    log_moment: Array,
    log_scale: Array,
    order: Array,
    occupied: Int[Array, "..."],
    count: Array,
    *,
    steps: int,
) -> FitResult:
    log_p = polish(root, c, share, steps)
    point = evaluate(log_p, c, share)
    p = jnp.exp(log_p)
    loc = point.log_mean / p

    few: Bool[Array, "..."] = occupied < _FEWEST
    deviation = jnp.sqrt((share * c * c).sum(-1) + 1e-12)
    weibull = jnp.clip(WEIBULL_DEVIATION / deviation, P_MIN, P_MAX)
    p = jnp.where(few, weibull, p)
    k = jnp.where(few, 1.0, point.k)
    loc = jnp.where(few, EULER / weibull, loc)
    errors, log_likelihood = standard_errors(
        c, share, order, count, log_moment=log_moment - order * center, loc=loc, k=k, p=p
    )
    known = ~few & root.interior
    location = loc + center + log_scale
    log_a = location - jnp.log(k) / p
    errors = StandardErrors(
        a=jnp.where(known, errors.a * jnp.exp(jnp.minimum(log_a, 88.0)), jnp.inf),
        d=jnp.where(known, errors.d, jnp.inf),
        p=jnp.where(known, errors.p, jnp.inf),
    )
    boundary = jnp.where(p < 1.0, int(FitCode.LOG_NORMAL_BOUNDARY), int(FitCode.UPPER_BOUNDARY))
    code = jnp.where(root.interior, int(FitCode.CONVERGED), boundary)
    code = jnp.where(few, int(FitCode.TOO_FEW), code)
    code = jnp.where(occupied == 1, int(FitCode.CONSTANT), code)
    code = jnp.where(occupied == 0, int(FitCode.ALL_ZERO), code)
    nothing = occupied == 0
    location, p, k = jnp.where(nothing, 0.0, location), jnp.where(nothing, 1.0, p), jnp.where(nothing, 1.0, k)
    tail = TailWeighted(
        distribution=GeneralizedGamma.from_loc(location, k * p, p),
        order=order,
        log_moment=jnp.where(nothing, 0.0, log_moment + order * log_scale),
    )
    return FitResult(
        distribution=tail.as_ggd(),
        tail=tail,
        code=code,
        log_likelihood=jnp.where(nothing, 0.0, log_likelihood - center - log_scale),
        iterations=root.iterations,
        standard_errors=errors,
        order=order,
    )
