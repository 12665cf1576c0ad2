"""What networks cost at every width: traffic, energy and cycles of one image, under each dataflow.

    python -m experiments run cost                      seconds; needs the network files, no images
    python -m experiments run cost --networks resnet20 --buffer-kib 32 --rows 16 --columns 16
    python -m experiments run cost --energy table.json  with your own energy per operation

Costs follow from shapes and widths alone (see `ggdjax/cost/_dataflow.py` for the formulas, `EnergyTable` for the
energies): one image, biases 16 bits, integer sums 32 bits, an array, registers and buffer of Eyeriss's size. Besides
the widths named, the widths per layer that the experiment `gradient` has allocated: run that, then this.
Expected: 8/8 needs a quarter of float32's weights and feature maps, and about a fifth of its energy; halving both
widths again saves less than half, because sums keep theirs.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from experiments import networks
from experiments.experiment import Cell, Experiment, check_known, check_numbers, widths_of
from experiments.real_networks import NETWORKS
from experiments.tables.results import Results
from ggdjax import cost, quantization
from ggdjax.cost import Dataflow, EnergyTable, HardwareModel, Widths
from ggdjax.cost._hardware_model import FIXED16, FLOAT32
from ggdjax.network import fold_batch_norm

#: Method of the experiment `gradient` -> what its widths per layer are called after.
ALLOCATED = {"bits": "", "bits, gradient": ", tuned"}
_NAMED = {one.name: one for one in (FLOAT32, FIXED16)}


@dataclass(frozen=True, kw_only=True)
class Cost(Experiment):
    """Traffic, energy and cycles of one image, of networks × dataflows × widths."""

    NAME: ClassVar[str] = "cost"
    AXES: ClassVar[tuple[str, ...]] = ("dataflows", "widths")
    PASSES: ClassVar = {}, {}
    NEEDS_IMAGES: ClassVar[bool] = False

    dataflows: tuple[str, ...] = tuple(one.value for one in Dataflow)
    """What stays in the registers."""
    widths: tuple[str, ...] = ("float32", "16/16", "8/8", "6/6", "4/4")
    """Bits of weights/feature maps; float32."""
    rows: int = HardwareModel.rows
    """Of the array."""
    columns: int = HardwareModel.columns
    """Of the array."""
    buffer_kib: int = HardwareModel.buffer_bytes // 1024
    """On the chip."""
    energy: str | None = None
    """JSON file of an EnergyTable; none: 45 nm."""

    def check(self) -> None:
        """Refuse unknown names, missing data and numbers out of range."""
        check_known(self, "dataflows", [one.value for one in Dataflow])
        for text in self.widths:
            if text not in _NAMED:
                Widths(weight_bits=widths_of(text)[0], activation_bits=widths_of(text)[1])
        check_numbers(self, "rows", "columns", "buffer_kib", *self.AXES)
        self._energy()
        networks.check(self.networks, self.own, images=False)

    def cells_of(self, network: str) -> list[Cell]:
        """Return the cells of a network, those with widths per layer last."""
        widths = (*self.widths, *self._allocated.get(network, ()))
        return [{"dataflow": dataflow, "widths": text} for dataflow in self.dataflows for text in widths]

    def prepare(self, network: str, seed: int) -> Any:
        """Return the network with normalizations folded."""
        return fold_batch_norm(self.network(network).load())

    def measure(self, prepared: Any, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return totals of one image, and their ratios to float32 and to 16-bit fixed point."""
        machine = HardwareModel(
            dataflow=Dataflow(cell["dataflow"]),
            rows=self.rows,
            columns=self.columns,
            buffer_bytes=1024 * self.buffer_kib,
            energy=self._energy(),
        )
        chosen = self._allocated.get(cell["network"], {}).get(cell["widths"])
        if chosen is not None:
            # Costs depend on widths alone, so that steps from one image of noise do.
            noise = np.random.default_rng(0).standard_normal((1, *prepared.input_shape[1:]), np.float32)
            counted = quantization.calibrate(prepared, [noise])
            found = cost.estimate(quantization.quantize(prepared, counted, quantization.QuantConfig(**chosen)), machine)
        else:
            pair = cell["widths"]
            widths = _NAMED.get(pair) or Widths(weight_bits=widths_of(pair)[0], activation_bits=widths_of(pair)[1])
            found = cost.estimate(prepared, machine, widths=widths)
        ratios = {against: asdict(ratio) for against, ratio in found.against().items()}
        return {**found.totals(), "against": ratios, "energy_source": machine.energy.source}

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return energy, its saving, and traffic."""
        return {
            "µJ": f"{row['energy_pj'] / 1e6:.1f}",
            "times less than float32": f"{row['against']['float32']['energy_pj']:.2f}",
            "DRAM, KiB": f"{row['dram_bytes'] / 1024:.0f}",
            "Mcycles": f"{row['cycles'] / 1e6:.2f}",
        }

    @property
    def settings(self) -> dict[str, Any]:
        """The machine; of a file of energies its contents."""
        text = None if self.energy is None else Path(self.energy).read_bytes()
        return super().settings | {"energy": None if text is None else hashlib.sha256(text).hexdigest()[:12]}

    def _energy(self) -> EnergyTable:
        return EnergyTable() if self.energy is None else EnergyTable.load(Path(self.energy))

    @cached_property
    def _allocated(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Network -> name -> the widths per layer that `gradient` has allocated."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for row in Results().rows("gradient"):
            if row["method"] in ALLOCATED and row["network"] not in {one.name for one in self.own}:
                name = f"mean {row['widths'].partition('/')[0]}{ALLOCATED[row['method']]}"
                bits = {f"{kind}_bits_of": row[f"{kind}_bits"] for kind in ("weight", "activation")}
                found.setdefault(row["network"], {})[name] = bits
        return found


CONFIGS = {"cost": Cost(networks=tuple(NETWORKS)), "cost-tiny": Cost(dataflows=("row-stationary",))}
