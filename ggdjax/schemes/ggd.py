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

from ggdjax.ggd import fit, fit_weighted, split_saturation
from ggdjax.schemes._magnitudes import magnitudes
from ggdjax.schemes._squared_error import squared_error
from ggdjax.schemes.protocol import levels, top_code
from ggdjax.schemes.registry import register
from ggdjax.steps import closed_form_step, optimal_step, saturated_step

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from ggdjax.ggd import Histogram

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
) -> Float[Array, "setting tensor"]:
    """Return the step of least error under the fit of order 0."""
    return solver(fit(histogram, order=0).tail, bits, signed=signed)


def tail_weighted(
    histogram: Histogram,
    bits: Int[Array, "setting tensor"],
    signed: Bool[Array, "setting tensor"],
    *,
    orders: tuple[float, ...],
    solver: Callable[..., Array],
) -> Float[Array, "setting tensor"]:
    """Return the step of least error under the fit of the best of the ``orders``; saturation is accounted for."""
    rest, saturation = split_saturation(histogram)
    tensors = rest.counts.shape[0]
    # All orders of all tensors in one call, the order being the faster index; each tensor is compressed once.
    bins = jax.tree.map(lambda leaf: jnp.repeat(leaf, len(orders), axis=0), rest.compress())
    many = jnp.tile(jnp.asarray(orders, jnp.float32), tensors)
    tail = fit_weighted(bins.log_x, bins.weight, many, log_scale=bins.log_scale).tail
    spread = partial(jnp.repeat, repeats=len(orders), axis=1)
    steps = saturated_step(
        solver(tail, spread(bits), signed=spread(signed)),
        spread(levels(bits, signed)),
        jnp.repeat(saturation.limit, len(orders))[None, :],
        jnp.repeat(saturation.weight, len(orders))[None, :],
    ).reshape(-1, tensors, len(orders))
    if len(orders) == 1:
        return steps[..., 0]
    peak = magnitudes(histogram).peak
    relative = (steps / jnp.where(peak > 0, peak, 1.0)[None, :, None]).transpose(1, 0, 2)
    error = squared_error(histogram, top_code(bits, signed).T)(relative).transpose(1, 0, 2)
    # Of equals the lowest order: it rests on the most values.
    good = error <= error.min(axis=-1, keepdims=True) * (1.0 + TIE)
    return jnp.take_along_axis(steps, jnp.argmax(good, axis=-1)[..., None], axis=-1)[..., 0]


for _suffix, _solver in SOLVERS.items():
    register(f"ggd-plain{_suffix}", paper="Kim et al., arXiv 1810.13329, 2018")(partial(plain, solver=_solver))
    for _name, _orders in (("ggd", ORDERS), ("ggd-tail", (2.0,))):
        register(f"{_name}{_suffix}", paper="after Kim et al., arXiv 1810.13329, 2018; tail-weighted")(
            partial(tail_weighted, orders=_orders, solver=_solver)
        )
