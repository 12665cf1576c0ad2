"""What narrow accumulators cost: top-1 and overflows against the accumulator's width, wrapping and saturating.

    python -m experiments run accumulators                         ResNet-20, 32 to 12 bits, 1,000 images
    python -m experiments run accumulators --networks mobilenet-0.25-128 --bits 6

Weights and feature maps of one width, steps of the GGD scheme, biases on the accumulator's grid. `worst case` is the
width that the exact static check asks for. Expected: no overflow and the same top-1 at that width and above; below,
saturation loses top-1 gradually and wrapping at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from experiments.bench import Bench
from experiments.experiment import Cell, Experiment
from ggdjax import datapath
from ggdjax._ranking import rank_of_label


@dataclass(frozen=True, kw_only=True)
class Accumulators(Experiment):
    """Top-1 and overflows of integer programs, of networks × bits × widths of the accumulator × what overflows do."""

    NAME: ClassVar[str] = "accumulators"
    AXES: ClassVar[tuple[str, ...]] = ("bits", "accumulator_bits", "overflows")
    PASSES: ClassVar = {"calibration": 1}, {"accuracy": 1}

    bits: tuple[int, ...] = (8,)
    """Widths of weights and feature maps."""
    accumulator_bits: tuple[int, ...] = tuple(range(32, 11, -2))
    """Widths of the accumulator."""
    overflows: tuple[Literal["saturate", "wrap"], ...] = ("saturate", "wrap")
    """What a sum that does not fit does."""
    channel_tile: int | None = None
    """Input channels per partial sum; none: all at once."""
    held_out_images: int | None = 1000
    """On up to N held-out images; none: on all of them."""

    def measure(self, prepared: Bench, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return top-1, overflows per image, and the width that cannot overflow."""
        q, width = datapath.align(prepared.quantized((cell["bits"], cell["bits"]))), cell["accumulator_bits"]
        sums = [layer.accumulator for layer in datapath.compile(q).layers.values()]
        program = datapath.compile(
            q,
            datapath.Accelerator(
                accumulator_bits=width,
                bias_bits=min(width, 32),
                overflow=cell["overflow"],
                channel_tile=self.channel_tile,
            ),
        )
        right = overflows = total = 0
        for x, labels in prepared.batches:
            result = program.run(x)
            logits = np.asarray(result.logits).reshape(len(x), -1)
            right, total = right + int((rank_of_label(logits, labels) == 0).sum()), total + len(x)
            overflows += result.overflows
        return {
            "top1": right / total,
            "overflows_per_image": overflows / total,
            "worst_case_bits": max(form.bits + (not form.signed) for form in sums),  # in two's complement
            "held_out_images": total,
        }

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return top-1 and overflows."""
        return {
            "top-1, %": f"{100 * row['top1']:.2f}",
            "overflows per image": f"{row['overflows_per_image']:.1f}",
            "worst case, bits": str(row["worst_case_bits"]),
        }


CONFIGS = {
    "accumulators": Accumulators(networks=("resnet20",)),
    "accumulators-tiny": Accumulators(accumulator_bits=(32, 14), overflows=("wrap",), held_out_images=50),
}
