"""Whether equalization gains anything beside rounding for the layer's output: top-1 with and without.

    python -m experiments.benchmarks.equalization_on_networks                     MobileNet 0.25 at W8A8 and W6A6
    python -m experiments.benchmarks.equalization_on_networks --network resnet20 --bits 6/6
    python -m experiments.benchmarks.equalization_on_networks --table             what is there, as Markdown

Scheme `ggd` per feature map, fractional lengths per layer, weights rounded for the output of their layers; the images
are those of `rounding_on_networks`. Equalization goes through ReLU6 with exact limits per channel. Rows are appended to
`experiments/results/equalization_on_networks.jsonl`.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import jax
import numpy as np

import ggdjax as gd
from experiments.benchmarks.rounding_on_networks import Setting
from experiments.real_networks import NETWORKS
from experiments.rows import append_line, read_lines
from ggdjax import tune
from ggdjax.quantization import Accuracy

RESULTS = Path(__file__).resolve().parents[1] / "results" / "equalization_on_networks.jsonl"
_run = jax.jit(lambda network, x: network(x))


def measure(name: str, cells: list[str]) -> None:
    """Append one row per cell of a network."""
    setting = Setting(NETWORKS[name])
    size, x = setting.real.batch_size, setting.calibration
    equalized = tune.equalize(setting.net)
    counted = gd.calibrate(equalized, [x[i : i + size] for i in range(0, len(x), size)])
    for bits in cells:
        weight_bits, activation_bits = map(int, bits.split("/"))
        config = gd.QuantConfig(weight_bits=weight_bits, activation_bits=activation_bits)
        right = {"float": setting.float_classes == setting.labels}
        for kind, net, calibration in (("plain", setting.net, setting.counted), ("equalized", equalized, counted)):
            rounded = tune.round_weights(gd.quantize(net, calibration, config), x)
            right[kind] = setting.classes(partial(_run, rounded), f"{bits} {kind}") == setting.labels
        test = tune.mcnemar(right["plain"], right["equalized"])
        row = {"network": name, "bits": bits, "images": len(setting.labels), "p_value": test.p_value}
        for kind, correct in right.items():
            low, high = Accuracy(top1=float(np.mean(correct)), top5=1.0, images=len(correct)).interval()
            row[kind] = {"top1": round(float(np.mean(correct)), 4), "low": round(low, 4), "high": round(high, 4)}
        append_line(RESULTS, row)
        print(row, flush=True)


def main() -> None:
    """Read the command line, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="mobilenet-0.25-128", choices=list(NETWORKS), help="which network")
    parser.add_argument("--bits", nargs="+", default=["8/8", "6/6"], metavar="W/A", help="widths")
    parser.add_argument("--table", action="store_true", help="print what is there, measure nothing")
    args = parser.parse_args()
    if not args.table:
        measure(args.network, args.bits)
    print("| network | bits | float | plain | equalized | McNemar p |\n|---|---|---|---|---|---|")
    for row in {(r["network"], r["bits"]): r for r in read_lines(RESULTS)}.values():
        top1 = [f"{row[kind]['top1']:.2%}" for kind in ("float", "plain", "equalized")]
        print(f"| {row['network']} | {row['bits']} | {' | '.join(top1)} | {row['p_value']:.2g} |")


if __name__ == "__main__":
    main()
