"""An experiment whose cells cost nothing, for tests of what runs cells."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from experiments.experiment import Cell, Experiment
from ggdjax import GgdjaxError


@dataclass(frozen=True, kw_only=True)
class Counting(Experiment):
    """Squares of numbers."""

    NAME: ClassVar[str] = "counting"
    AXES: ClassVar[tuple[str, ...]] = ("numbers",)
    numbers: tuple[int, ...] = (1, 2, 3, 4, 5)
    unlucky: int | None = None
    deadly: int | None = None
    """The first process that measures this one is killed."""
    stuck: int | None = None
    """Whoever measures this one lets no other thread run for a minute."""

    def check(self) -> None:
        pass

    def cells(self) -> list[Cell]:
        return [{"network": f"net{n % 2}", "number": n, "seed": 0} for n in sorted(self.numbers, key=lambda n: n % 2)]

    def prepare(self, network: str, seed: int) -> Any:
        return network

    def image_ids(self, prepared: Any) -> dict[str, Sequence[str]]:
        return {"calibration": [f"{prepared}/0"]}

    def measure(self, prepared: Any, cell: Cell, folder: Path) -> dict[str, Any]:
        assert prepared == cell["network"]
        if cell["number"] == self.unlucky:
            raise GgdjaxError("bad luck")
        if cell["number"] == self.stuck:
            (folder / "stuck").touch()
            ctypes.PyDLL(None).sleep(60)
        if cell["number"] == self.deadly and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"square": cell["number"] ** 2}

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        return {"square": str(row["square"])}
