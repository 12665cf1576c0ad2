"""What gradient tuning, bias correction, equalization and bit allocation win on real networks.

    python -m experiments.benchmarks.gradient_tuning                                    all cells that are missing
    python -m experiments.benchmarks.gradient_tuning --network resnet20 --bits 4/4 --method gradient
    python -m experiments.benchmarks.gradient_tuning --table                            what is there, as Markdown

Three disjoint sets of images. ResNet-20: calibrate on the conventional 512 training images, tune on 2,000 other
training images, evaluate on the 10,000 test images. The ImageNet networks: calibrate on the conventional 100 images,
tune on 200 of the other 900, evaluate on the 700 that are left. Cells are kept in
`experiments/results/gradient_tuning.json`; finished ones are skipped. Seconds are wall time of the tuning, compilation
included, on whatever else the machine was doing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress, track

from experiments.images import read
from experiments.real_networks import CIFAR10, NETWORKS, RealNetwork
from ggdjax import data, quantization, report
from ggdjax.network import fold_batch_norm
from ggdjax.tune import GradientConfig, allocate_bits, correct_biases, equalize, gradient

RESULTS = Path(__file__).resolve().parents[1] / "results" / "gradient_tuning.json"
WIDTHS = ("8/8", "6/6", "5/5", "4/4", "8/4")
ALLOCATED_AND_TUNED = "bits, gradient"
#: Steps of the weights that are no powers of two, which is not the paper's form but that of most other tools.
FREE, FREE_AND_TUNED = "free weight steps", "free weight steps, gradient"
METHODS = (
    "before",
    "bias correction",
    "equalized",
    "equalized, bias correction",
    "gradient",
    "layer by layer",
    "bits",
    ALLOCATED_AND_TUNED,
    FREE,
    FREE_AND_TUNED,
)
#: Images to tune on, images per gradient step, gradient steps.
BUDGETS = {
    "resnet20": (2000, 32, 400),
    "squeezenet": (200, 16, 100),
    "mobilenet-0.25-128": (200, 16, 100),
    "mobilenet-0.75-192": (200, 16, 100),
}
#: The best peer's top-1 in % at the same granularity (one step per tensor), on its own evaluation images.
PEERS = {
    "resnet20": {"8/8": 81.40, "6/6": 81.08, "5/5": 76.53, "4/4": 69.70, "8/4": 71.48},
    "squeezenet": {"8/8": 63.33, "6/6": 54.44, "5/5": 38.56, "4/4": 5.67, "8/4": 40.56},
}


@dataclasses.dataclass(kw_only=True)
class Setting:
    """A network with its images, decoded once."""

    real: RealNetwork
    steps: int
    folder: Path

    def __post_init__(self) -> None:
        self.net = fold_batch_norm(self.real.load())
        self.calibrations: dict[bool, quantization.Calibration] = {}
        stored = self.folder / f"gradient_tuning_{self.real.name}_{BUDGETS[self.real.name][0]}.npz"
        if not stored.is_file():
            part = stored.with_suffix(".part.npz")
            np.savez(part, **self._decode())
            part.replace(stored)  # whole or not at all
        self.images = dict(np.load(stored))

    def _decode(self) -> dict[str, np.ndarray]:
        images = self.real.open_images(self.net)
        parts, count = self.real.split(images), BUDGETS[self.real.name][0]
        cifar = self.real.images == CIFAR10
        candidates = np.setdiff1d(images.parts["train"], parts.calibration) if cifar else parts.held_out
        order = data.hash_order([images.ids[i] for i in candidates], 1)
        sets = {
            "calibrate": parts.calibration,
            "tune": candidates[order[:count]],
            "evaluate": parts.held_out if cifar else np.setdiff1d(candidates, candidates[order[:count]]),
        }
        found = {}
        for name, chosen in sets.items():
            stream = read(images, chosen, 250, f"{self.real.name}: {name}")
            found[name], found[f"{name}_labels"] = (np.concatenate(column) for column in zip(*stream, strict=True))
        return found

    def quantize(self, config: quantization.QuantConfig, *, equalized: bool = False) -> quantization.QuantizedNetwork:
        """Return the network quantized as ``config`` says."""
        net = equalize(self.net) if equalized else self.net
        if equalized not in self.calibrations:
            self.calibrations[equalized] = quantization.calibrate(net, self.batches("calibrate"))
        return quantization.quantize(net, self.calibrations[equalized], config)

    def batches(self, part: str) -> list[np.ndarray]:
        """Return the images of a part in batches."""
        x, size = self.images[part], self.real.batch_size
        return [x[i : i + size] for i in range(0, len(x), size)]

    def accuracy(self, q: Callable[[Any], Any]) -> quantization.Accuracy:
        """Return top-1 and top-5 on the evaluation images."""
        labels, size = self.images["evaluate_labels"], self.real.batch_size
        pairs = ((x, labels[i * size : (i + 1) * size]) for i, x in enumerate(self.batches("evaluate")))
        return quantization.accuracy(q, track(list(pairs), f"{self.real.name}: evaluate"))

    def improve(self, bits: str, method: str) -> tuple[quantization.QuantizedNetwork, dict[str, Any]]:
        """Return the network quantized to ``bits`` and improved by ``method``, and what to record of it."""
        weight_bits, activation_bits = map(int, bits.split("/"))
        config = quantization.QuantConfig(
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            weight_scheme="mse-search" if method in (FREE, FREE_AND_TUNED) else "fixed-point",
        )
        _, size, _ = BUDGETS[self.real.name]
        q = self.quantize(config, equalized=method.startswith("equalized"))
        began = time.perf_counter()
        record: dict[str, Any] = {}
        if method.endswith("bias correction"):
            q = correct_biases(q, self.images["calibrate"])
        if method.startswith("bits"):
            widths = range(2, weight_bits + 5)
            chosen = allocate_bits(q, self.images["tune"][:256], budget=weight_bits, widths=widths, batch_size=size)
            mixed = dataclasses.replace(
                config, weight_bits_of=chosen.weight_bits_of, activation_bits_of=chosen.activation_bits_of
            )
            q = self.quantize(mixed)
            record |= {"weight_bits": chosen.weight_bits_of, "activation_bits": chosen.activation_bits_of}
        if method in ("gradient", "layer by layer", ALLOCATED_AND_TUNED, FREE_AND_TUNED):
            with Progress() as bar:
                task = bar.add_task(f"{self.real.name} {bits}: {method}", total=self.steps)
                layerwise = method == "layer by layer"
                settings = GradientConfig(steps=self.steps, batch_size=size, held_back=0.0, per_layer=layerwise)
                q = gradient(
                    q,
                    self.images["tune"],
                    config=settings,
                    progress=lambda step, _loss: bar.update(task, completed=step),
                )
            history = q.history
            record |= {"before": history.before, "after": history.after, "config": dataclasses.asdict(settings)}
        record["tuning_seconds"] = time.perf_counter() - began
        return q, record


def read_results() -> list[dict]:
    """Return the finished cells."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else []


def run(name: str, cells: list[tuple[str, str]], steps: int | None, folder: Path) -> None:
    """Compute the missing cells of one network."""
    done = {(row["network"], row["bits"], row["method"]) for row in read_results()}
    todo = [
        cell for cell in cells if (name, *cell) not in done and not (cell[0] == "8/4" and cell[1].startswith("bits"))
    ]
    if not todo:
        return
    setting = Setting(real=NETWORKS[name], steps=steps or BUDGETS[name][2], folder=folder)
    if (name, "float", "float") not in done:
        todo.insert(0, ("float", "float"))
    for bits, method in todo:
        q, record = (setting.net, {}) if bits == "float" else setting.improve(bits, method)
        accuracy = setting.accuracy(q)
        row = {
            "network": name,
            "bits": bits,
            "method": method,
            "top1": accuracy.top1,
            "top1_interval": accuracy.interval(),
            "top5": accuracy.top5,
            "top5_interval": accuracy.interval("top5"),
            "evaluation_images": accuracy.images,
            "tuning_images": len(setting.images["tune"]),
        }
        rows = [*read_results(), row | record | report.environment()]
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def tables() -> None:
    """Print what is there as Markdown."""
    found = read_results()
    for name in dict.fromkeys(row["network"] for row in found):
        rows = [row for row in found if row["network"] == name]
        float_row = next(row for row in rows if row["bits"] == "float")
        print(
            f"\n### {name}: float top-1 {float_row['top1']:.2%}, {float_row['evaluation_images']} evaluation images, "
            f"{float_row['tuning_images']} tuning images\n"
        )
        print("| W/A | method | top-1 | 95 % interval | top-5 | steps | seconds | best peer's top-1, % |")
        print("|---|---|---|---|---|---|---|---|")
        rows.sort(key=lambda row: (row["bits"], METHODS.index(row["method"]) if row["method"] in METHODS else -1))
        for row in rows:
            if row["bits"] == "float":
                continue
            low, high = row["top1_interval"]
            steps = row.get("config", {}).get("steps", "")
            seconds = "" if row["method"] == "before" else f"{row['tuning_seconds']:.0f}"
            print(
                f"| {row['bits']} | {row['method']} | {row['top1']:.2%} | {low:.2%} to {high:.2%} | {row['top5']:.2%} "
                f"| {steps} | {seconds} | {PEERS.get(name, {}).get(row['bits'], '')} |"
            )


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(BUDGETS), help="only this network (repeatable)")
    parser.add_argument("--bits", action="append", choices=WIDTHS, help="only these widths (repeatable)")
    parser.add_argument("--method", action="append", choices=METHODS, help="only this method (repeatable)")
    parser.add_argument("--steps", type=int, help="gradient steps (default: by network)")
    parser.add_argument("--folder", type=Path, default=data.default_cache_dir(), help="where decoded images are kept")
    parser.add_argument("--table", action="store_true", help="print the table of what is there and stop")
    args = parser.parse_args()
    if not args.table:
        args.folder.mkdir(parents=True, exist_ok=True)
        cells = [(bits, method) for bits in args.bits or WIDTHS for method in args.method or METHODS]
        for name in args.network or BUDGETS:
            run(name, cells, args.steps, args.folder)
    tables()


if __name__ == "__main__":
    main()
