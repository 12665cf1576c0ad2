"""Time to choose every step of a network from its histograms, per scheme, against one float pass over the images.

    python -m experiments run timings --benchmarks time-to-choose

The answer to what a scheme costs beside running the network. The float pass is our own interpreter's, without counting
(`counting` measures that), over the calibration images in memory. Compiled programs; the first call, which compiles,
apart.
"""

from __future__ import annotations

import time
from typing import Any

import jax
from rich.progress import track

from experiments.real_networks import NETWORKS
from experiments.timing import seconds
from ggdjax import network, quantization, schemes


def measure(name: str, quick: bool) -> dict[str, Any]:
    """Return the figures of one network; quick: of 64 calibration images."""
    real = NETWORKS[name]
    net = real.load()
    images = real.open_images(net)
    part = real.split(images, 64 if quick else None).calibration
    batches = [x for x, _ in images.batches(part, min(real.batch_size, 50))]
    batches = [x for x in batches if len(x) == len(batches[0])]
    folded = network.fold_batch_norm(net)
    passing = seconds(lambda: [folded(x) for x in batches])
    histograms = quantization.calibrate(net, batches).histograms
    rows = {}
    for scheme in track(schemes.names(), "schemes", transient=True):
        start = time.perf_counter()
        jax.block_until_ready(schemes.choose(scheme, histograms, 8))
        first = time.perf_counter() - start
        taken = seconds(lambda: schemes.choose(scheme, histograms, 8))  # noqa: B023
        rows[scheme] = {"seconds": taken, "first": first}
    return {"float_pass_seconds": passing, "schemes": rows}
