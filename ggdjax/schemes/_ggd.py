"""The generalized gamma distribution: fit it to the histogram, take the step of least error under the fit.

``ggd``, the default: the tail-weighted fit of order m = b/2 for codes of b bits (`ggdjax.ggd.order_for_bits`), the
maximum likelihood of the density ``∝ x^m f(x)``; it looks at no error, apart from tensors whose tail no GGD follows
(`by_width`). ``ggd-plain``: maximum likelihood of all nonzero
values (order 0), the paper's method as its abstract states it. ``ggd-tail``: order 2 for all widths, the distribution
of energy. ``ggd-best-order``: of the fits of order 0 to 5, the one whose step leaves the least error on the calibration
histogram, chosen for each tensor and width: a model with a choice by error.

Each with the closed-form step (Lambert W, corrected; Hui and Neuhoff, IEEE Trans. IT 47(3), 2001, for the support
equation behind it), in all but ``ggd-plain`` with the zero cell (`_dead_zone`); or, named ``…-exact``, with the exact
minimizer of the mid-tread distortion of the fit.

In all but ``ggd-plain`` a point mass at the largest magnitude (ReLU6, over-exposed pixels) is kept out of the fit and
enters the step by itself (`ggdjax.steps.saturated_step`). A two-sided tensor is fitted by its magnitudes, both signs
together: the quantizer is symmetric.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from ggdjax.ggd import FitCode, Saturation, fit, order_for_bits, split_saturation
from ggdjax.ggd._weighted_fit import fit_weighted
from ggdjax.schemes._choice import ChoiceCode, Fitted, PredictionCode
from ggdjax.schemes._dead_zone import dead_zone_step
from ggdjax.schemes._magnitudes import magnitudes
from ggdjax.schemes._prediction import predict
from ggdjax.schemes._protocol import SchemeClass, Solution, levels, top_code
from ggdjax.schemes._registry import register
from ggdjax.schemes._squared_error import squared_error, squared_error_of
from ggdjax.steps import closed_form_step, optimal_step, saturated_step

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from ggdjax.ggd import FitResult, Histogram, TailWeighted
    from ggdjax.ggd._bins import Bins
    from ggdjax.schemes._magnitudes import Magnitudes

#: Orders of the tail weighting that "ggd-best-order" chooses from.
ORDERS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
#: Orders that "ggd" looks at where no fit follows the tail; its steps change abruptly there from one order to the next.
HEAVY_ORDERS = tuple(0.25 * i for i in range(25))
#: Errors that differ by less than this share (0.01 dB) are equal.
TIE = 0.0023
#: Suffix of the name -> step solver; None: the closed form with the dead zone.
SOLVERS: dict[str, Callable[..., Array] | None] = {"": None, "-exact": optimal_step}


def plain(
    histogram: Histogram,
    bits: Int[Array, "setting tensor"],
    signed: Bool[Array, "setting tensor"],
    *,
    solver: Callable[..., Array],
) -> Solution:
    """Return the step of least error under the fit of order 0."""
    fitted = fit(histogram, order=0)
    step = solver(fitted.tail, bits, signed=signed)
    size = magnitudes(histogram)
    nothing = Saturation(limit=size.peak, weight=jnp.zeros_like(size.peak))
    tail, code = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None, :], step.shape), (fitted.tail, fitted.code))
    evidence = _evidence(size, step, bits, signed, tail, code, nothing, jnp.full_like(step, jnp.nan))
    return Solution(step, evidence=evidence)


def tail_weighted(
    histogram: Histogram,
    bits: Int[Array, "setting tensor"],
    signed: Bool[Array, "setting tensor"],
    *,
    order: float,
    solver: Callable[..., Array] | None,
) -> Solution:
    """Return the step of least error under the fit of one order; saturation is split off."""
    rest, saturation = split_saturation(histogram)
    fitted = _fits(rest.compress(), jnp.full(bits.shape[1:], order, jnp.float32))
    tail, code = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, bits.shape), (fitted.tail, fitted.code))
    step = _saturated(solver, magnitudes(rest), saturation, tail, bits, signed)
    size, no_error = magnitudes(histogram), jnp.full_like(step, jnp.nan)
    return Solution(step, evidence=_evidence(size, step, bits, signed, tail, code, saturation, no_error))


class _Best(NamedTuple):
    """What `by_width` holds after each order; arrays of axes ``setting tensor``."""

    tail: TailWeighted
    fit_code: Int[Array, "setting tensor"]
    step: Float[Array, "setting tensor"]
    error: Float[Array, "setting tensor"]
    """Mean squared error of the nonzero values in units of the peak squared; 0 where nothing is heavy."""
    heavy: Bool[Array, "setting tensor"]


def by_width(
    histogram: Histogram,
    bits: Int[Array, "setting tensor"],
    signed: Bool[Array, "setting tensor"],
    *,
    solver: Callable[..., Array] | None,
) -> Solution:
    """Return the step of least error under the fit of order b/2; where no GGD follows the tail, that of the best order.

    A Pareto tail has no moment of order b/2: ``x^m f`` then rests on a handful of the largest values, and its fit ends
    as that of values with a sharp limit, with an overload that means nothing. Such a tensor takes, of the orders b/2
    and `HEAVY_ORDERS`, the one whose step leaves the least error on the histogram, and says so
    (`ChoiceCode.HEAVY_TAIL`). Where no tensor of the batch is like that, no error is computed.
    """
    rest, saturation = split_saturation(histogram)
    size, below, bins = magnitudes(histogram), magnitudes(rest), rest.compress()
    unit = jnp.where(size.peak > 0, size.peak, 1.0)

    def error_of(step: Float[Array, "setting tensor"]) -> Float[Array, "setting tensor"]:
        error = squared_error_of(size, top_code(bits, signed).T)
        return error((step / unit[None]).T[:, :, None])[:, :, 0].T

    def at(order: Float[Array, "setting tensor"], best: _Best | None, first: Bool[Array, ""]) -> _Best:
        fitted = _fits(bins, order)
        step = _saturated(solver, below, saturation, fitted.tail, bits, signed)
        heavy = _is_heavy(below, bins, order, fitted.code, step)
        if best is not None:
            heavy = jnp.where(first, heavy, best.heavy)
        error = jax.lax.cond(heavy.any(), error_of, jnp.zeros_like, step)
        return _Best(fitted.tail, fitted.code, step, error, heavy)

    def consider(best: _Best, order: Float[Array, ""], first: Bool[Array, ""]) -> _Best:
        new = at(jnp.where(first, order_for_bits(bits), order), best, first)
        better = first | (best.heavy & (new.error * (1.0 + TIE) < best.error))
        return jax.tree.map(partial(jnp.where, better), new, best)

    def turn(best: _Best, of: tuple[Array, Array]) -> tuple[_Best, None]:
        order, first = of
        return jax.lax.cond(first | best.heavy.any(), consider, lambda best, *_: best, best, order, first), None

    # One loop over all orders, that of the width first, so that the fit is compiled once.
    orders = jnp.asarray((jnp.nan, *HEAVY_ORDERS), jnp.float32)
    nothing = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(at, order_for_bits(bits), None, jnp.bool_(True))
    )
    best, _ = jax.lax.scan(turn, nothing, (orders, jnp.isnan(orders)))
    relative = jnp.where(best.heavy, best.error / size.mean_square[None], jnp.nan)
    evidence = _evidence(size, best.step, bits, signed, best.tail, best.fit_code, saturation, relative)
    mean_square = size.nonzero_fraction * size.mean_square * size.peak**2
    counted = replace(
        evidence,  # what chose the step is what is shown
        distortion=jnp.where(best.heavy, jnp.minimum(relative * mean_square[None], _LARGEST), evidence.distortion),
        sqnr_db=jnp.where(best.heavy, -10.0 * jnp.log10(relative), evidence.sqnr_db),
        prediction=jnp.where(best.heavy, PredictionCode.COUNTED, evidence.prediction),
    )
    return Solution(best.step, evidence=counted, code=jnp.where(best.heavy, ChoiceCode.HEAVY_TAIL, ChoiceCode.OK))


_LARGEST = float(jnp.finfo(jnp.float32).max)
#: Fewer values than this do not show where a distribution ends; of so few in all, the tail is none of the reasons.
_FEW, _MANY = 30.0, 1000.0


def _is_heavy(
    size: Magnitudes,
    bins: Bins,
    order: Float[Array, "setting tensor"],
    fit_code: Int[Array, "setting tensor"],
    step: Float[Array, "setting tensor"],
) -> Bool[Array, "setting tensor"]:
    """Return where the fit ended at a boundary that the data do not have.

    The weights ``x^m`` rest on few of many values (on ``(Σ x^m)² / Σ x^2m``), or most nonzero values round to zero.
    """
    powers = (jnp.exp(times * order[..., None] * bins.log_x[None]) for times in (1.0, 2.0))
    moment, square = (jnp.sum(bins.weight[None] * power, axis=-1) for power in powers)
    edge = 0.5 * step / jnp.where(size.peak > 0, size.peak, 1.0)[None]
    outside = jax.vmap(jnp.interp, in_axes=(1, 0, 0), out_axes=1)(edge, size.edges, size.survival)
    boundary = (fit_code == FitCode.UPPER_BOUNDARY) | (fit_code == FitCode.LOG_NORMAL_BOUNDARY)
    many = (bins.weight.sum(-1) >= _MANY)[None]
    return boundary & many & ((moment * moment < _FEW * square) | (outside < 0.5))


def best_order(
    histogram: Histogram,
    bits: Int[Array, "setting tensor"],
    signed: Bool[Array, "setting tensor"],
    *,
    solver: Callable[..., Array] | None,
) -> Solution:
    """Return the step under the fit of the one of the `ORDERS` whose step leaves the least error on the histogram."""
    rest, saturation = split_saturation(histogram)
    size, shape = magnitudes(histogram), (len(ORDERS), *bits.shape)
    fitted = _fits(
        rest.compress(), jnp.broadcast_to(jnp.asarray(ORDERS, jnp.float32)[:, None], (len(ORDERS), bits.shape[1]))
    )
    tail, code = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:, None], shape), (fitted.tail, fitted.code))
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, shape[-1]), tail)
    many_bits, many_signed = (jnp.tile(leaf, (len(ORDERS), 1)) for leaf in (bits, signed))
    steps = _saturated(solver, magnitudes(rest), saturation, flat, many_bits, many_signed).reshape(shape)
    relative = (steps / jnp.where(size.peak > 0, size.peak, 1.0)[None, None]).transpose(2, 1, 0)
    error = squared_error(histogram, top_code(bits, signed).T)(relative).transpose(2, 1, 0)
    # Of equals the lowest order: it rests on the most values.
    best = jnp.argmax(error <= error.min(axis=0, keepdims=True) * (1.0 + TIE), axis=0)[None]

    def pick(leaf: Array) -> Array:
        return jnp.take_along_axis(leaf, best, axis=0)[0]

    tail, code = jax.tree.map(pick, (tail, code))
    energy = (size.total * size.nonzero_fraction * size.mean_square)[None, :]
    step, relative_error = pick(steps), pick(error) / energy
    return Solution(step, evidence=_evidence(size, step, bits, signed, tail, code, saturation, relative_error))


def _fits(bins: Bins, orders: Float[Array, "*axis tensor"]) -> FitResult:
    """Return the fit of every tensor at each of its orders."""
    log_x, weight, log_scale = (
        jnp.broadcast_to(leaf, (*orders.shape[:-1], *leaf.shape)) for leaf in (bins.log_x, bins.weight, bins.log_scale)
    )
    return fit_weighted(log_x, weight, orders, log_scale=log_scale)


def _saturated(
    solver: Callable[..., Array] | None,
    rest: Magnitudes,
    saturation: Saturation,
    tail: TailWeighted,
    bits: Int[Array, "setting tensor"],
    signed: Bool[Array, "setting tensor"],
) -> Float[Array, "setting tensor"]:
    """Return the step of the values below the saturation (by ``solver``; None: in closed form), balanced with it."""
    if solver is None:
        step = dead_zone_step(rest, tail, bits, signed)
    else:  # a fit of a heavy tail may put the minimum far beyond all values
        step = jnp.minimum(solver(tail, bits, signed=signed), rest.peak[None] / top_code(bits, signed))
    return saturated_step(step, levels(bits, signed), saturation.limit[None], saturation.weight[None])


def _evidence(
    size: Magnitudes,
    step: Float[Array, "setting tensor"],
    bits: Int[Array, "setting tensor"],
    signed: Bool[Array, "setting tensor"],
    tail: TailWeighted,
    fit_code: Int[Array, "setting tensor"],
    saturation: Saturation,
    order_error: Float[Array, "setting tensor"],
) -> Fitted:
    """Return the fit that chose the step and what that predicts."""
    predicted = predict(size, step, bits, signed, tail=tail, saturation=saturation)
    spread = partial(jax.tree.map, lambda leaf: jnp.broadcast_to(leaf[None, :], step.shape))
    return Fitted(
        tail=tail,
        fit_code=fit_code,
        weight=spread(size.nonzero_fraction - saturation.weight),
        saturation=spread(saturation),
        order_error=order_error,
        **predicted._asdict(),
    )


_AFTER = "after Kim et al., arXiv 1810.13329, 2018; tail-weighted"
for _suffix, _solver in SOLVERS.items():
    register(f"ggd-plain{_suffix}", paper="Kim et al., arXiv 1810.13329, 2018")(
        partial(plain, solver=_solver or closed_form_step)
    )
    register(f"ggd{_suffix}", paper=_AFTER, predictive=True)(partial(by_width, solver=_solver))
    register(f"ggd-tail{_suffix}", paper=_AFTER, predictive=True)(partial(tail_weighted, order=2.0, solver=_solver))
    register(f"ggd-best-order{_suffix}", paper=_AFTER, kind=SchemeClass.MODEL_WITH_CHOICE, predictive=True)(
        partial(best_order, solver=_solver)
    )
