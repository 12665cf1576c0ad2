"""Fits per second: a thousand tensors from histograms in one call; and the cost of the counting pass.

    python -m experiments.benchmarks.fit_throughput [--quick]

The counting pass is compared with `jnp.log` summed over the same float32 array in memory, a memory pass with one
transcendental function per value.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import ggdjax as gd
from experiments.timing import seconds
from ggdjax import report
from ggdjax.ggd._histogram import histogram_counts

RESULT = Path(__file__).resolve().parents[1] / "results" / "fit_throughput.json"


def main() -> None:
    """Measure, print Markdown tables, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 tensors, 4 million values; writes nothing")
    quick = parser.parse_args().quick
    tensors, values = (100, 4_000_000) if quick else (1000, 64_000_000)
    rng = np.random.default_rng(0)
    d, p = (np.exp(rng.uniform(np.log(0.3), np.log(4.0), (tensors, 1))) for _ in range(2))
    x = np.maximum(rng.gamma(d / p, size=(tensors, 10_000)) ** (1 / p), 1e-30).astype(np.float32)
    histograms = jax.device_put(gd.Histogram.from_samples(x, axis=-1))
    figures = {}
    print("| order | fits | seconds | fits per second |\n|---|---|---|---|")
    for order in (0, 2):
        taken = seconds(lambda: gd.fit(histograms, order=order), 5)  # noqa: B023
        figures[f"fits_per_second_order_{order}"] = tensors / taken
        print(f"| {order} | {tensors} | {taken:.3f} | {tensors / taken:.0f} |")

    data = jax.device_put(np.maximum(rng.standard_normal(values, dtype=np.float32), 0.0) + np.float32(1e-3))
    count = seconds(partial(histogram_counts, data), 5)
    # Arguments, not constants: those would be summed while compiling.
    log = seconds(partial(jax.jit(lambda v: jnp.log(v).sum()), data), 5)
    total = seconds(partial(jax.jit(jnp.sum), data), 5)
    figures |= {"histogram_seconds": count, "log_sum_seconds": log, "sum_seconds": total, "values": values}
    print("\n| pass over the same values | ns per value | against log-sum |\n|---|---|---|")
    for name, taken in (("histogram", count), ("jnp.log(x).sum()", log), ("x.sum()", total)):
        print(f"| {name} | {1e9 * taken / values:.2f} | {taken / log:.2f} |")
    if not quick:
        RESULT.write_text(json.dumps(figures | report.environment(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
