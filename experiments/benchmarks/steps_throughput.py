"""Steps per second by every solver, in one jitted call; against an elementwise exponential over as many numbers.

python -m experiments run timings --benchmarks steps-throughput
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import ggdjax as gd
from experiments.timing import seconds
from ggdjax import steps

#: Solver -> how many steps are asked for in one call.
SOLVERS = {"closed_form": 1_000_000, "support": 50_000, "optimal": 20_000, "power_of_two": 20_000}


def measure(quick: bool) -> dict[str, dict[str, float]]:
    """Return the figures of every solver; quick: of a hundredth of the steps."""
    solve = {
        "closed_form": steps.closed_form_step,
        "support": steps.support_step,
        "optimal": steps.optimal_step,
        "power_of_two": steps.power_of_two_step,
    }
    rng = np.random.default_rng(0)
    figures = {}
    for name, most in SOLVERS.items():
        count = most // 100 if quick else most
        a, d, p = (np.exp(rng.uniform(np.log(lo), np.log(hi), count)) for lo, hi in ((0.01, 100), (0.3, 4), (0.3, 4)))
        g = gd.GeneralizedGamma(*(jnp.asarray(v, jnp.float32) for v in (a, d, p)))
        # The closed form at every width, the searches at 8 bits, where they have the most levels of a usual width.
        bits = jnp.asarray(rng.integers(2, 17, count) if name == "closed_form" else np.full(count, 8), jnp.int32)
        taken = seconds(partial(jax.jit(lambda g, b, f=solve[name]: f(g, bits=b)), g, bits))
        exponential = seconds(partial(jax.jit(jnp.exp), g.d))
        figures[name] = {"steps": count, "seconds": taken, "per_second": count / taken}
        figures[name]["over_exponentials"] = taken / exponential
    return figures
