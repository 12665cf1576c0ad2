"""The fit against `scipy.stats.gengamma.fit(floc=0)`: log-likelihood and time on 64 tensors.

    python -m experiments run timings --benchmarks fit-against-scipy

64 pairs (d, p) spread over [0.3, 4]², 100,000 samples each, order 0. Times are per tensor, ours from the samples in
memory to the parameters, compiled; SciPy's fit is the peer, in the same run on the same machine.
"""

from __future__ import annotations

import time
import warnings

import jax
import numpy as np
import scipy.stats
from rich.progress import track

import ggdjax as gd
from experiments.timing import seconds


def measure(quick: bool) -> dict[str, float]:
    """Return the figures; quick: of 9 tensors of 20,000 samples."""
    side, size = (3, 20_000) if quick else (8, 100_000)
    grid = np.geomspace(0.3, 4.0, side)
    shapes = [(d, p) for d in grid for p in grid]
    rng = np.random.default_rng(0)
    x = np.stack([np.maximum(rng.gamma(d / p, size=size) ** (1 / p), 1e-30) for d, p in shapes]).astype(np.float32)

    ours = jax.block_until_ready(gd.fit(x, order=0))
    own_seconds = seconds(lambda: gd.fit(x, order=0)) / len(shapes)
    binned = jax.block_until_ready(gd.fit(gd.Histogram.from_samples(x, axis=-1), order=0))
    histogram_seconds = seconds(lambda: gd.fit(gd.Histogram.from_samples(x, axis=-1), order=0), 1) / len(shapes)

    lead, lead_binned, theirs_seconds, failed = [], [], [], 0
    for i in track(range(len(shapes)), "SciPy"):
        values = x[i].astype(np.float64)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, power, _, scale = scipy.stats.gengamma.fit(values, floc=0)
        theirs_seconds.append(time.perf_counter() - start)
        theirs = scipy.stats.gengamma(shape, power, scale=scale).logpdf(values).mean()
        failed += not (np.isfinite(theirs) and power > 0)
        for fitted, into in ((ours, lead), (binned, lead_binned)):
            g = fitted.distribution
            mine = (
                scipy.stats.gengamma(float(g.d[i] / g.p[i]), float(g.p[i]), scale=float(g.a[i])).logpdf(values).mean()
            )
            into.append(mine - theirs if np.isfinite(theirs) else np.inf)
    return {
        "tensors": len(shapes),
        "samples": size,
        "lowest_lead_samples": float(np.min(lead)),
        "lowest_lead_histogram": float(np.min(lead_binned)),
        "largest_lead": float(np.max(lead)),
        "scipy_failed_or_reversed": int(failed),
        "scipy_seconds_per_tensor": float(np.mean(theirs_seconds)),
        "seconds_per_tensor_samples": own_seconds,
        "seconds_per_tensor_histogram": histogram_seconds,
        "scipy_over_samples": float(np.mean(theirs_seconds)) / own_seconds,
    }
