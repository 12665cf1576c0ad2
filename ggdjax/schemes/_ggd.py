"""The generalized gamma distribution: fit it to the histogram, take the step of least error under the fit.

``ggd-plain``: maximum likelihood of all nonzero values (order 0), the paper's method as its abstract states it.
``ggd-tail``: the tail-weighted fit of order 2, the maximum likelihood of the density ``∝ x² f(x)``, that is of energy,
which is what the squared error counts. ``ggd``, the default: of the fits of order 0 to 5, the one whose step leaves the
least error on the calibration histogram, chosen for each tensor and width; a choice among six steps, not a search.
Each with the closed-form step (Lambert W, corrected; Hui and Neuhoff, IEEE Trans. IT 47(3), 2001, for the support
equation behind it) or, named ``…-exact``, with the exact minimizer of the mid-tread distortion of the fit.

In ``ggd`` and ``ggd-tail`` a point mass at the largest magnitude (ReLU6, over-exposed pixels) is kept out of the fit
and enters the step by itself (`ggdjax.steps.saturated_step`). A two-sided tensor is fitted by its magnitudes, both
signs together: the quantizer is symmetric.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ggdjax.ggd import Saturation, fit, split_saturation
from ggdjax.ggd._weighted_fit import fit_weighted
from ggdjax.schemes._choice import Fitted
from ggdjax.schemes._magnitudes import magnitudes
from ggdjax.schemes._prediction import predict
from ggdjax.schemes._protocol import Solution, levels, top_code
from ggdjax.schemes._registry import register
from ggdjax.schemes._squared_error import squared_error
from ggdjax.steps import closed_form_step, optimal_step, saturated_step

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from ggdjax.ggd import Histogram, TailWeighted
    from ggdjax.schemes._magnitudes import Magnitudes

#: Orders of the tail weighting that the default scheme chooses from.
ORDERS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
#: Errors that differ by less than this share (0.01 dB) are equal.
TIE = 0.0023
#: Suffix of the name -> step solver.
SOLVERS: dict[str, Callable[..., Array]] = {"": closed_form_step, "-exact": optimal_step}


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
    return _solution(size, step, bits, signed, tail, code, nothing, jnp.full_like(step, jnp.nan))


def tail_weighted(
    histogram: Histogram,
    bits: Int[Array, "setting tensor"],
    signed: Bool[Array, "setting tensor"],
    *,
    orders: tuple[float, ...],
    solver: Callable[..., Array],
) -> Solution:
    """Return the step of least error under the fit of the best of the ``orders``; saturation is accounted for."""
    rest, saturation = split_saturation(histogram)
    tensors, size = rest.counts.shape[0], magnitudes(histogram)
    # All orders of all tensors in one call, the order being the faster index; each tensor is compressed once.
    bins = jax.tree.map(lambda leaf: jnp.repeat(leaf, len(orders), axis=0), rest.compress())
    many = jnp.tile(jnp.asarray(orders, jnp.float32), tensors)
    fitted = fit_weighted(bins.log_x, bins.weight, many, log_scale=bins.log_scale)
    spread = partial(jnp.repeat, repeats=len(orders), axis=1)
    steps = saturated_step(
        solver(fitted.tail, spread(bits), signed=spread(signed)),
        spread(levels(bits, signed)),
        jnp.repeat(saturation.limit, len(orders))[None, :],
        jnp.repeat(saturation.weight, len(orders))[None, :],
    ).reshape(-1, tensors, len(orders))
    if len(orders) == 1:
        best = jnp.zeros(bits.shape, jnp.int32)
        error = jnp.full_like(steps, jnp.nan)
    else:
        relative = (steps / jnp.where(size.peak > 0, size.peak, 1.0)[None, :, None]).transpose(1, 0, 2)
        error = squared_error(histogram, top_code(bits, signed).T)(relative).transpose(1, 0, 2)
        # Of equals the lowest order: it rests on the most values.
        good = error <= error.min(axis=-1, keepdims=True) * (1.0 + TIE)
        best = jnp.argmax(good, axis=-1)

    def pick(leaf: Array) -> Array:
        return jnp.take_along_axis(leaf, best[..., None], axis=-1)[..., 0]

    def of_best(leaf: Array) -> Array:
        return pick(jnp.broadcast_to(leaf.reshape(1, tensors, len(orders)), steps.shape))

    tail, code = jax.tree.map(of_best, (fitted.tail, fitted.code))
    energy = (size.total * size.nonzero_fraction * size.mean_square)[None, :]
    return _solution(size, pick(steps), bits, signed, tail, code, saturation, pick(error) / energy)


def _solution(
    size: Magnitudes,
    step: Float[Array, "setting tensor"],
    bits: Int[Array, "setting tensor"],
    signed: Bool[Array, "setting tensor"],
    tail: TailWeighted,
    fit_code: Int[Array, "setting tensor"],
    saturation: Saturation,
    order_error: Float[Array, "setting tensor"],
) -> Solution:
    """Return the step with the fit that chose it and what that predicts."""
    predicted = predict(size, step, bits, signed, tail=tail, saturation=saturation)
    spread = partial(jax.tree.map, lambda leaf: jnp.broadcast_to(leaf[None, :], step.shape))
    evidence = Fitted(
        tail=tail,
        fit_code=fit_code,
        weight=spread(size.nonzero_fraction - saturation.weight),
        saturation=spread(saturation),
        order_error=order_error,
        **predicted._asdict(),
    )
    return Solution(step, evidence=evidence)


for _suffix, _solver in SOLVERS.items():
    register(f"ggd-plain{_suffix}", paper="Kim et al., arXiv 1810.13329, 2018")(partial(plain, solver=_solver))
    for _name, _orders in (("ggd", ORDERS), ("ggd-tail", (2.0,))):
        register(f"{_name}{_suffix}", paper="after Kim et al., arXiv 1810.13329, 2018; tail-weighted")(
            partial(tail_weighted, orders=_orders, solver=_solver)
        )
