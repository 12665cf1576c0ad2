"""Every scheme on every network at every width: SQNR of the feature maps, top-1 and top-5 on held-out images.

    python -m experiments run schemes                                   everything; the real networks need their data
    python -m experiments run schemes --networks digits --bits 8 4      seconds, needs nothing
    python -m experiments run schemes --schemes ggd max-abs --measures sqnr --networks resnet20 --seeds 0 1 2

Weights and feature maps have the same width, biases 16 bits, one step per tensor; conventions of `real_networks.py`.
SQNR is that of each convolution's and dense layer's input in the float network, measured alone, on all held-out images:
their histograms come from one float pass, and every scheme's error is integrated over them. Seeds choose the
calibration images (of the ImageNet sample only with `--calibration-images`, its 100 are fixed by convention).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from experiments import accuracy
from experiments.bench import Bench
from experiments.experiment import Cell, Experiment
from ggdjax import quantization, schemes
from ggdjax.ggd import Histogram
from ggdjax.ggd._empirical import empirical_sqnr_db
from ggdjax.network import count_macs, count_parameters

Measure = Literal["sqnr", "accuracy"]


@dataclass(frozen=True, kw_only=True)
class Schemes(Experiment):
    """SQNR, top-1 and top-5 of networks × widths × schemes × seeds.

    For example:
        python -m experiments run schemes --networks digits --bits 8 4 --schemes ggd max-abs
    """

    NAME: ClassVar[str] = "schemes"
    AXES: ClassVar[tuple[str, ...]] = ("measures", "bits", "schemes")
    MAY_BE_EMPTY: ClassVar[tuple[str, ...]] = ("schemes",)

    bits: tuple[int, ...] = (8, 6, 4, 5, 7, 3)
    """Widths of weights and feature maps, 2 to 16 bits; those that other tools report come first."""
    schemes: tuple[str, ...] = ()
    """How feature-map steps are chosen; every scheme where none is named."""
    measures: tuple[Measure, ...] = ("sqnr", "accuracy")
    """sqnr takes one float pass per network; accuracy runs the quantized network for every cell."""
    calibration_images: int | None = None
    """Images to calibrate on; none: 512, and the 100 conventional ones of the ImageNet sample."""
    held_out_images: int | None = None
    """Accuracies on up to N held-out images; none: on all of them."""

    def cells(self) -> list[Cell]:
        """Return, per network, the SQNR of everything first; beside the accuracies that of the float network."""
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

    def passes(self, cell: Cell | None) -> dict[str, float]:
        """Return one pass to calibrate, one to count held-out images, and one for each accuracy."""
        if cell is None:
            return {"calibration": 1, "held_out": float("sqnr" in self.measures)}
        return {"accuracy": float(cell["kind"] == "accuracy")}

    def measure(self, prepared: Bench, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return SQNR in dB (mean, smallest, of every feature map), or top-1 and top-5 with 95 % intervals."""
        bench = prepared
        if cell["kind"] == "sqnr":
            sqnr = by_feature_map(bench.calibration, bench.held_out, cell["scheme"], cell["bits"])
            finite = [value for value in sqnr.values() if math.isfinite(value)]
            return {
                "mean_sqnr_db": math.fsum(finite) / len(finite) if finite else None,
                "min_sqnr_db": min(finite, default=None),
                "sqnr_db": {name: value if math.isfinite(value) else None for name, value in sqnr.items()},
            }
        net = bench.net
        if cell["scheme"] != "float":
            net = bench.quantized((cell["bits"], cell["bits"]), scheme=cell["scheme"])
        sizes = {}
        if cell["scheme"] == "float":
            sizes = {"parameters": count_parameters(bench.net), "macs": count_macs(bench.net)}
        return accuracy.figures(bench.ranks(net)) | sizes

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return mean and smallest SQNR, or the accuracies."""
        if row["kind"] == "sqnr":
            values = (row["mean_sqnr_db"], row.get("min_sqnr_db"))
            return {"SQNR, dB, mean (smallest)": "{} ({})".format(*("-" if v is None else f"{v:.2f}" for v in values))}
        return accuracy.shown(row)


def by_feature_map(
    calibration: quantization.Calibration, held_out: Histogram, scheme: str, bits: int
) -> dict[str, float]:
    """Return the SQNR of each held-out feature map in dB, steps from the calibration images."""
    signed = np.asarray(calibration.histograms.is_signed)
    chosen = jax.device_get(schemes.choose(scheme, calibration.histograms, bits, signed))
    zero = np.float32(0) if chosen.zero_point is None else chosen.zero_point
    above, below = np.asarray(chosen.qmax, np.float32) - zero, zero - np.asarray(chosen.qmin, np.float32)
    found = empirical_sqnr_db(held_out, chosen.step, above, below)
    return dict(zip(calibration.names, found.tolist(), strict=True))


_ALL = ("digits", "resnet20", "squeezenet", "mobilenet-0.75-192", "mobilenet-0.25-128")
CONFIGS = {
    "schemes": Schemes(networks=_ALL),
    "schemes-tiny": Schemes(
        bits=(8, 4), schemes=("max-abs", "percentile-99.9"), calibration_images=100, held_out_images=100
    ),
}
