"""Backward-forward tuning on 1 to 8 devices and 1 to 2 processes: the same result, and the time of each.

    python -m experiments.benchmarks.tuning_scaling              devices 1, 2, 4, 8 in one process; 2 processes
    python -m experiments.benchmarks.tuning_scaling --table      the table of what is there, as Markdown

A few layers of ResNet-20 at 4/4, one sweep. On a CPU the devices are simulated and share its cores, so the table says
what sharding costs, not what it wins; on accelerators each process uses the devices that it sees. Written to
`experiments/results/tuning_scaling.json`. Four minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
from rich.progress import track

from experiments.bench import Bench
from experiments.experiment import widths_of
from experiments.real_networks import NETWORKS
from ggdjax import report, tune

RESULTS = Path(__file__).resolve().parents[1] / "results" / "tuning_scaling.json"
#: (devices per process, processes)
SETTINGS = ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2))
WIDTHS, IMAGES, LAYERS = "4/4", 512, 5


def work(rank: int, ranks: int, port: int) -> None:
    """Tune as one process of several; the first one prints a record."""
    if ranks > 1:
        jax.distributed.initialize(f"localhost:{port}", num_processes=ranks, process_id=rank)
    bench = Bench(NETWORKS["resnet20"], held_out=128, tuning=IMAGES)
    q, (images, labels) = bench.quantized(widths_of(WIDTHS)), bench.decoded("tuning")
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
        record = {
            "devices": len(jax.devices()),
            "processes": ranks,
            "seconds": seconds,
            "compile_seconds": tuned.history.compile_seconds,
            "evaluations": evaluations,
            "score": tuned.history.score,
            "result": digest.hexdigest()[:16],
        }
        print(json.dumps(record | report.environment()))


def measure(devices: int, processes: int) -> dict:
    """Start the processes of one setting and return their record."""
    env = dict(os.environ)
    if jax.default_backend() == "cpu":
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "experiments.benchmarks.tuning_scaling", "--worker"]
    runs = [
        subprocess.Popen(
            [*command, str(rank), str(processes), str(port)], env=env, stdout=subprocess.PIPE, stderr=sys.stderr
        )
        for rank in range(processes)
    ]
    printed = [run.communicate()[0] for run in runs]
    if any(run.returncode for run in runs):
        raise SystemExit(f"the search on {devices} devices, {processes} processes, failed: see above")
    return json.loads(printed[0].splitlines()[-1])


def table() -> None:
    """Print what is there as Markdown."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    print("| devices | processes | seconds | of it compiling | candidate evaluations per second | result |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        rate = row["evaluations"] / (row["seconds"] - row["compile_seconds"])
        print(
            f"| {row['devices']} | {row['processes']} | {row['seconds']:.1f} | {row['compile_seconds']:.1f} "
            f"| {rate:.0f} | {'the same' if row['result'] == rows[0]['result'] else 'ANOTHER'} |"
        )


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the table of what is there and stop")
    parser.add_argument("--worker", nargs=3, type=int, metavar=("RANK", "RANKS", "PORT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(*args.worker)
        return
    if not args.table:
        rows = [measure(*setting) for setting in track(SETTINGS, "devices and processes")]
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    table()


if __name__ == "__main__":
    main()
