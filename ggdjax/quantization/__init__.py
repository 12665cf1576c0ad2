"""Post-training quantization of a network: calibrate, quantize, evaluate."""

from __future__ import annotations

from ggdjax.quantization._calibration import Calibration, calibrate
from ggdjax.quantization._config import QuantConfig
from ggdjax.quantization._distill import distill_images
from ggdjax.quantization._evaluation import Accuracy, Evaluation, Score, accuracy, evaluate, score
from ggdjax.quantization._metrics import METRICS, Metric, metric
from ggdjax.quantization._numerics import FakeQuant, Measure
from ggdjax.quantization._qdq import load_qdq
from ggdjax.quantization._quantize import quantize
from ggdjax.quantization._quantized_network import IntegerWeights, QuantizedNetwork
from ggdjax.quantization._quantizers import Quantizers
from ggdjax.quantization._recalibrate import recalibrate
from ggdjax.quantization._record import Record, Stage
from ggdjax.quantization._sqnr import sqnr_db
from ggdjax.quantization._without_data import calibrate_without_data

__all__ = [
    "METRICS",
    "Accuracy",
    "Calibration",
    "Evaluation",
    "FakeQuant",
    "IntegerWeights",
    "Measure",
    "Metric",
    "QuantConfig",
    "QuantizedNetwork",
    "Quantizers",
    "Record",
    "Score",
    "Stage",
    "accuracy",
    "calibrate",
    "calibrate_without_data",
    "distill_images",
    "evaluate",
    "load_qdq",
    "metric",
    "quantize",
    "recalibrate",
    "score",
    "sqnr_db",
]
