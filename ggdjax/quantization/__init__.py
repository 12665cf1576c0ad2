"""Post-training quantization of a network: calibrate, quantize, evaluate."""

from __future__ import annotations

from ggdjax.quantization.calibration import Calibration, calibrate
from ggdjax.quantization.config import QuantConfig
from ggdjax.quantization.evaluation import Accuracy, Evaluation, accuracy, evaluate, sqnr_db
from ggdjax.quantization.numerics import FakeQuant, Measure, Observe, fake_quantize
from ggdjax.quantization.parameters import FixedPoint, QuantParams, as_range
from ggdjax.quantization.qdq import load_qdq
from ggdjax.quantization.quantized_network import QuantizedNetwork, quantize

__all__ = [
    "Accuracy",
    "Calibration",
    "Evaluation",
    "FakeQuant",
    "FixedPoint",
    "Measure",
    "Observe",
    "QuantConfig",
    "QuantParams",
    "QuantizedNetwork",
    "accuracy",
    "as_range",
    "calibrate",
    "evaluate",
    "fake_quantize",
    "load_qdq",
    "quantize",
    "sqnr_db",
]
