"""Tuning a quantized network for its own metric."""

from __future__ import annotations

from ggdjax.tune._backward_forward import Plan, backward_forward, plan
from ggdjax.tune._bias_correction import correct_biases
from ggdjax.tune._bits import BitAllocation, allocate_bits
from ggdjax.tune._config import TuneConfig
from ggdjax.tune._equalization import equalize
from ggdjax.tune._gradient import GradientHistory, gradient
from ggdjax.tune._gradient_config import GradientConfig
from ggdjax.tune._history import Decision, History
from ggdjax.tune._output_sensitivity import OutputChange, Sensitivity, sensitivity
from ggdjax.tune._rounding import LayerRounding, RoundingConfig, RoundingHistory, round_weights
from ggdjax.tune._statistics import PairedTest, mcnemar

__all__ = [
    "BitAllocation",
    "Decision",
    "GradientConfig",
    "GradientHistory",
    "History",
    "LayerRounding",
    "OutputChange",
    "PairedTest",
    "Plan",
    "RoundingConfig",
    "RoundingHistory",
    "Sensitivity",
    "TuneConfig",
    "allocate_bits",
    "backward_forward",
    "correct_biases",
    "equalize",
    "gradient",
    "mcnemar",
    "plan",
    "round_weights",
    "sensitivity",
]
