"""Top-1 of rounding for the layer's output against rounding to nearest, in fake quantization and in integers.

    python -m experiments.benchmarks.rounding_on_networks                  all cells that are not in the results yet
    python -m experiments.benchmarks.rounding_on_networks --network squeezenet --bits 6/6 --per tensor
    python -m experiments.benchmarks.rounding_on_networks --table          what is there, as Markdown

No labels and no gradients: scheme `ggd` per feature map, calibrated and rounded on the conventional calibration images
(512 of CIFAR-10, 100 of the ImageNet sample), evaluated on the others (10,000 and 900). Widths are of weights /
feature maps; fractional lengths per layer or per output channel. Rows are appended to
`experiments/results/rounding_on_networks.jsonl`. Each network is rounded twice: the first time compiles what no cell
before has compiled. `passes` are the seconds of the second time over those of the float network on the same images.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from rich.progress import track

import ggdjax as gd
from experiments.images import read
from experiments.real_networks import NETWORKS, RealNetwork
from experiments.rows import Row, append_line, read_lines
from ggdjax import data, datapath, network, tune
from ggdjax.quantization import Accuracy

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path(__file__).resolve().parents[1] / "results" / "rounding_on_networks.jsonl"
#: Widths of weights / feature maps of each network, by what shares a fractional length.
CELLS = {
    "resnet20": {"tensor": ("8/8", "6/6", "5/5", "4/4", "8/4", "4/8")},
    "squeezenet": {"tensor": ("8/8", "6/6", "4/8"), "channel": ("4/8",)},
    "mobilenet-0.25-128": {"tensor": ("8/8", "6/6"), "channel": ("8/8", "6/6", "4/8")},
    "mobilenet-0.75-192": {"tensor": ("8/8",), "channel": ("8/8",)},
}
_run = jax.jit(lambda network, x: network(x))


class Setting:
    """A network with its images, decoded once, and its calibration; up to ``most`` held-out images, by hash."""

    def __init__(self, real: RealNetwork, most: int | None = None) -> None:
        self.real, self.net = real, network.fold_batch_norm(real.load())
        images = real.open_images(self.net)
        parts = real.split(images)
        self.calibration, _ = self._decoded(images, parts.calibration, "calibrate")
        chosen = np.asarray(sorted(data.hash_order([images.ids[i] for i in parts.held_out], 0)[:most]))
        self.held_out, self.labels = self._decoded(images, parts.held_out[chosen], "held out")
        self.counted = gd.calibrate(self.net, self.batches(self.calibration))
        self.float_classes = self.classes(lambda x: _run(self.net, x), "float")

    def _decoded(self, images: Any, part: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
        x, labels = zip(*read(images, part, self.real.batch_size, f"{self.real.name}: {what}"), strict=True)
        return np.concatenate(x), np.concatenate(labels)

    def batches(self, x: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the images of ``x``, a batch at a time."""
        return (x[i : i + self.real.batch_size] for i in range(0, len(x), self.real.batch_size))

    def classes(self, forward: Any, what: str) -> np.ndarray:
        """Return the class of every held-out image."""
        batches = track(list(self.batches(self.held_out)), f"{self.real.name}: {what}")
        return np.concatenate([np.asarray(forward(x)).reshape(len(x), -1).argmax(-1) for x in batches])

    def float_seconds(self) -> float:
        """Return the seconds of the float network on the calibration images, compiled before."""
        for timed in (False, True):
            began = time.perf_counter()
            for x in self.batches(self.calibration):
                np.asarray(_run(self.net, x))
            if timed:
                return time.perf_counter() - began
        raise AssertionError

    def cell(self, bits: str, per: str) -> Row:
        """Measure one cell."""
        weight_bits, activation_bits = map(int, bits.split("/"))
        config = gd.QuantConfig(weight_bits=weight_bits, activation_bits=activation_bits, weights_per=per)
        nearest = gd.quantize(self.net, self.counted, config)
        taken = []
        for _ in range(2):
            began = time.perf_counter()
            rounded = tune.round_weights(nearest, self.calibration)
            taken.append(time.perf_counter() - began)
        first, seconds = taken
        right = {"float": self.float_classes == self.labels}
        for name, q in (("nearest", nearest), ("output", rounded)):
            right[name] = self.classes(partial(_run, q), f"{bits} {per} {name}") == self.labels
        program = datapath.compile(rounded)
        right["integers"] = self.classes(lambda x: program.run(x).logits, f"{bits} {per} integers") == self.labels
        test = tune.mcnemar(right["nearest"], right["output"])
        row: Row = {
            "network": self.real.name,
            "bits": bits,
            "per": per,
            "images": len(self.labels),
            "first_seconds": round(first, 2),
            "seconds": round(seconds, 2),
            "passes": round(seconds / self.float_seconds(), 1),
            "p_value": test.p_value,
        }
        for name, correct in right.items():
            low, high = Accuracy(top1=float(correct.mean()), top5=1.0, images=len(correct)).interval()
            row[name] = {"top1": round(float(correct.mean()), 4), "low": round(low, 4), "high": round(high, 4)}
        return row


def table(rows: list[Row]) -> str:
    """Return the cells as Markdown; the latest of each."""
    lines = [
        "| network | bits | F per | float | nearest | output | of float | integers "
        "| McNemar p | first s | s | passes |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in {(r["network"], r["per"], r["bits"]): r for r in rows}.values():
        top1 = {name: row[name]["top1"] for name in ("float", "nearest", "output", "integers")}
        share = top1["output"] / top1["float"]
        interval = f"{row['output']['low']:.2%} to {row['output']['high']:.2%}"
        lines.append(
            f"| {row['network']} | {row['bits']} | {row['per']} | {top1['float']:.2%} | {top1['nearest']:.2%} "
            f"| {top1['output']:.2%} ({interval}) | {share:.3f} | {top1['integers']:.2%} | {row['p_value']:.2g} "
            f"| {row['first_seconds']} | {row['seconds']} | {row['passes']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Read the command line, measure what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="only this network (repeatable)")
    parser.add_argument("--bits", action="append", metavar="W/A", help="only these widths (repeatable)")
    parser.add_argument("--per", action="append", choices=("tensor", "channel"), help="only this (repeatable)")
    parser.add_argument("--again", action="store_true", help="measure cells that are in the results too")
    parser.add_argument("--table", action="store_true", help="print what is there, measure nothing")
    args = parser.parse_args()
    known = {(row["network"], row["per"], row["bits"]) for row in read_lines(RESULTS)}
    for name in () if args.table else args.network or CELLS:
        cells = [
            (per, bits)
            for per in args.per or CELLS[name]
            for bits in args.bits or CELLS[name].get(per, ())
            if args.again or (name, per, bits) not in known
        ]
        setting = Setting(NETWORKS[name]) if cells else None
        for per, bits in cells:
            assert setting is not None
            row = setting.cell(bits, per)
            append_line(RESULTS, row)
            print(table([row]).splitlines()[-1], flush=True)
    print(table(read_lines(RESULTS)))


if __name__ == "__main__":
    main()
