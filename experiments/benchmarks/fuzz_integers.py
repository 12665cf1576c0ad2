"""Random networks: fake quantization, integer program, integer ONNX file and Verilog, each against the others.

    python -m experiments.benchmarks.fuzz_integers                  10,000 networks
    python -m experiments.benchmarks.fuzz_integers --networks 200   the first 200
    python -m experiments.benchmarks.fuzz_integers --workers 8      in 8 processes
    python -m experiments.benchmarks.fuzz_integers --seed 35        one, in full

Networks, their data, widths and scales are drawn by `experiments.random_networks`, one per seed. Each layer gets the
codes of the fake-quantized network; then 99 % of the codes of every feature map must be equal, none more than one LSB
away, the outputs 40 dB near, and ONNX Runtime must give the program's integers; every 20th network runs in Verilog too,
where Icarus Verilog is installed. Of what is refused, the message's remedy is followed. Expected: none different.

Writes `experiments/results/fuzz_integers.json` after every tenth network, and resumes from it. SECONDS a
network on one core, nearly all of it tracing and compiling.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax import lax
from rich.console import Console

from experiments.display import progress_bar
from experiments.provenance import code_version
from experiments.random_networks import Outcome, check, kind_of
from ggdjax import report

RESULTS = Path(__file__).resolve().parents[1] / "results" / "fuzz_integers.json"
#: Networks between two that run in Verilog, and between two writes of the results.
VERILOG, WRITES = 20, 10
#: Pieces of memory that compiled programs take before they are dropped (Linux lets a process map 65,530): 2 GiB.
MOST_MAPS = 8_000
#: What a program gains by optimizing never pays for its time: each runs once. (An unknown flag ends the process.)
FLAGS = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):
    FLAGS += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    FLAGS += " --xla_disable_hlo_passes=tree_reduction_rewriter"


def set_up() -> None:
    """Let a worker trace and compile fast."""
    jax.config.update("jax_disable_most_optimizations", True)
    gc.set_threshold(100_000, 50, 100)
    # JAX traces the branches of all platforms, then lowers this one's alone.
    lax.platform_dependent = lambda *args, cpu, **_others: cpu(*args)


def checked(seed: int) -> Outcome:
    """Return the outcome of a seed; an unexpected exception is a difference."""
    maps = Path("/proc/self/maps")
    if maps.is_file() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()
    try:
        return check(seed, verilog=seed % VERILOG == 0)
    except Exception as error:  # crashes are counted
        return Outcome(seed=seed, state="different", said=f"{type(error).__name__}: {error}"[:500])


class Found:
    """What was found so far, as the results file has it."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.counts = {name: Counter(record.get(name, {})) for name in ("states", "refused", "onnx", "parts")}
        self.rows, self.networks = record.get("rows", []), record.get("networks", 0)
        self.verilog = record.get("verilog_comparisons", 0)

    def add(self, out: Outcome) -> None:
        """Count the next network."""
        self.counts["states"][out.state] += 1
        self.counts["onnx"][kind_of(out.onnx)] += 1
        self.counts["parts"].update({part.split("(")[0].split(" ")[0] for part in out.parts})
        if out.state == "refused":
            self.counts["refused"][f"{kind_of(out.said)} -> {out.remedy or 'no remedy tried'}"] += 1
        self.verilog += out.verilog
        if out.state not in {"equal", "skipped"}:
            self.rows.append({key: value for key, value in asdict(out).items() if key != "differ"})
        self.networks += 1

    def record(self) -> dict[str, Any]:
        """Return what the results file holds."""
        return {"networks": self.networks, "verilog_comparisons": self.verilog, **self.counts, "rows": self.rows}


def main() -> None:
    """Read the command line, run, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=10_000, help="networks in all, those of earlier runs included")
    parser.add_argument("--workers", type=int, default=1, help="processes that share them")
    parser.add_argument("--seed", type=int, help="only this network; nothing is written")
    args = parser.parse_args()
    # Workers read these when they import JAX.
    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS, "OPENBLAS_NUM_THREADS": "1"}
    with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn"), set_up) as pool:
        if args.seed is not None:
            print(json.dumps(asdict(pool.submit(checked, args.seed).result()), indent=1))
            return
        found = Found(json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {})
        first, start, stamp = found.networks, time.monotonic(), {"code": code_version()} | report.environment()
        with progress_bar(Console(), args.networks) as show:
            for out in pool.map(checked, range(first, args.networks)):  # in order
                found.add(out)
                if found.networks % WRITES == 0 or found.networks == args.networks:
                    RESULTS.write_text(json.dumps(found.record() | stamp, indent=1) + "\n", encoding="utf-8")
                seconds = time.monotonic() - start
                show(found.networks, seconds / (found.networks - first) * (args.networks - found.networks))
    print(dict(found.counts["states"]))


if __name__ == "__main__":
    main()
