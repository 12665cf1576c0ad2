"""Random cases by seed, each in a process that compiles fast: `python -m experiments.fuzzing integers 0 99`."""

from __future__ import annotations

import gc
import json
import math
import sys
from collections import Counter
from dataclasses import asdict
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

#: What is drawn -> the module whose `check` runs the case of a seed.
KINDS = {
    "integers": "experiments.integer_forms",
    "onnx": "experiments.random_onnx",
    "tracer": "experiments.random_functions",
}
#: Pieces of memory that compiled programs take before they are dropped (Linux lets a process map 65,530): 2 GiB.
MOST_MAPS = 8_000


def environment() -> dict[str, str]:
    """Return what JAX reads when it is imported: what programs gain by optimizing never pays where each runs once."""
    flags = "--xla_backend_optimization_level=0"  # an unknown flag ends the process
    if metadata.version("jaxlib").startswith("0.10."):
        flags += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        flags += " --xla_disable_hlo_passes=tree_reduction_rewriter"
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "OPENBLAS_NUM_THREADS": "1"}


def run(kind: str, first: int, last: int) -> list[Any]:
    """Return the outcomes of some seeds; an exception that is no refusal is a difference."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    if kind == "integers":
        gc.disable()
        # JAX traces the branches of all platforms, then lowers this one's alone.
        jax.lax.platform_dependent = lambda *args, cpu, **_others: cpu(*args)
    module, maps, found = import_module(KINDS[kind]), Path("/proc/self/maps"), []
    for seed in range(first, last + 1):
        try:
            found.append(module.check(seed))
        except Exception as error:  # crashes are counted
            found.append(module.Outcome(seed=seed, state="different", said=f"{type(error).__name__}: {error}"[:500]))
        if maps.is_file() and maps.read_bytes().count(b"\n") > MOST_MAPS:
            jax.clear_caches()
            gc.collect()
    return found


def counted(outcomes: list[Any]) -> dict[str, Any]:
    """Return how many cases ended in each way, of what they were made, and those that were not equal."""
    from experiments.integer_forms import kind_of

    rows = [{k: v for k, v in asdict(one).items() if not (isinstance(v, float) and math.isinf(v))} for one in outcomes]
    refused = [kind_of(row["said"]).split("; supported:")[0] for row in rows if row["state"] == "refused"]
    figures = {
        "states": Counter(row["state"] for row in rows),
        "refused": Counter(refused),
        "parts": Counter(part for row in rows for part in {part.split("(")[0].split(" ")[0] for part in row["parts"]}),
        "onnx": Counter(kind_of(row["onnx"]) for row in rows if "onnx" in row),
        "verilog_comparisons": sum(row.get("verilog", 0) for row in rows),
        "unequal": [row for row in rows if row["state"] not in {"equal", "skipped", "refused"}],
    }
    return {name: value for name, value in figures.items() if value}


if __name__ == "__main__":
    print(json.dumps(counted(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
