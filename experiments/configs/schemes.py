"""Every scheme on every network at every width: SQNR of the feature maps, top-1 and top-5 on held-out images.

    python -m experiments schemes                                       everything; the real networks need their data
    python -m experiments schemes --networks digits --bits 8 4          seconds, needs nothing
    python -m experiments schemes --schemes ggd max-abs --measures sqnr --networks resnet20 --seeds 0 1 2

The comparison of `experiments/benchmarks/schemes_on_networks.py`, with the same conventions, where the ImageNet sample
and CIFAR-10 are described; seeds choose the calibration images (of the ImageNet sample only with
`--calibration-images`, its 100 are fixed by convention). Expected: the rows of
`experiments/results/schemes_on_networks.jsonl` for seed 0, to the last digit on the same device and versions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from experiments.experiment import Cell, Experiment, check_numbers

Measure = Literal["sqnr", "accuracy"]


@dataclass(frozen=True, kw_only=True)
class Schemes(Experiment):
    """SQNR, top-1 and top-5 of networks × widths × schemes × seeds.

    For example:
        python -m experiments schemes --networks digits --bits 8 4 --schemes ggd max-abs
    """

    NAME: ClassVar[str] = "schemes"
    AXES: ClassVar[tuple[str, ...]] = ("networks", "bits", "schemes", "seeds", "measures")

    networks: tuple[str, ...] = ("digits", "resnet20", "squeezenet", "mobilenet-0.75-192", "mobilenet-0.25-128")
    """Names in experiments/networks.py."""
    bits: tuple[int, ...] = (8, 6, 4, 5, 7, 3)
    """Widths of weights and feature maps, 2 to 16 bits; those that other tools report come first."""
    schemes: tuple[str, ...] = ()
    """How feature-map steps are chosen; every scheme where none is named."""
    seeds: tuple[int, ...] = (0,)
    """Each chooses other calibration images."""
    measures: tuple[Measure, ...] = ("sqnr", "accuracy")
    """sqnr takes one float pass per network; accuracy runs the quantized network for every cell."""
    calibration_images: int | None = None
    """Images to calibrate on; none: 512, and the 100 conventional ones of the ImageNet sample."""
    held_out_images: int | None = None
    """Accuracies on up to N held-out images; none: on all of them."""

    def check(self) -> None:
        """Refuse unknown names, missing data and numbers out of range."""
        from experiments import networks
        from ggdjax import QuantConfig, schemes

        check_numbers(self, "networks", "bits", "measures", "calibration_images", "held_out_images")
        check_numbers(self, "seeds", least=0)
        for bits in self.bits:
            QuantConfig(weight_bits=bits, activation_bits=bits)
        for scheme in self.schemes:
            schemes.get(scheme)
        networks.check(self.networks)

    def cells(self) -> list[Cell]:
        """Return, per network, the SQNR of everything first; beside the accuracies that of the float network."""
        from ggdjax import schemes

        found = []
        for network in self.networks:
            for seed in self.seeds:
                for kind in self.measures:
                    pairs = [(bits, scheme) for bits in self.bits for scheme in self.schemes or schemes.names()]
                    if kind == "accuracy" and seed == self.seeds[0]:
                        pairs.insert(0, (32, "float"))
                    found += [
                        {"kind": kind, "network": network, "bits": bits, "scheme": scheme, "seed": seed}
                        for bits, scheme in pairs
                    ]
        return found

    def prepare(self, network: str, seed: int) -> Any:
        """Return the network calibrated, and its held-out feature maps counted."""
        from experiments.benchmarks.schemes_on_networks import Bench
        from experiments.networks import ALL

        return Bench(ALL[network], self.calibration_images, seed)

    def image_ids(self, prepared: Any) -> dict[str, Sequence[str]]:
        """Return the calibration and held-out images, and those the accuracies are of."""
        from experiments.images import some

        parts = {
            "calibration": prepared.parts.calibration,
            "held_out": prepared.parts.held_out,
            "accuracy": some(prepared.images, prepared.parts.held_out, self.held_out_images),
        }
        return {name: [prepared.images.ids[i] for i in part] for name, part in parts.items()}

    def measure(self, prepared: Any, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return SQNR in dB (mean, smallest, of every feature map), or top-1 and top-5 with 95 % intervals."""
        from ggdjax import quantization

        if cell["kind"] == "sqnr":
            sqnr = prepared.sqnr(cell["scheme"], cell["bits"])
            finite = [value for value in sqnr.values() if math.isfinite(value)]
            return {
                "mean_sqnr_db": math.fsum(finite) / len(finite) if finite else None,
                "min_sqnr_db": min(finite, default=None),
                "sqnr_db": {name: value if math.isfinite(value) else None for name, value in sqnr.items()},
            }
        net = prepared.net if cell["scheme"] == "float" else prepared.quantized(cell["scheme"], cell["bits"])
        result = quantization.accuracy(net, prepared.batches(self.held_out_images))
        return {
            "top1": result.top1,
            "top1_interval": result.interval(),
            "top5": result.top5,
            "top5_interval": result.interval("top5"),
            "held_out_images": result.images,
        }

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return mean and smallest SQNR, or the accuracies."""
        if row["kind"] == "sqnr":
            values = (row["mean_sqnr_db"], row["min_sqnr_db"])
            return {"SQNR, dB, mean (smallest)": "{} ({})".format(*("-" if v is None else f"{v:.2f}" for v in values))}
        low, high = row["top1_interval"]
        return {
            "top-1, %": f"{100 * row['top1']:.2f} [{100 * low:.1f}, {100 * high:.1f}]",
            "top-5, %": f"{100 * row['top5']:.2f}",
        }


CONFIGS = {
    "schemes": Schemes(),
    "schemes-tiny": Schemes(
        networks=("digits",),
        bits=(8, 4),
        schemes=("max-abs", "percentile-99.9"),
        calibration_images=100,
        held_out_images=100,
    ),
}
