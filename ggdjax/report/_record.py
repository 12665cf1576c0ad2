"""A quantized network and its evaluation as plain rows: what tables print and `result.json` holds."""

from __future__ import annotations

import math
import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ggdjax._errors import expect
from ggdjax.ggd import FitCode
from ggdjax.report._cost import cost_record
from ggdjax.schemes import Fitted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Array

    from ggdjax.ggd import TailWeighted
    from ggdjax.quantization import Evaluation, QuantizedNetwork
    from ggdjax.schemes import Choice
    from ggdjax.steps import Quantizer

_PACKAGES = ("ggdjax", "jax", "jaxlib", "flax", "numpy", "onnx", "optax")


def feature_map_rows(quantized: QuantizedNetwork, evaluation: Evaluation | None = None) -> list[dict[str, Any]]:
    """Return one row per quantized feature map, in the order in which data flow through the network.

    Keys: ``name``, ``shape`` (batch left out), ``signed``, ``zero_fraction``, ``a``, ``d``, ``p``, ``order`` and
    ``fit`` (the generalized gamma fit that chose the step, the order of its tail weighting, and how it ended; None
    where the scheme fits nothing, or has a fit per channel), ``tail`` (the density that gave the step: log-location, d
    and p of the weighted distribution, and the logarithm of its moment of that order), ``step`` and ``zero_point`` (a
    list per channel), ``step_error`` (relative standard error of the step by images; None: not known), ``qmin``,
    ``qmax``, ``bits``, ``predicted_sqnr_db`` (by that fit), and measured on held-out images ``sqnr_db`` (of the feature
    map alone) and ``accumulated_sqnr_db`` (with the errors of all layers before).
    """
    expect("quantized", quantized, "QuantizedNetwork")
    record, predicted, errors = quantized.record, quantized.predicted_sqnr_db, quantized.step_error
    calibration = None if record is None else record.calibration
    zeros = (
        {} if calibration is None else dict(zip(calibration.names, calibration.histograms.zero_fraction, strict=True))
    )
    fits = _fit_columns({} if record is None else record.choices)
    rows = []
    quantizers = quantized.quantizers.activations  # in no order: transformations sort names
    for name in (fm.tensor for fm in quantized.graph.feature_maps() if fm.tensor in quantizers):
        quantizer = quantizers[name]
        zero_point = np.zeros(()) if quantizer.zero_point is None else np.asarray(quantizer.zero_point)
        rows.append(
            {
                "name": name,
                "shape": list(quantized.graph.shape(name)[1:]),
                "signed": quantizer.signed,
                "zero_fraction": float(zeros[name]) if name in zeros else None,
                **fits.get(name, dict.fromkeys(("a", "d", "p", "order", "fit", "tail"))),
                "predicted_sqnr_db": predicted[name],
                "step": np.asarray(quantizer.step).tolist(),
                "step_error": None if math.isnan(errors[name]) else errors[name],
                **{key: getattr(quantizer, key) for key in ("qmin", "qmax", "bits")},
                "zero_point": zero_point.astype(int).tolist(),
                "sqnr_db": None if evaluation is None else evaluation.sqnr_db[name],
                "accumulated_sqnr_db": None if evaluation is None else evaluation.accumulated_sqnr_db[name],
            }
        )
    return rows


def _fit_columns(choices: Mapping[str, Choice]) -> dict[str, dict[str, Any]]:
    """Return the parameters of the fits behind single steps, by feature map."""
    fitted = {
        name: choice.evidence
        for name, choice in choices.items()
        if isinstance(choice.evidence, Fitted) and np.ndim(choice.step) == 0
    }
    if not fitted:
        return {}
    tails = jax.tree.map(lambda *leaves: np.stack(leaves), *(evidence.tail for evidence in fitted.values()))
    parameters = np.stack(jax.device_get(_parameters(tails)), axis=1).tolist()
    weighted = tails.distribution
    densities = np.stack([weighted.loc, weighted.d, weighted.p, tails.log_moment], axis=1).tolist()
    return {
        name: dict(zip(("a", "d", "p"), values, strict=True))
        | {
            "order": float(evidence.order),
            "fit": FitCode(int(evidence.fit_code)).name.lower().replace("_", " "),
            "tail": tail,
        }
        for (name, evidence), values, tail in zip(fitted.items(), parameters, densities, strict=True)
    }


@jax.jit
def _parameters(tails: TailWeighted) -> tuple[Array, Array, Array]:
    density = tails.as_ggd()
    return density.a, density.d, density.p


def weight_rows(quantized: QuantizedNetwork) -> list[dict[str, Any]]:
    """Return one row per convolution or dense layer with quantized weights.

    Keys: ``name``, ``input`` (the feature map that it reads), ``shape`` (of the kernel, channels last), ``bits``,
    ``frac_bits`` (F; a list per output channel; None for a free step), ``step``, ``sqnr_db``, ``bias_frac_bits`` (None
    without a bias, or on a grid that is no power of two) and ``bias_sqnr_db``.
    """
    expect("quantized", quantized, "QuantizedNetwork")
    rows, kernel_db, bias_db = [], quantized.weight_sqnr_db, quantized.bias_sqnr_db
    for node in quantized.graph.quantizable:
        weights, bias = quantized.quantizers.weights.get(node.name), quantized.quantizers.bias(node)
        if weights is None:
            continue
        rows.append(
            {
                "name": node.name,
                "input": node.inputs[0],
                "shape": list(quantized.params[node.param("kernel")].shape),
                "bits": weights.bits,
                "frac_bits": _frac_bits(weights),
                "step": np.asarray(weights.step).tolist(),
                "sqnr_db": kernel_db[node.name],
                "bias_frac_bits": _frac_bits(bias),
                "bias_sqnr_db": bias_db.get(node.name),
            }
        )
    return rows


def _frac_bits(quantizer: Quantizer | None) -> int | list[int] | None:
    frac_bits = None if quantizer is None else quantizer.frac_bits
    return frac_bits.tolist() if isinstance(frac_bits, np.ndarray) else frac_bits


def result_record(quantized: QuantizedNetwork, evaluation: Evaluation) -> dict[str, Any]:
    """Return the figures of a run: the metric and accuracies (in % as fractions) with 95 % intervals, both tables, and
    what it costs."""
    expect("quantized", quantized, "QuantizedNetwork")
    expect("evaluation", evaluation, "Evaluation")
    real, rounded = evaluation.float_accuracy, evaluation.quantized_accuracy
    calibration = None if quantized.record is None else quantized.record.calibration
    accuracies = {} if real is None or rounded is None else {"float": real, "quantized": rounded}
    metric = evaluation.metric
    return {
        **{f"{name}_{which}": getattr(a, which) for name, a in accuracies.items() for which in ("top1", "top5")},
        "intervals_95": {
            f"{name}_{which}": list(accuracy.interval(which))
            for name, accuracy in accuracies.items()
            for which in ("top1", "top5")
        },
        "metric": {
            **{name: getattr(metric, name) for name in ("name", "unit", "share", "higher_is_better")},
            "float": evaluation.float_score.to_dict(),
            "quantized": evaluation.quantized_score.to_dict(),
        },
        "held_out_images": evaluation.quantized_score.images,
        "calibration_images": 0 if calibration is None else calibration.images,
        "mean_sqnr_db": evaluation.mean_sqnr_db,
        "feature_maps": feature_map_rows(quantized, evaluation),
        "weights": weight_rows(quantized),
        "cost": cost_record(quantized),
    }


def measured(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the field ``metric`` of a result.json; of older versions, which have none, that of top-1."""
    if "metric" in result:
        return result["metric"]
    values = {
        name: {"value": result[f"{name}_top1"], "interval_95": result["intervals_95"][f"{name}_top1"]}
        for name in ("float", "quantized")
    }
    return {"name": "top-1", "unit": "%", "share": True, "higher_is_better": True, **values}


def in_unit(metric: Mapping[str, Any], value: float | None) -> float | None:
    """Return a value of a result.json in the unit that is printed."""
    return value if value is None or metric["unit"] != "%" else 100 * value


def environment() -> dict[str, Any]:
    """Return the versions and the device that made a result."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    return {
        "versions": versions,
        "device": {"kind": device.device_kind, "platform": device.platform, "count": jax.device_count()},
        "machine": {"system": sys.platform, "architecture": platform.machine()},
    }
