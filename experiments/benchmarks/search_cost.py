"""The cost of a backward-forward search against a loop that runs the whole network for every candidate.

    python -m experiments run timings --benchmarks search-cost     ResNet-20 at 4/4, layers spread over it

On the same layers and images.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from rich.progress import track

from experiments.bench import Bench
from experiments.real_networks import NETWORKS
from ggdjax import tune
from ggdjax.tune._candidates import candidates_of
from ggdjax.tune._segments import Unit


def measure(quick: bool) -> dict[str, Any]:
    """Return passes and seconds of both; quick: one layer and 128 images."""
    bench = Bench(NETWORKS["resnet20"], held_out=128, tuning=128 if quick else 1000)
    q, (images, labels) = bench.quantized((4, 4)), bench.decoded("tuning")
    maps = q.graph.feature_maps()
    chosen = maps[:: max(1, len(maps) // (1 if quick else 6))]
    size = 128
    batches = [images[i : i + size] for i in range(0, len(images) - size + 1, size)]
    config = tune.TuneConfig(layers=tuple(fm.tensor for fm in chosen), sweeps=1)
    start = time.perf_counter()
    passes = 0
    for fm in track(chosen, "naive loop"):
        for candidate in candidates_of(Unit(tensor=fm.tensor, readers=fm.readers), q.quantizers, config):
            other = replace(q, quantizers=candidate.apply(q.quantizers, fm.tensor))
            for x in batches:
                np.asarray(other(x))
            passes += 1
    slow = time.perf_counter() - start
    start = time.perf_counter()
    tuned = tune.backward_forward(q, images[: len(batches) * size], labels[: len(batches) * size], config)
    fast = time.perf_counter() - start
    history = tuned.history
    return {
        "widths": "4/4",
        "layers": len(chosen),
        "images": len(batches) * size,
        "naive_passes": passes,
        "naive_seconds": slow,
        "float_passes": history.float_passes,
        "seconds": fast,
        "compile_seconds": history.compile_seconds,
    }
