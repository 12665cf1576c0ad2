"""Fits per second: a thousand tensors from histograms in one call; and the cost of the counting pass.

    python -m experiments run timings --benchmarks fit-throughput

The counting pass is compared with `jnp.log` summed over the same float32 array in memory, a memory pass with one
transcendental function per value.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import ggdjax as gd
from experiments.timing import seconds
from ggdjax.ggd._histogram import histogram_counts


def measure(quick: bool) -> dict[str, float]:
    """Return the figures; quick: of 100 tensors and 4 million values."""
    tensors, values = (100, 4_000_000) if quick else (1000, 64_000_000)
    rng = np.random.default_rng(0)
    d, p = (np.exp(rng.uniform(np.log(0.3), np.log(4.0), (tensors, 1))) for _ in range(2))
    x = np.maximum(rng.gamma(d / p, size=(tensors, 10_000)) ** (1 / p), 1e-30).astype(np.float32)
    histograms = jax.device_put(gd.Histogram.from_samples(x, axis=-1))
    figures = {}
    for order in (0, 2):
        taken = seconds(lambda: gd.fit(histograms, order=order), 5)  # noqa: B023
        figures[f"fits_per_second_order_{order}"] = tensors / taken

    data = jax.device_put(np.maximum(rng.standard_normal(values, dtype=np.float32), 0.0) + np.float32(1e-3))
    count = seconds(partial(histogram_counts, data), 5)
    # Arguments, not constants: those would be summed while compiling.
    log = seconds(partial(jax.jit(lambda v: jnp.log(v).sum()), data), 5)
    total = seconds(partial(jax.jit(jnp.sum), data), 5)
    return figures | {
        "histogram_seconds": count,
        "log_sum_seconds": log,
        "sum_seconds": total,
        "values": values,
        "counting_over_log_sum": count / log,
    }
