"""Weights first: whether steps chosen on the network whose weights are rounded already do better.

    python -m experiments.benchmarks.weights_first [--network resnet20] [--bits 8/8] [--rounding output]
    python -m experiments.benchmarks.weights_first --table          what is there, as Markdown

Per cell one quantized network, by `gd.quantize` (scheme `ggd` per feature map), its weights rounded to nearest or for
the output of their layer, before and after `gd.recalibrate` on the same calibration images. Widths are of weights /
feature maps; fractional lengths are per layer, of the MobileNets per output channel. Measured on held-out images:

* mean SQNR over all feature maps, each rounded alone, of what the rounded weights compute;
* SQNR of the logits against the float network's;
* top-1, with McNemar's test.

Results: `experiments/results/weights_first.json` (SqueezeNet and the MobileNets at 8/8 and 6/6, MobileNet 0.75 on 200
images).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np

import ggdjax as gd
from experiments.bench import Bench
from experiments.experiment import widths_of
from experiments.real_networks import CIFAR10, NETWORKS
from experiments.rows import Row, merged
from ggdjax import report, tune
from ggdjax.ggd import empirical_distortion
from ggdjax.quantization import Calibration, QuantizedNetwork, sqnr_db

RESULTS = Path(__file__).resolve().parents[1] / "results" / "weights_first.json"
BITS, ROUNDINGS = ("8/8", "6/6", "4/4"), ("nearest", "output")
_run = jax.jit(lambda network, x: network(x))


def map_sqnr_db(q: QuantizedNetwork, target: Calibration) -> float:
    """Return the mean SQNR in dB of the feature maps that ``target`` counted, each rounded alone."""
    quantizers = [q.quantizers.activations[name] for name in target.names]
    step, top, bottom = (
        np.asarray([np.asarray(getattr(one, field)) for one in quantizers], np.float32)
        for field in ("step", "qmax", "qmin")
    )
    error = np.asarray(empirical_distortion(target.histograms, step, top, -bottom), np.float64)
    energy = np.asarray(target.histograms.power_sum(2)) / np.asarray(target.histograms.count)
    return float(np.mean(10 * np.log10(energy / error)))


def logits(bench: Bench, forward) -> np.ndarray:
    """Return the logits of every held-out image."""
    return np.concatenate([np.asarray(forward(x), np.float64).reshape(len(x), -1) for x, _ in bench.batches])


def measure(bench: Bench, wanted: np.ndarray, bits: str, rounding: str) -> Row:
    """Return one cell's row; ``wanted`` are the float network's logits."""
    began, labels = time.perf_counter(), np.concatenate([y for _, y in bench.batches])
    per = "channel" if bench.name.startswith("mobilenet") else "tensor"
    before = bench.quantized(widths_of(bits), weights_per=per)
    if rounding == "output":
        before = tune.round_weights(before, bench.calibration_inputs)
    started = time.perf_counter()
    after = gd.recalibrate(before, bench.calibration_batches())
    seconds = time.perf_counter() - started
    target = gd.calibrate(before.rounded_network, [x for x, _ in bench.batches])
    ratios = np.asarray(list(after.record.stages[-1].figures["step_ratio"].values()))
    row: Row = {
        "network": bench.name,
        "bits": bits,
        "rounding": rounding,
        "weights_per": per,
        "calibration_images": bench.calibration.images,
        "held_out_images": len(labels),
        "float_top1": round(float(np.mean(wanted.argmax(-1) == labels)), 4),
        "step_ratio": [round(float(v), 4) for v in (ratios.min(), np.median(ratios), ratios.max())],
        "recalibrate_seconds": round(seconds, 1),
    }
    right = {}
    for name, q in (("before", before), ("after", after)):
        found = logits(bench, partial(_run, replace(q, record=None)))
        right[name] = found.argmax(-1) == labels
        error = float(np.square(found - wanted).sum())
        row[name] = {
            "map_sqnr_db": round(map_sqnr_db(q, target), 3),
            "logit_sqnr_db": round(sqnr_db(float(np.square(wanted).sum()), error), 3),
            "top1": round(float(right[name].mean()), 4),
        }
    row["p_value"] = tune.mcnemar(right["before"], right["after"]).p_value
    row["seconds"] = round(time.perf_counter() - began, 1)
    return row


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown: before / after."""
    lines = [
        "| network | bits | rounding | images | step, ratio | SQNR of maps | SQNR of logits | top-1 | McNemar p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        pairs = [f"{row['before'][key]:.2f} / {row['after'][key]:.2f}" for key in ("map_sqnr_db", "logit_sqnr_db")]
        pairs.append(f"{row['before']['top1']:.2%} / {row['after']['top1']:.2%}")
        low, middle, high = row["step_ratio"]
        lines.append(
            f"| {row['network']} | {row['bits']} | {row['rounding']} | {row['held_out_images']} "
            f"| {middle:.3f} ({low:.3f} to {high:.3f}) | {' | '.join(pairs)} | {row['p_value']:.2g} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="only this network (repeatable)")
    parser.add_argument("--bits", action="append", metavar="W/A", help="only these widths (repeatable)")
    parser.add_argument("--rounding", action="append", choices=ROUNDINGS, help="only this rounding (repeatable)")
    parser.add_argument("--images", type=int, help="most held-out images (2,000 of CIFAR-10, else 400)")
    parser.add_argument("--table", action="store_true", help="print what is there, measure nothing")
    args = parser.parse_args()
    for name in () if args.table else args.network or list(NETWORKS):
        real = NETWORKS[name]
        bench = Bench(real, held_out=args.images or (2000 if real.images == CIFAR10 else 400), folded=True)
        wanted = logits(bench, partial(_run, bench.net))
        for bits in args.bits or BITS:
            for rounding in args.rounding or ROUNDINGS:
                row = measure(bench, wanted, bits, rounding)
                rows = merged(RESULTS, [row], "network", "bits", "rounding")
                rows.sort(key=lambda row: (list(NETWORKS).index(row["network"]), -int(row["bits"][0]), row["rounding"]))
                RESULTS.write_text(json.dumps({"rows": rows, **report.environment()}) + "\n", encoding="utf-8")
                print(table([row]).splitlines()[-1], flush=True)
    print(table(json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]))


if __name__ == "__main__":
    main()
