"""Which options would lower the quantization noise that was measured, and by how much."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import expect
from ggdjax.quantization._quantize import fixed_point

if TYPE_CHECKING:
    from ggdjax.quantization import Evaluation, QuantizedNetwork

#: Share of the float top-1 below which advice is worth a line.
ENOUGH = 0.95
#: One bit more halves the step: a quarter of the noise; two bits a sixteenth.
_TWO_BITS = 1 / 16


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One option, and the noise that it would leave."""

    option: str
    """As the command line has it."""
    gain_db: float
    """By how much the SQNR of all layers together would rise, as far as noises of layers add up."""


def advise(q: QuantizedNetwork, evaluation: Evaluation) -> list[Advice]:
    """Return the options that would help, the most helpful first; empty where nothing was lost.

    The noise of a layer's output, relative to its signal, is about that of its input plus that of its weights, each
    from its measured SQNR. Every option is evaluated by what it leaves of the sum over layers: more bits, a fractional
    length per output channel (tried on the weights), widths per layer at the same average (equal noises instead of
    unequal ones), and bias correction (the share of the weights' noise that is the same at all positions, by the mean
    and the power of the layer's input).
    """
    expect("q", q, "QuantizedNetwork")
    expect("evaluation", evaluation, "Evaluation")
    layers = [node for node in q.graph.quantizable if node.name in q.quantizers.weights]
    weight_db = q.weight_sqnr_db
    inputs = np.asarray([_noise(evaluation.sqnr_db.get(node.inputs[0], math.inf)) for node in layers])
    weights = np.asarray([_noise(weight_db[node.name]) for node in layers])
    total = inputs.sum() + weights.sum()
    if not total > 0:
        return []
    widths = {
        "weight": max(quantizer.bits for quantizer in q.quantizers.weights.values()),
        "activation": max((x.bits for x in q.quantizers.activations.values()), default=16),
    }
    left: dict[str, float] = {}
    if widths["weight"] <= 14:
        left[f"--weight-bits {widths['weight'] + 2}"] = inputs.sum() + _TWO_BITS * weights.sum()
    if widths["activation"] <= 14:
        left[f"--activation-bits {widths['activation'] + 2}"] = _TWO_BITS * inputs.sum() + weights.sum()
    config = None if q.record is None else q.record.config
    done = () if q.record is None else [stage.name for stage in q.record.stages]
    if config is not None and (config.weights_per, config.weight_scheme) == ("tensor", "fixed-point"):
        left["--weights-per channel"] = inputs.sum() + sum(_per_channel(q, node) for node in layers)
    if config is not None and "widths" not in done:
        mean = np.mean([x.bits for kind in ("weights", "activations") for x in getattr(q.quantizers, kind).values()])
        left[f"--mean-bits {mean:.3g}"] = sum(part.size * _geometric_mean(part) for part in (inputs, weights))
    if "bias_correction" not in done and q.record is not None and q.record.calibration is not None:
        shares = np.asarray([_constant_share(q, node) for node in layers])
        left["--bias-correction"] = inputs.sum() + float(np.sum((1 - shares) * weights))
    found = [Advice(option=option, gain_db=-10 * math.log10(rest / total)) for option, rest in left.items() if rest > 0]
    return sorted((a for a in found if a.gain_db >= 0.1), key=lambda a: -a.gain_db)


def _noise(sqnr_db: float) -> float:
    """Return error over signal; 0 where nothing is lost, or there is no signal."""
    return 10 ** (-sqnr_db / 10) if math.isfinite(sqnr_db) else 0.0


def _geometric_mean(noises: np.ndarray) -> float:
    positive = noises[noises > 0]
    return float(np.exp(np.log(positive).mean()) * positive.size / noises.size) if positive.size else 0.0


def _kernel_error(q: QuantizedNetwork, node, quantizer=None) -> tuple[np.ndarray, np.ndarray]:
    """Return the float kernel and its error, output channels last."""
    kernel = np.asarray(q.float_network.params[node.param("kernel")], np.float64)
    present = np.asarray(q.params[node.param("kernel")], np.float32)
    quantizer = q.quantizers.weights[node.name] if quantizer is None else quantizer
    return kernel, quantizer.decode(quantizer.encode(present)) - kernel


def _per_channel(q: QuantizedNetwork, node) -> float:
    present = q.params[node.param("kernel")]
    kernel, error = _kernel_error(q, node, fixed_point(present, q.quantizers.weights[node.name].bits, per_channel=True))
    energy = float(np.square(kernel).sum())
    return float(np.square(error).sum()) / energy if energy else 0.0


def _constant_share(q: QuantizedNetwork, node) -> float:
    """Return the share of the weights' noise that is its mean: ``m² (Σe)² / (m² (Σe)² + var Σe²)`` over channels."""
    calibration = q.record.calibration
    histogram = calibration.histograms[calibration.names.index(node.inputs[0])]
    count = max(float(histogram.count), 1.0)
    filled = max(1.0 - float(histogram.zero_fraction), 1e-9)
    sign = 1.0 - 2.0 * float(histogram.negative_fraction) / filled  # as if both signs had one mean magnitude
    mean, power = sign * float(histogram.power_sum(1)) / count, float(histogram.power_sum(2)) / count
    _, error = _kernel_error(q, node)
    rows = error.reshape(-1, error.shape[-1])
    constant = mean**2 * float(np.square(rows.sum(0)).sum())
    varying = max(power - mean**2, 0.0) * float(np.square(rows).sum())
    return constant / (constant + varying) if constant + varying > 0 else 0.0
