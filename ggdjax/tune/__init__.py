"""Tuning a quantized network for its own metric."""

from __future__ import annotations

from ggdjax.tune._backward_forward import Plan, backward_forward, plan, search_passes
from ggdjax.tune._gradient import GradientHistory, gradient, gradient_steps
from ggdjax.tune._gradient_config import GradientConfig
from ggdjax.tune._rounding import LayerRounding, RoundingConfig, RoundingHistory, round_weights
from ggdjax.tune.bias_correction import correct_biases
from ggdjax.tune.bits import BitAllocation, allocate_bits
from ggdjax.tune.config import TuneConfig
from ggdjax.tune.equalization import equalize
from ggdjax.tune.history import Decision, History
from ggdjax.tune.segments import Unit
from ggdjax.tune.statistics import PairedTest, mcnemar

__all__ = [
    "BitAllocation",
    "Decision",
    "GradientConfig",
    "GradientHistory",
    "History",
    "LayerRounding",
    "PairedTest",
    "Plan",
    "RoundingConfig",
    "RoundingHistory",
    "TuneConfig",
    "Unit",
    "allocate_bits",
    "backward_forward",
    "correct_biases",
    "equalize",
    "gradient",
    "gradient_steps",
    "mcnemar",
    "plan",
    "round_weights",
    "search_passes",
]
