"""Random networks: fake quantization, integer program, integer ONNX file and Verilog, each against the others.

    python -m experiments.benchmarks.fuzz_integers                  10,000 networks
    python -m experiments.benchmarks.fuzz_integers --networks 200   the first 200
    python -m experiments.benchmarks.fuzz_integers --seed 35        one, in full

Networks, their data, widths and scales are drawn by `experiments.random_networks`, one per seed. Each layer gets the
codes of the fake-quantized network; then 99 % of the codes of every feature map must be equal, none more than one LSB
away, the outputs 40 dB near, and ONNX Runtime must give the program's integers; every 20th network runs in Verilog too,
where Icarus Verilog is installed. Of what is refused, the message's remedy is followed. Expected: none different.

Writes `experiments/results/fuzz_integers.json` after every tenth network, and resumes from it. Two to four seconds a
network on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import jax
from rich.console import Console

from experiments.display import progress_bar
from experiments.provenance import code_version
from experiments.random_networks import Outcome, check, kind_of
from ggdjax import report

RESULTS = Path(__file__).resolve().parents[1] / "results" / "fuzz_integers.json"
#: Networks between two that run in Verilog, between two writes of the results, and between two purges of the memory.
VERILOG, WRITES, PURGES = 20, 10, 50


def checked(seed: int) -> Outcome:
    """Return the outcome of a seed; an unexpected exception is a difference."""
    try:
        return check(seed, verilog=seed % VERILOG == 0)
    except Exception as error:  # crashes are counted
        return Outcome(seed=seed, state="different", said=f"{type(error).__name__}: {error}"[:500])


def main() -> None:
    """Read the command line, run, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=10_000, help="networks in all, those of earlier runs included")
    parser.add_argument("--seed", type=int, help="only this network; nothing is written")
    args = parser.parse_args()
    jax.config.update("jax_disable_most_optimizations", True)
    if args.seed is not None:
        print(json.dumps(asdict(checked(args.seed)), indent=1))
        return
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    counts = {name: Counter(found.get(name, {})) for name in ("states", "refused", "onnx", "parts")}
    rows, first, verilog = found.get("rows", []), found.get("networks", 0), found.get("verilog_comparisons", 0)
    start, version = time.monotonic(), code_version()
    with progress_bar(Console(), args.networks) as show:
        for seed in range(first, args.networks):
            out = checked(seed)
            counts["states"][out.state] += 1
            counts["onnx"][kind_of(out.onnx)] += 1
            counts["parts"].update({part.split("(")[0].split(" ")[0] for part in out.parts})
            if out.state == "refused":
                counts["refused"][f"{kind_of(out.said)} -> {out.remedy or 'no remedy tried'}"] += 1
            verilog += out.verilog
            if out.state not in {"equal", "skipped"}:
                rows.append({key: value for key, value in asdict(out).items() if key != "differ"})
            done = seed + 1
            if done % WRITES == 0 or done == args.networks:
                figures = {"networks": done, "verilog_comparisons": verilog, **counts, "rows": rows}
                figures |= {"code": version} | report.environment()
                RESULTS.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
            if done % PURGES == 0:
                jax.clear_caches()
            seconds = time.monotonic() - start
            show(done, seconds / (done - first) * (args.networks - done))
    print(dict(counts["states"]))


if __name__ == "__main__":
    main()
