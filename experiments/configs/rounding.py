"""Top-1 of rounding for the layer's output against rounding to nearest, in fake quantization and in integers.

    python -m experiments run rounding
    python -m experiments run rounding --networks squeezenet --widths 6/6 --per tensor
    python -m experiments run rounding --networks mobilenet-0.25-128 --widths 8/8 6/6 --per tensor --equalize

No labels and no gradients: scheme `ggd` per feature map, calibrated and rounded on the conventional calibration images
(512 of CIFAR-10, 100 of the ImageNet sample), evaluated on the others (10,000 and 900). Widths are of weights / feature
maps; fractional lengths per layer or per output channel. Each network is rounded twice: the first time compiles what no
cell before has compiled. `passes` are the seconds of the second time over those of the float network on the same
images. With ``--equalize`` equalized first, too, through ReLU6 with exact limits per channel. p is McNemar's exact
test, of rounding for the output against nearest, and of equalizing against not.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from experiments import accuracy
from experiments.bench import Bench
from experiments.experiment import Cell, Experiment, widths_of
from ggdjax import datapath, quantization, tune

#: What the default configuration measures of each network: what shares a fractional length -> widths.
CELLS: dict[str, dict[str, tuple[str, ...]]] = {
    "resnet20": {"tensor": ("8/8", "6/6", "5/5", "4/4", "8/4", "4/8")},
    "squeezenet": {"tensor": ("8/8", "6/6", "4/8"), "channel": ("4/8",)},
    "mobilenet-0.25-128": {"tensor": ("8/8", "6/6"), "channel": ("8/8", "6/6", "4/8")},
    "mobilenet-0.75-192": {"tensor": ("8/8",), "channel": ("8/8",)},
}
_run = jax.jit(lambda network, x: network(x))


@dataclass(frozen=True, kw_only=True)
class Rounding(Experiment):
    """Top-1 with weights rounded to nearest and for their layer's output, of networks × widths × granularity."""

    NAME: ClassVar[str] = "rounding"
    AXES: ClassVar[tuple[str, ...]] = ("per", "widths")
    MAY_BE_EMPTY: ClassVar[tuple[str, ...]] = ("widths",)
    BENCH: ClassVar = {"folded": True}
    HOLDS: ClassVar[tuple[str, ...]] = ("calibration", "accuracy")
    BESIDES: ClassVar[str] = "rounding for the output of layers, twice a cell"

    per: tuple[Literal["tensor", "channel"], ...] = ("tensor", "channel")
    """What shares a fractional length."""
    widths: tuple[str, ...] = ()
    """Bits of weights/feature maps; none: those that make a difference for each network, 8/8 and 4/8 for others."""
    equalize: bool = False
    """Also equalized before rounding."""
    held_out_images: int | None = None
    """Evaluate on up to N held-out images; none: on all of them."""

    def cells_of(self, network: str) -> list[Cell]:
        """Return the cells of a network: where no widths are named, those that make a difference for it."""
        usual = CELLS.get(network, {"tensor": ("8/8", "4/8")})
        return [{"per": per, "widths": text} for per in self.per for text in self.widths or usual.get(per, ())]

    def passes(self, cell: Cell | None) -> dict[str, float]:
        """Return one pass to calibrate; each cell evaluates four networks, and one more equalized."""
        if cell is None:
            return {"calibration": 1}
        return {"accuracy": 4 + self.equalize, "calibration": 3 + self.equalize}

    def measure(self, prepared: Bench, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return the accuracies, and the time of rounding."""
        images = prepared.calibration_inputs
        nearest = prepared.quantized(widths_of(cell["widths"]), weights_per=cell["per"])
        taken = []
        for _ in range(2):
            began = time.perf_counter()
            rounded = tune.round_weights(nearest, images)
            taken.append(time.perf_counter() - began)
        program = datapath.compile(rounded)
        ranks = {
            "float": prepared.ranks(lambda x: _run(prepared.net, x)),
            "nearest": prepared.ranks(lambda x: _run(nearest, x)),
            "output": prepared.ranks(lambda x: _run(rounded, x)),
            "integers": prepared.ranks(lambda x: program.run(x).logits),
        }
        figures = {"p_value": accuracy.p_value(ranks["nearest"], ranks["output"])}
        if self.equalize:
            net = tune.equalize(prepared.net)
            counted = prepared.calibrated(net)
            q = quantization.quantize(net, counted, nearest.record.config)
            ranks["equalized"] = prepared.ranks(tune.round_weights(q, images))
            figures["p_value_equalized"] = accuracy.p_value(ranks["output"], ranks["equalized"])
        one = min(_pass_seconds(prepared) for _ in range(2))  # the first may compile
        figures |= {"first_seconds": round(taken[0], 2), "rounding_seconds": round(taken[1], 2)}
        stages = {name: accuracy.figures(rank) for name, rank in ranks.items()}
        return {"stages": stages, **figures, "passes": round(taken[1] / one, 1)}

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return top-1 of each, and what rounding took."""
        top1 = {f"{name}, %": f"{100 * stage['top1']:.2f}" for name, stage in row["stages"].items()}
        rest = {n: f"{row[n]:.2g}" for n in ("p_value", "p_value_equalized") if n in row}
        return {**top1, **rest, **({"passes": str(row["passes"])} if "passes" in row else {})}


def _pass_seconds(bench: Bench) -> float:
    began = time.perf_counter()
    for x in bench.calibration_batches():
        np.asarray(_run(bench.net, x))
    return time.perf_counter() - began


CONFIGS = {
    "rounding": Rounding(networks=tuple(CELLS)),
    "rounding-tiny": Rounding(per=("tensor",), widths=("4/8",), held_out_images=100),
}
