"""The generalized gamma distribution: fit it to the histogram, take the step of least error under the fit.

``ggd-plain``: maximum likelihood of all nonzero values (order 0), the paper's method. ``ggd``: the tail-weighted
fit of order 2, the maximum likelihood of the density ``∝ x² f(x)``, that is of energy, which is what the squared
error counts. ``ggd-auto``: the order is chosen per tensor. Each with the closed-form step (Lambert W, corrected;
Hui and Neuhoff, IEEE Trans. IT 47(3), 2001, for the support equation behind it) or, named ``…-exact``, with the
exact minimizer of the mid-tread distortion of the fit.

A two-sided tensor is fitted by its magnitudes, both signs together: the quantizer is symmetric.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ggdjax.ggd.fitting import fit
from ggdjax.schemes.registry import register
from ggdjax.steps import closed_form_step, optimal_step

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from ggdjax.ggd import Histogram

#: Suffix of the name -> order of the tail weighting.
ORDERS: dict[str, float | str] = {"": 2.0, "-plain": 0.0, "-auto": "auto"}
#: Suffix of the name -> step solver.
SOLVERS: dict[str, Callable[..., Array]] = {"": closed_form_step, "-exact": optimal_step}


def ggd(
    histogram: Histogram,
    bits: Int[Array, "setting tensor"],
    signed: Bool[Array, "setting tensor"],
    *,
    order: float | str,
    solver: Callable[..., Array],
) -> Float[Array, "setting tensor"]:
    """Return the step of least error under the fit of the given order, by ``solver``."""
    return solver(fit(histogram, order=order).tail, bits, signed=signed)


for _order_suffix, _order in ORDERS.items():
    for _solver_suffix, _solver in SOLVERS.items():
        register(f"ggd{_order_suffix}{_solver_suffix}", paper="the generalized gamma method of this library")(
            partial(ggd, order=_order, solver=_solver)
        )
