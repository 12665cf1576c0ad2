"""Which feature maps lose most: the SQNR of each alone and accumulated through the network, per scheme, real networks.

    python -m experiments.benchmarks.sensitivity_on_networks                  every network at 8, 6 and 4 bits
    python -m experiments.benchmarks.sensitivity_on_networks --network squeezenet --bits 6 --layers
    python -m experiments.benchmarks.sensitivity_on_networks --tables         what is there, as Markdown

"Alone" rounds the float network's own feature map; "accumulated" compares it with the quantized network's, which
has the errors of all weights and feature maps before. One step per tensor, and, for the default scheme, one per
channel beside it. Weights have the width of the feature maps. On at most 200 held-out images; one JSON line per cell is
appended to `experiments/results/sensitivity_on_networks.jsonl`, and finished cells are skipped.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from rich.progress import track

from experiments.images import calibrate, some
from experiments.real_networks import NETWORKS, RealNetwork
from experiments.rows import append_line, read_lines
from ggdjax import network, quantization, report

RESULTS = Path(__file__).resolve().parents[1] / "results" / "sensitivity_on_networks.jsonl"
BITS = (8, 6, 4)
#: (scheme, one step per): the default, the baselines of most use, and the search that bounds them.
SETTINGS = (
    ("ggd", "tensor"),
    ("ggd-plain", "tensor"),
    ("max-abs", "tensor"),
    ("kl", "tensor"),
    ("percentile-99.99", "tensor"),
    ("mse-search", "tensor"),
    ("ggd", "channel"),
)
IMAGES = 200


def run(real: RealNetwork, bits: list[int], done: set[tuple]) -> None:
    """Compute the missing cells of one network."""
    todo = [(b, *setting) for b in bits for setting in SETTINGS if (real.name, b, *setting) not in done]
    if not todo:
        return
    net = real.load()
    images = real.open_images(net)
    parts = real.split(images)
    size = min(real.batch_size, 50)
    calibration = calibrate(net, images, parts.calibration, size, f"{real.name}: calibrate", per_channel=True)
    batches = list(images.batches(some(images, parts.held_out, IMAGES), size))
    net = network.fold_batch_norm(net)
    for b, scheme, per in track(todo, f"{real.name}: cells"):
        config = quantization.QuantConfig(weight_bits=b, activation_bits=b, scheme=scheme, activations_per=per)
        result = quantization.evaluate(quantization.quantize(net, calibration, config), batches)
        row = {
            "network": real.name,
            "bits": b,
            "scheme": scheme,
            "per": per,
            "alone_db": result.sqnr_db,
            "accumulated_db": result.accumulated_sqnr_db,
            "top1": result.quantized_accuracy.top1,
            "float_top1": result.float_accuracy.top1,
            "held_out_images": result.quantized_accuracy.images,
        }
        append_line(RESULTS, row | report.environment())


def tables(*, layers: bool) -> None:
    """Print, per network and width: mean alone, mean and last accumulated SQNR, top-1; with ``layers`` every one."""
    found = read_lines(RESULTS)
    for name in NETWORKS:
        for bits in sorted({row["bits"] for row in found if row["network"] == name}, reverse=True):
            rows = [row for row in found if (row["network"], row["bits"]) == (name, bits)]
            images, top1 = rows[0]["held_out_images"], rows[0]["float_top1"]
            print(f"\n### {name}, {bits} bits, {images} held-out images, float top-1 {top1:.2%}\n")
            print("| scheme | step per | alone, mean dB | accumulated, mean dB | weakest | last map, dB | top-1 |")
            print("|---|---|---|---|---|---|---|")
            for row in rows:
                alone, sums = (
                    [v for v in row[key].values() if math.isfinite(v)] for key in ("alone_db", "accumulated_db")
                )
                weakest = min(row["accumulated_db"], key=row["accumulated_db"].__getitem__)
                print(
                    f"| {row['scheme']} | {row['per']} | {np.mean(alone):.2f} | {np.mean(sums):.2f} "
                    f"| {weakest}: {min(sums):.2f} | {sums[-1]:.2f} | {row['top1']:.2%} |"
                )
            if layers:
                heads = [f"{row['scheme']}, {row['per']}" for row in rows]
                print("\n| feature map | " + " | ".join(heads) + " |\n|---|" + "---|" * len(heads))
                for tensor in rows[0]["alone_db"]:
                    cells = (f"{row['alone_db'][tensor]:.2f} / {row['accumulated_db'][tensor]:.2f}" for row in rows)
                    print(f"| {tensor} | " + " | ".join(cells) + " |")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="only this network (repeatable)")
    parser.add_argument("--bits", action="append", type=int, choices=range(2, 17), help="only this width (repeatable)")
    parser.add_argument("--layers", action="store_true", help="also print every feature map, alone / accumulated")
    parser.add_argument("--tables", action="store_true", help="print the tables of what is there and stop")
    args = parser.parse_args()
    if not args.tables:
        done = {(row["network"], row["bits"], row["scheme"], row["per"]) for row in read_lines(RESULTS)}
        for name in args.network or NETWORKS:
            run(NETWORKS[name], args.bits or list(BITS), done)
    tables(layers=args.layers)


if __name__ == "__main__":
    main()
