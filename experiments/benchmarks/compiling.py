"""What the compilers of a GPU and of a TPU make of the programs: launches, memory, traffic, matrix instructions.

    python -m experiments.benchmarks.compiling h200                      fits, steps, schemes, counting, rounding
    python -m experiments.benchmarks.compiling h200 resnet50 --batch 64  the programs of networks of the zoo
    python -m experiments.benchmarks.compiling v5e resnet20 --programs calibrating

Needs no accelerator, but its compiler: ``pip install 'jax[cuda12]'`` or ``pip install 'jax[tpu]'``. Launches are the
kernels of one call, loops counted as often as they run (once where the data decide); products are matrix products and
convolutions by the type of their operands (s8 and pred become int8 matrix instructions). Bytes and FLOPs are XLA's,
which counts a loop once, and knows none for a GPU's kernels.

Writes `experiments/results/compiled_TARGET.json`, one row per program; rows of other programs stay.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from experiments import compiled

RESULTS = Path(__file__).resolve().parents[1] / "results"
HEAD = f"{'':34}{'launches':>9}{'MiB':>9}{'GB':>9}{'GFLOP':>9}  products"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=compiled.TARGETS)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="of the zoo; none: the statistics")
    parser.add_argument("--programs", nargs="+", metavar="NAME", help="only these, such as calibrating; none: all")
    parser.add_argument("--batch", type=int, default=64, help="images of one run")
    parser.add_argument("--side", type=int, help="height and width of the images; none: as published")
    parser.add_argument("--tensors", type=int, default=1000, help="fits and steps at once")
    parser.add_argument("--out", type=Path, help="results; none: experiments/results/compiled_TARGET.json")
    options = parser.parse_intermixed_args()
    if lack := compiled.lacking(options.target):
        parser.error(lack)
    compiled.prepare()
    from experiments.lowering import programs_of, statistics
    from experiments.provenance import code_version
    from ggdjax import report, zoo

    if unknown := [name for name in options.networks if name not in zoo.names()]:
        parser.error(f"unknown network {unknown[0]}; known: {', '.join(zoo.names())}")
    sets = {name: programs_of(name, side=options.side, batch=options.batch) for name in options.networks}
    if not sets:
        sets = {"statistics": statistics(options.tensors)}
    known = {name for programs in sets.values() for name in programs}
    if unknown := [name for name in options.programs or () if name not in known]:
        parser.error(f"unknown program {unknown[0]}; known: {', '.join(sorted(known))}")
    path = options.out or RESULTS / f"compiled_{options.target}.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    print(HEAD, flush=True)
    for network, programs in sets.items():
        scale = options.tensors if network == "statistics" else options.batch
        for name in options.programs or programs:
            program = programs[name]
            found = compiled.compiled(options.target, *program)
            key = f"{network}, {scale}: {name}"
            rows[key] = found | {"side": options.side, "code": code_version()} | report.environment()
            counts = " ".join(f"{kind} {count}" for kind, count in found["products"].items())
            figures = (found["temporary_mib"], found["gigabytes"], found["gigaflops"])
            launched = "" if found["launches"] is None else found["launches"]
            print(f"{key:34}{launched:>9}" + "".join(f"{v:9.1f}" for v in figures) + f"  {counts}", flush=True)
            path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
