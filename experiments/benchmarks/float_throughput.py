"""Throughput of the jitted float graph and of the observing pass, against ONNX Runtime float in the same run.

    python -m experiments run timings --benchmarks float-throughput

Same images, same batch, same threads (all that the process may use); the runs of the three alternate, and the least
time counts. CPU time is given beside wall time: on a machine that does other things too it is the fairer ratio. ONNX
Runtime's threads do not spin, since their spinning would be counted against it, and slow the others.

The observing pass is the float network that also counts every quantizable feature map into its histogram.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lowering import counted
from experiments.onnx_runtime import predictor
from experiments.real_networks import NETWORKS, RealNetwork, data_folder
from ggdjax import network
from ggdjax.ggd import Counter

#: Images per batch: so many that a pass takes tens of milliseconds, and so few that feature maps stay below the size
#: (32 MiB) from which the C library returns memory to the system after each pass.
BATCH = {"resnet20": 32, "squeezenet": 4, "mobilenet-0.25-128": 16, "mobilenet-0.75-192": 4}


def _prepare(real: RealNetwork, batch: int) -> tuple[network.Network, jax.Array]:
    net = real.load()
    images = real.open_images(net)
    x, _ = next(iter(images.batches(real.split(images).calibration[:batch], batch)))
    return network.fold_batch_norm(net), jnp.asarray(x)


def measure(name: str, quick: bool) -> dict[str, Any]:
    """Return least wall and CPU times of a pass in ms: ONNX Runtime, the float graph, the observing pass."""
    real, batch, rounds = NETWORKS[name], BATCH[name], 3 if quick else 8
    net, x = _prepare(real, batch)
    threads = len(os.sched_getaffinity(0))
    theirs = partial(predictor(data_folder() / "models" / real.file, spin=False, threads=threads), np.asarray(x))
    counters = {feature_map.tensor: Counter.empty() for feature_map in net.graph.feature_maps()}

    observing = jax.jit(partial(counted, net.graph), donate_argnums=2)

    def observe() -> None:
        nonlocal counters
        counters, _ = jax.block_until_ready(observing(net.params, x, counters))

    passes: dict[str, Callable[[], Any]] = {
        "onnxruntime": theirs,
        "float": lambda: jax.block_until_ready(net(x)),
        "observe": observe,
    }
    wall, cpu = (dict.fromkeys(passes, np.inf) for _ in range(2))
    for function in passes.values():
        function()
    for _ in range(rounds):
        for kind, function in passes.items():
            for _ in range(3):
                start, busy = time.perf_counter(), time.process_time()
                function()
                wall[kind] = min(wall[kind], 1e3 * (time.perf_counter() - start))
                cpu[kind] = min(cpu[kind], 1e3 * (time.process_time() - busy))
    difference = np.abs(np.asarray(net(x)) - theirs()).max() / np.ptp(np.asarray(net(x)))
    ratios = {f"{what}_of_onnxruntime": ms["onnxruntime"] / ms["float"] for what, ms in (("wall", wall), ("cpu", cpu))}
    said = {"batch": batch, "threads": threads, **ratios}
    return {**said, "wall_ms": wall, "cpu_ms": cpu, "logits_differ_by": float(difference)}
