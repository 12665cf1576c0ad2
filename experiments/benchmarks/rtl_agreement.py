"""The Verilog reference against the integer simulator on every layer of ResNet-20, with every rounding.

    python -m experiments.benchmarks.rtl_agreement                 six test images: 1.1 million outputs of convolutions
    python -m experiments.benchmarks.rtl_agreement --images 1      a sixth of that
    python -m experiments.benchmarks.rtl_agreement --case wrap-14  only this; what the file has of others stays

Weights and feature maps of 8 bits, steps of the GGD scheme. Each convolution runs as a whole in the Verilog processing
element; all five roundings of the requantizer read the same sums. Additions and the average are checked as well. A
smaller run repeats the first layers with accumulators of 14 bits that wrap, and that saturate after every tile of eight
input channels; there, sums do overflow. Needs Icarus Verilog. Expected: not one comparison fails.

Writes `experiments/results/rtl_agreement.json`, after every layer. About twenty minutes beside other work.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from experiments.bench import Bench
from experiments.real_networks import NETWORKS
from ggdjax import datapath, export, report
from ggdjax.export._rtl import rtl_layers

RESULTS = Path(__file__).resolve().parents[1] / "results" / "rtl_agreement.json"
NARROW = {"accumulator_bits": 14, "bias_bits": 14}
#: Name -> accelerator, and whether it runs on the first layers only.
CASES = {
    "default": (datapath.Accelerator(), False),
    "wrap-14": (datapath.Accelerator(**NARROW, overflow="wrap"), True),
    "saturate-14-tile-8": (datapath.Accelerator(**NARROW, overflow="saturate", channel_tile=8), True),
}
#: Products per clock: divides the 144, 288 and 576 products of an output value.
LANES = 72
#: Layers, poolings and additions of the smaller runs.
FIRST = 4


def main() -> None:
    """Read the command line, run, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6, help="test images")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this accelerator (repeatable)")
    args = parser.parse_args()
    bench = Bench(NETWORKS["resnet20"], held_out=args.images)
    q, x = bench.quantized((8, 8)), bench.decoded("accuracy")[0]
    cases = args.case or list(CASES)
    earlier = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if args.case and RESULTS.exists() else []
    rows = [row for row in earlier if row["accelerator"] in set(CASES) - set(cases)]
    for case in cases:
        accelerator, few = CASES[case]
        program = datapath.compile(q, accelerator)
        layers = rtl_layers(program)
        for layer in layers[:FIRST] if few else layers:
            start = time.perf_counter()
            found = export.verify_rtl(
                program, x[:1] if few else x, layers=[layer], rounding=list(datapath.Rounding), lanes=LANES
            )
            row = {"accelerator": case, **vars(found.parts[0]), "seconds": round(time.perf_counter() - start, 1)}
            rows.append(row)
            print(row, flush=True)
            write(rows, args.images)


def write(rows: list[dict], images: int) -> None:
    """Write what has been measured so far, with its totals."""
    layers = [row for row in rows if row["op"] in {"conv", "dense"}]
    totals = {
        "images": images,
        "roundings": [rounding.value for rounding in datapath.Rounding],
        "values_of_layers": sum(row["values"] for row in layers),
        "values": sum(row["values"] for row in rows),
        "checks": sum(row["checks"] for row in rows),
        "wrong": sum(row["wrong"] for row in rows),
    }
    RESULTS.write_text(json.dumps({**report.environment(), **totals, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
