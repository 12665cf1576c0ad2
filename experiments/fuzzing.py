"""Running random cases by seed: a bar, a file of counts after every few of them, and resuming from it."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import jax
from rich.console import Console

from experiments.display import progress_bar
from experiments.integer_forms import kind_of
from experiments.provenance import code_version
from experiments.random_onnx import Outcome
from ggdjax import report

_RESULTS = Path(__file__).resolve().parent / "results"
#: Cases between two writes of the results, and between two purges of compiled programs.
_WRITES, _PURGES = 20, 100


def checked(check: Callable[[int], Outcome], seed: int) -> Outcome:
    """Return the outcome of a seed; an exception that is no refusal is a difference."""
    try:
        return check(seed)
    except Exception as error:  # crashes are counted
        return Outcome(seed=seed, state="different", said=f"{type(error).__name__}: {error}"[:500])


def main(check: Callable[[int], Outcome], name: str, description: str) -> None:
    """Read the command line, run the cases that are left, write ``experiments/results/<name>.json``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=2000, help="seeds, those of an interrupted run included")
    args = parser.parse_args()
    if args.count < 1:
        parser.error(f"--count must be at least 1, got {args.count}")
    jax.config.update("jax_disable_most_optimizations", True)
    if args.count == 1:
        print(json.dumps(asdict(checked(check, args.seed)), indent=1))
        return
    path = _RESULTS / f"{name}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    version = code_version()
    # Counts of another version of the code, or of other seeds, are dropped; the results themselves are changed files.
    if (found.get("first_seed"), found.get("code", {}).get("commit")) != (args.seed, version.get("commit")):
        found = {}
    counts = {key: Counter(found.get(key, {})) for key in ("states", "refused", "parts")}
    rows, done = found.get("rows", []), found.get("cases", 0)
    start, first = time.monotonic(), done
    with progress_bar(Console(), args.count) as show:
        for done in range(first + 1, args.count + 1):
            out = checked(check, args.seed + done - 1)
            counts["states"][out.state] += 1
            counts["parts"].update(set(out.parts))
            if out.state == "refused":
                counts["refused"][kind_of(out.said).split("; supported:")[0]] += 1
            if out.state == "different":
                rows.append(asdict(out))
                print(f"seed {out.seed}: {out.said}")
            if done % _WRITES == 0 or done == args.count:
                figures = {"first_seed": args.seed, "cases": done, "rows": rows}
                figures |= {key: dict(counted.most_common()) for key, counted in counts.items()}
                text = json.dumps(figures | {"code": version} | report.environment(), indent=1)
                path.write_text(text + "\n", encoding="utf-8")
            if done % _PURGES == 0:
                jax.clear_caches()
            show(done, (time.monotonic() - start) / (done - first) * (args.count - done))
    print(dict(counts["states"]))
