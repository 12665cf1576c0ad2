"""The Verilog reference against the integer simulator on every layer of a network, with every rounding.

    python -m experiments run rtl                            ResNet-20, six test images: 1.1 million values of layers
    python -m experiments run rtl --held-out-images 1        a sixth of that
    python -m experiments run rtl --variants wrap-14

Weights and feature maps of 8 bits, steps of the GGD scheme. Each convolution runs as a whole in the Verilog processing
element; all five roundings of the requantizer read the same sums. Additions and the average are checked as well. The
other variants repeat the first layers on one image with accumulators of 14 bits that wrap, and that saturate after
every tile of eight input channels; there, sums do overflow. Needs Icarus Verilog. Expected: not one comparison fails.
About twenty minutes beside other work.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.progress import track

from experiments.bench import Bench
from experiments.experiment import Cell, Experiment, check_known, check_numbers
from ggdjax import GgdjaxError, datapath, export
from ggdjax.export._rtl import rtl_layers

_NARROW = {"accumulator_bits": 14, "bias_bits": 14}
#: Variant -> what it changes in the default accelerator.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "wrap-14": {**_NARROW, "overflow": "wrap"},
    "saturate-14-tile-8": {**_NARROW, "overflow": "saturate", "channel_tile": 8},
}


@dataclass(frozen=True, kw_only=True)
class Rtl(Experiment):
    """Values of the Verilog that differ from those of the simulator, of networks × variants of the accelerator."""

    NAME: ClassVar[str] = "rtl"
    AXES: ClassVar[tuple[str, ...]] = ("variants",)

    variants: tuple[str, ...] = tuple(VARIANTS)
    """Of the accelerator."""
    held_out_images: int = 6
    """Images that the default accelerator runs; the others run one."""
    layers: int | None = None
    """Layers, poolings and additions from the first on; none: all of the default accelerator, four of the others."""
    lanes: int = 72
    """Products per clock; divides the products of an output value where it can."""

    def check(self) -> None:
        """Refuse unknown names, missing data and numbers out of range."""
        check_known(self, "variants", VARIANTS)
        check_numbers(self, "layers", "lanes")
        super().check()

    def prepare(self, network: str, seed: int) -> Bench:
        """Return the network, calibrated."""
        if shutil.which("iverilog") is None:
            raise GgdjaxError("Icarus Verilog is not installed: `iverilog` is not in the PATH")
        return Bench(self.network(network), held_out=self.held_out_images, seed=seed)

    def measure(self, prepared: Bench, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return how many values and comparisons there were, how many were wrong, and the same by layer."""
        few = cell["variant"] != "default"
        x = prepared.decoded("accuracy")[0][: 1 if few else None]
        program = datapath.compile(prepared.quantized((8, 8)), datapath.Accelerator(**VARIANTS[cell["variant"]]))
        layers = rtl_layers(program)[: self.layers or (4 if few else None)]
        parts = []
        for layer in track(layers, f"{cell['network']}: {cell['variant']}"):
            start, roundings = time.perf_counter(), list(datapath.Rounding)
            found = export.verify_rtl(program, x, layers=[layer], rounding=roundings, lanes=self.lanes)
            parts.append({**vars(found.parts[0]), "seconds": round(time.perf_counter() - start, 1)})
        totals = {name: sum(part[name] for part in parts) for name in ("values", "checks", "overflows", "wrong")}
        return {
            "held_out_images": len(x),
            "values_of_layers": sum(part["values"] for part in parts if part["op"] in {"conv", "dense"}),
            **totals,
            "parts": parts,
        }

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return values, comparisons and what was wrong."""
        return {name: f"{row[name]:,}" for name in ("values", "checks", "overflows", "wrong")}


CONFIGS = {
    "rtl": Rtl(networks=("resnet20",)),
    "rtl-tiny": Rtl(variants=("wrap-14",), layers=1, lanes=3),
}
