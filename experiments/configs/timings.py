"""How long things take on this machine, and what they need of it: pure functions of `experiments/benchmarks`.

    python -m experiments run timings                                                     all of them
    python -m experiments run timings --benchmarks fit-throughput steps-throughput
    python -m experiments run timings --benchmarks time-to-choose --networks resnet20

The least of several runs, after one that compiles, unless a benchmark says otherwise; what else the machine did counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from experiments.experiment import Cell, Experiment, check_known
from experiments.real_networks import NETWORKS

#: What needs no network of the user's choice, and what is measured for each.
ALONE = (
    "fit-throughput",
    "steps-throughput",
    "fit-against-scipy",
    "parameter-recovery",
    "heavy-tails",
    "calibration-memory",
    "search-cost",
    "tuning-scaling",
)
PER_NETWORK = ("counting", "time-to-choose", "float-throughput", "simulator-throughput")
ANY = "any"


@dataclass(frozen=True, kw_only=True)
class Timings(Experiment):
    """Times and memory of single operations and of whole passes, of benchmarks × networks."""

    NAME: ClassVar[str] = "timings"
    AXES: ClassVar[tuple[str, ...]] = ("benchmarks",)
    TAKES_OWN: ClassVar[bool] = False

    benchmarks: tuple[str, ...] = (*ALONE, *PER_NETWORK)
    """Modules of experiments/benchmarks."""
    quick: bool = False
    """Few numbers, to try it out."""

    def check(self) -> None:
        """Refuse unknown names and missing data."""
        check_known(self, "benchmarks", (*ALONE, *PER_NETWORK))
        if {*PER_NETWORK} & {*self.benchmarks}:
            super().check()

    def cells(self) -> list[Cell]:
        """Return the cells without a network, then those of each."""
        pairs = [(ANY, benchmark) for benchmark in self.benchmarks if benchmark in ALONE]
        pairs += [(name, one) for name in self.networks for one in self.benchmarks if one in PER_NETWORK]
        return [{"network": name, "benchmark": one, "seed": seed} for seed in self.seeds for name, one in pairs]

    def prepare(self, network: str, seed: int) -> str:
        """Return the name of the network: each benchmark opens it as it needs it."""
        return network

    def measure(self, prepared: str, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return the figures of one benchmark."""
        module = import_module(f"experiments.benchmarks.{cell['benchmark'].replace('-', '_')}")
        return {"figures": module.measure(*([] if prepared == ANY else [prepared]), self.quick)}

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return every figure."""
        return {"figures": "\n".join(_lines(row["figures"]))}


def _lines(figures: dict[str, Any], name: str = "") -> list[str]:
    lines = []
    for key, value in figures.items():
        label = f"{name} {key}".strip()
        if isinstance(value, dict):
            lines += _lines(value, label)
        else:
            lines.append(f"{label}: {value}" if isinstance(value, str) else f"{label}: {value:.4g}")
    return lines


CONFIGS = {
    "timings": Timings(networks=tuple(NETWORKS)),
    "timings-tiny": Timings(benchmarks=("steps-throughput",), quick=True),
}
