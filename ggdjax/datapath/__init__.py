"""The accelerator's datapath in integers: its specification, the compiled program, its simulator and exports."""

from __future__ import annotations

from ggdjax.datapath.rounding import Overflow, Requantization, Rounding, rounding_shift
from ggdjax.datapath.spec import Accelerator

__all__ = ["Accelerator", "Overflow", "Requantization", "Rounding", "rounding_shift"]
