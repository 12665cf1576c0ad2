"""What narrow accumulators cost: top-1 and overflows against the accumulator's width, wrapping and saturating.

    python -m experiments.benchmarks.accumulator_width                         ResNet-20, 32 to 12 bits, 1,000 images
    python -m experiments.benchmarks.accumulator_width --network mobilenet-0.25-128 --bits 6

Weights and feature maps of 8 bits (`--bits`), steps of the GGD scheme, biases on the accumulator's grid. `worst case`
is the width that the exact static check asks for. Expected: no overflow and the same top-1 at that width and above;
below, saturation loses top-1 gradually and wrapping at once. Adds to `experiments/results/accumulator_width.json`; a
minute per width on two cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from experiments.bench import Bench
from experiments.real_networks import NETWORKS
from experiments.rows import merged
from ggdjax import datapath, report

RESULTS = Path(__file__).resolve().parents[1] / "results" / "accumulator_width.json"
WIDTHS = range(32, 11, -2)


def run(name: str, bits: int, images_wanted: int, tile: int | None) -> list[dict]:
    """Return one row per width and policy."""
    bench = Bench(NETWORKS[name], held_out=images_wanted)
    q, batches = datapath.align(bench.quantized((bits, bits))), bench.batches
    accumulators = [layer.accumulator for layer in datapath.compile(q).layers.values()]
    worst = max(form.bits + (not form.signed) for form in accumulators)  # in two's complement
    print(f"{name}, {bits} bits: worst case {worst} bits")
    rows: list[dict] = []
    for width in WIDTHS:
        for policy in ("saturate", "wrap"):
            head = {"network": name, "bits": bits, "channel_tile": tile, "accumulator_bits": width, "overflow": policy}
            if width > worst and rows:
                # Nothing can overflow: the integers are those of the row before.
                rows.append({**rows[-1], **head})
                continue
            spec = datapath.Accelerator(
                accumulator_bits=width, bias_bits=min(width, 32), overflow=policy, channel_tile=tile
            )
            program = datapath.compile(q, spec)
            right = overflows = total = 0
            for x, labels in batches:
                result = program.run(x)
                logits = np.asarray(result.logits).reshape(len(x), -1)
                right, total = right + int((logits.argmax(1) == labels).sum()), total + len(x)
                overflows += result.overflows
            figures = {"top1": right / total, "overflows_per_image": overflows / total, "worst_case_bits": worst}
            rows.append({**head, **figures, "images": total})
            print(f"{width:3} bits {policy:9} top-1 {right / total:.2%}, {overflows / total:.1f} overflows per image")
    return rows


def main() -> None:
    """Read the command line, run, add to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=list(NETWORKS), default="resnet20")
    parser.add_argument("--bits", type=int, default=8, choices=range(2, 9), help="of weights and feature maps")
    parser.add_argument("--images", type=int, default=1000, help="up to N held-out images")
    parser.add_argument("--tile", type=int, help="input channels per partial sum; default: all at once")
    args = parser.parse_args()
    rows = run(args.network, args.bits, args.images, args.tile)
    rows = merged(RESULTS, rows, "network", "bits", "channel_tile")
    RESULTS.write_text(json.dumps({**report.environment(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
