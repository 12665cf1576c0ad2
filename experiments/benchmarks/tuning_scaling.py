"""Backward-forward tuning on 1 to 8 devices and 1 to 2 processes: the same result, and the time of each.

A few layers of ResNet-20 at 4/4, one sweep. On a CPU the devices are simulated and share its cores, so the figures say
what sharding costs, not what it wins; on accelerators each process uses the devices that it sees. Four minutes on two
cores.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
from rich.progress import track

from experiments.bench import Bench
from experiments.experiment import widths_of
from experiments.real_networks import NETWORKS
from ggdjax import GgdjaxError, tune

#: (devices per process, processes)
SETTINGS = ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2))
IMAGES, LAYERS = 512, 5


def measure(quick: bool) -> dict[str, Any]:
    """Return per setting seconds, of these compiling, evaluations, score and a digest of the result."""
    settings = SETTINGS[:: len(SETTINGS) - 1] if quick else SETTINGS
    return {f"{devices} devices, {ranks} processes": _run(devices, ranks) for devices, ranks in track(settings)}


def _run(devices: int, ranks: int) -> dict[str, Any]:
    """Start the processes of one setting and return what the first one says."""
    env = dict(os.environ)
    if jax.default_backend() == "cpu":
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    code = f"from {__name__} import work; work({{}}, {ranks}, {port})"
    runs = [
        subprocess.Popen([sys.executable, "-c", code.format(rank)], env=env, stdout=subprocess.PIPE, stderr=sys.stderr)
        for rank in range(ranks)
    ]
    printed = [run.communicate()[0] for run in runs]
    if any(run.returncode for run in runs):
        raise GgdjaxError(f"the search on {devices} devices, {ranks} processes, failed: see above")
    return json.loads(printed[0].splitlines()[-1])


def work(rank: int, ranks: int, port: int) -> None:
    """Tune as one process of several; the first one prints its figures."""
    if ranks > 1:
        jax.distributed.initialize(f"localhost:{port}", num_processes=ranks, process_id=rank)
    bench = Bench(NETWORKS["resnet20"], held_out=128, tuning=IMAGES)
    q, (images, labels) = bench.quantized(widths_of("4/4")), bench.decoded("tuning")
    maps = [fm.tensor for fm in q.graph.feature_maps()]
    config = tune.TuneConfig(layers=tuple(maps[:: -(-len(maps) // LAYERS)]), sweeps=1)
    evaluations = tune.plan(q, IMAGES, config).evaluations
    start = time.perf_counter()
    tuned = tune.backward_forward(q, images, labels, config)
    seconds = time.perf_counter() - start
    if rank == 0:
        digest = hashlib.sha256()
        for path, value in jax.tree_util.tree_leaves_with_path(tuned):
            digest.update(jax.tree_util.keystr(path).encode() + np.asarray(value).tobytes())
        figures = {
            "seconds": seconds,
            "compile_seconds": tuned.history.compile_seconds,
            "evaluations": evaluations,
            "score": tuned.history.score,
            "result": digest.hexdigest()[:16],
        }
        print(json.dumps(figures))
