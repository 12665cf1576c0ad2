"""Which feature maps lose most: the SQNR of each alone and accumulated through the network, per scheme.

    python -m experiments run sensitivity
    python -m experiments run sensitivity --networks squeezenet --bits 6

"Alone" rounds the float network's own feature map; "accumulated" compares it with the quantized network's, which
has the errors of all weights and feature maps before. One step per tensor, and, for the default scheme, one per
channel beside it. Weights have the width of the feature maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from experiments.bench import Bench
from experiments.experiment import Cell, Experiment
from experiments.real_networks import NETWORKS
from ggdjax import quantization


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Experiment):
    """SQNR of every feature map alone and accumulated, of networks × widths × schemes."""

    NAME: ClassVar[str] = "sensitivity"
    AXES: ClassVar[tuple[str, ...]] = ("bits", "schemes")
    BENCH: ClassVar = {"per_channel": True}
    PASSES: ClassVar = {"calibration": 1}, {"accuracy": 2}

    bits: tuple[int, ...] = (8, 6, 4)
    """Widths of weights and feature maps."""
    schemes: tuple[str, ...] = ("ggd", "ggd-plain", "max-abs", "kl", "percentile-99.99", "mse-search")
    """The default, the baselines of most use, and the search that bounds them."""
    held_out_images: int | None = 200
    """On up to N held-out images; none: on all of them."""

    def cells_of(self, network: str) -> list[Cell]:
        """Return the cells of a network; the default scheme also with a step per channel."""
        pairs = [(scheme, "tensor") for scheme in self.schemes] + [("ggd", "channel")] * ("ggd" in self.schemes)
        return [{"bits": bits, "scheme": scheme, "per": per} for bits in self.bits for scheme, per in pairs]

    def measure(self, prepared: Bench, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return the SQNR of every feature map in dB, and top-1."""
        widths = (cell["bits"], cell["bits"])
        q = prepared.quantized(widths, scheme=cell["scheme"], activations_per=cell["per"])
        found = quantization.evaluate(q, prepared.batches)
        alone, accumulated = (
            {name: value if math.isfinite(value) else None for name, value in values.items()}
            for values in (found.sqnr_db, found.accumulated_sqnr_db)
        )
        return {
            "alone_db": alone,
            "accumulated_db": accumulated,
            "top1": found.quantized_accuracy.top1,
            "float_top1": found.float_accuracy.top1,
            "held_out_images": found.quantized_accuracy.images,
        }

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return means, the weakest feature map and the last one."""
        alone, sums = ([v for v in row[key].values() if v is not None] for key in ("alone_db", "accumulated_db"))
        weakest = min((v, name) for name, v in row["accumulated_db"].items() if v is not None)
        return {
            "alone, mean dB": f"{np.mean(alone):.2f}",
            "accumulated, mean dB": f"{np.mean(sums):.2f}",
            "weakest": f"{weakest[1]}: {weakest[0]:.2f}",
            "last map, dB": f"{sums[-1]:.2f}",
            "top-1, %": f"{100 * row['top1']:.2f}",
        }


CONFIGS = {
    "sensitivity": Sensitivity(networks=tuple(NETWORKS)),
    "sensitivity-tiny": Sensitivity(bits=(4,), schemes=("max-abs",), held_out_images=50),
}
