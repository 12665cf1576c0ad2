"""Tuning a quantized network for its own metric."""

from __future__ import annotations

from ggdjax.tune.backward_forward import Plan, backward_forward, plan
from ggdjax.tune.config import TuneConfig
from ggdjax.tune.history import Decision, History
from ggdjax.tune.segments import Unit
from ggdjax.tune.statistics import PairedTest, mcnemar

__all__ = ["Decision", "History", "PairedTest", "Plan", "TuneConfig", "Unit", "backward_forward", "mcnemar", "plan"]
