"""Random networks: fake quantization, integer program, integer ONNX file and Verilog, each against the others.

    python -m experiments.benchmarks.fuzz_integers                  10,000 networks
    python -m experiments.benchmarks.fuzz_integers --networks 200   the first 200
    python -m experiments.benchmarks.fuzz_integers --workers 8      in 8 processes
    python -m experiments.benchmarks.fuzz_integers --seed 35        one, in full
    python -m experiments.benchmarks.fuzz_integers --again          those that were not equal

Networks, their data, widths and scales are drawn by `experiments.random_networks`, one per seed, from seed 5,000 on
of more operations. Each layer gets the codes of the fake-quantized network; then 99 % of the codes of every feature
map must be equal (of a tie, both are right), none more than one LSB away, the outputs 40 dB near, and ONNX Runtime
must give the program's integers; every 20th network runs in Verilog too, where Icarus Verilog is installed. Of what
is refused, the message's remedy is followed. Compiling warns of codes that wide integers are too coarse for; those
may differ. Expected: none different.

Writes `experiments/results/fuzz_integers.json` after every tenth network, and resumes from it. About a second a
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
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax import lax
from rich.console import Console

from experiments.display import progress_bar
from experiments.integer_forms import Outcome, check, kind_of
from experiments.provenance import code_version
from ggdjax import report

RESULTS = Path(__file__).resolve().parents[1] / "results" / "fuzz_integers.json"
#: Networks between two that run in Verilog, and between two writes of the results.
VERILOG, WRITES = 20, 10
#: Pieces of memory that compiled programs take before they are dropped (Linux lets a process map 65,530): 2 GiB.
MOST_MAPS = 8_000
#: What a program gains by optimizing never pays for its time: each runs once. (An unknown flag ends the process.)
FLAGS = "--xla_backend_optimization_level=0"
if metadata.version("jaxlib").startswith("0.10."):
    FLAGS += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    FLAGS += " --xla_disable_hlo_passes=tree_reduction_rewriter"


def set_up() -> None:
    """Let a worker trace and compile fast."""
    jax.config.update("jax_disable_most_optimizations", True)
    gc.disable()
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
        names = ("code", "states", "refused", "onnx", "parts")
        self.counts = {name: Counter(record.get(name, {})) for name in names}
        self.rows: list[dict[str, Any]] = record.get("rows", [])
        self.networks, self.verilog = record.get("networks", 0), record.get("verilog_comparisons", 0)

    def add(self, out: Outcome, code: str) -> None:
        """Count a network that was run by this version of the code."""
        row = {key: value for key, value in asdict(out).items() if key != "differ"} | {"code": code}
        if out.state not in {"equal", "skipped"}:
            self.rows.append(row)
        self._count(row, 1)

    def remove(self, row: dict[str, Any]) -> None:
        """Forget a network that is to run again."""
        self.rows.remove(row)
        self._count(row, -1)

    def _count(self, row: dict[str, Any], times: int) -> None:
        keys = {"code": [row["code"]], "states": [row["state"]], "onnx": [kind_of(row["onnx"])]}
        keys["parts"] = sorted({part.split("(")[0].split(" ")[0] for part in row["parts"]})
        if row["state"] == "refused":
            keys["refused"] = [f"{kind_of(row['said'])} -> {row['remedy'] or 'no remedy tried'}"]
        for name, found in keys.items():
            for key in found:
                self.counts[name][key] += times
            self.counts[name] = +self.counts[name]  # no zeros
        self.networks, self.verilog = self.networks + times, self.verilog + times * row["verilog"]

    def write(self) -> None:
        """Write the results file."""
        record = {"networks": self.networks, "verilog_comparisons": self.verilog, **self.counts, "rows": self.rows}
        RESULTS.write_text(json.dumps(record | report.environment(), indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line, run, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=10_000, help="networks in all, those of earlier runs included")
    parser.add_argument("--workers", type=int, default=1, help="processes that share them")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, help="only this network; nothing is written")
    which.add_argument("--again", action="store_true", help="those that an earlier run did not find equal")
    args = parser.parse_args()
    # Workers read these when they import JAX.
    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS, "OPENBLAS_NUM_THREADS": "1"}
    with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn"), set_up) as pool:
        if args.seed is not None:
            print(json.dumps(asdict(pool.submit(checked, args.seed).result()), indent=1))
            return
        found = Found(json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {})
        rows = found.rows.copy() if args.again else []
        seeds = [row["seed"] for row in rows] if args.again else range(found.networks, args.networks)
        version = code_version()
        code = f"{version.get('commit') or version['version']}{' and changes' if version.get('dirty') else ''}"
        start = time.monotonic()
        with progress_bar(Console(), len(seeds)) as show:
            for done, out in enumerate(pool.map(checked, seeds), start=1):  # in order
                if args.again:
                    found.remove(rows[done - 1])
                found.add(out, code)
                if done % WRITES == 0 or done == len(seeds):
                    found.write()
                show(done, (time.monotonic() - start) / done * (len(seeds) - done))
    print(dict(found.counts["states"]))


if __name__ == "__main__":
    main()
