"""A quantized network and its evaluation as plain rows: what tables print and `result.json` holds."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax.ggd import FitCode
from ggdjax.quantization import as_range
from ggdjax.report.cost import cost_record

if TYPE_CHECKING:
    from ggdjax.quantization import Evaluation, FixedPoint, QuantizedNetwork
    from ggdjax.schemes import Range

_PACKAGES = ("ggdjax", "jax", "jaxlib", "flax", "numpy", "onnx", "optax")


def feature_map_rows(quantized: QuantizedNetwork, evaluation: Evaluation | None = None) -> list[dict[str, Any]]:
    """Return one row per quantized feature map, in the order in which data flow through the network.

    Keys: ``name``, ``shape`` (batch left out), ``signed``, ``zero_fraction``, ``a``, ``d``, ``p`` and ``fit`` (the
    generalized gamma fit of the nonzero magnitudes, and how it ended), ``order`` (of its tail weighting), ``step`` and
    ``zero_point`` (a list per channel), ``qmin``, ``qmax``, ``bits``, ``predicted_sqnr_db`` (by the fit), and measured
    on held-out images ``sqnr_db`` (of the feature map alone) and ``accumulated_sqnr_db`` (with the errors of all
    layers before).
    """
    histograms, fitted = quantized.calibration.histograms, quantized.fit
    columns = {
        "signed": histograms.is_signed,
        "zero_fraction": histograms.zero_fraction,
        "a": fitted.distribution.a,
        "d": fitted.distribution.d,
        "p": fitted.distribution.p,
        "order": fitted.order,
        "predicted_sqnr_db": quantized.predicted_sqnr_db,
    }
    columns = {key: np.asarray(value) for key, value in columns.items()}
    rows = []
    for index, name in enumerate(quantized.calibration.names):
        quantizer = quantized.params.activations[name]
        row = {"name": name, "shape": list(quantized.network.graph.shape(name)[1:])}
        row |= {key: value[index].item() for key, value in columns.items()}
        row["fit"] = FitCode(int(fitted.code[index])).name.lower().replace("_", " ")
        row["step"] = np.asarray(quantizer.step).tolist()
        row |= {key: np.asarray(getattr(quantizer, key)).ravel()[0].item() for key in ("qmin", "qmax")}
        row["bits"] = _bits(quantizer)
        row["zero_point"] = np.asarray(quantizer.zero_point).tolist()
        row["sqnr_db"] = None if evaluation is None else evaluation.sqnr_db[name]
        row["accumulated_sqnr_db"] = None if evaluation is None else evaluation.accumulated_sqnr_db[name]
        rows.append(row)
    return rows


def weight_rows(quantized: QuantizedNetwork) -> list[dict[str, Any]]:
    """Return one row per convolution or dense layer with quantized weights.

    Keys: ``name``, ``shape`` (of the kernel, channels last), ``bits``, ``frac_bits`` (F; a list per output channel;
    None for a free step), ``step``, ``sqnr_db``, ``bias_frac_bits`` and ``bias_sqnr_db`` (None without a bias).
    """
    net, rows = quantized.network, []
    for node in net.graph.quantizable:
        weights, bias = (kind.get(node.name) for kind in (quantized.params.weights, quantized.params.biases))
        if weights is None:
            continue
        rows.append(
            {
                "name": node.name,
                "shape": list(net.params[node.param("kernel")].shape),
                **_weight_format(weights),
                "sqnr_db": quantized.weight_sqnr_db.get(node.name),
                "bias_frac_bits": None if bias is None else np.asarray(bias.frac_bits).tolist(),
                "bias_sqnr_db": quantized.bias_sqnr_db.get(node.name),
            }
        )
    return rows


def _weight_format(quantizer: FixedPoint | Range) -> dict[str, Any]:
    frac_bits = getattr(quantizer, "frac_bits", None)
    return {
        "bits": _bits(as_range(quantizer)),
        "frac_bits": None if frac_bits is None else np.asarray(frac_bits).tolist(),
        "step": np.asarray(as_range(quantizer).step).tolist(),
    }


def _bits(quantizer: Range) -> int:
    low, high = (int(np.ravel(limit)[0]) for limit in (quantizer.qmin, quantizer.qmax))
    return (high - low).bit_length()


def result_record(quantized: QuantizedNetwork, evaluation: Evaluation) -> dict[str, Any]:
    """Return the figures of a run: accuracies as fractions with 95 % intervals, both tables, and what it costs."""
    real, rounded = evaluation.float_accuracy, evaluation.quantized_accuracy
    return {
        "float_top1": real.top1,
        "float_top5": real.top5,
        "quantized_top1": rounded.top1,
        "quantized_top5": rounded.top5,
        "intervals_95": {
            f"{name}_{which}": list(accuracy.interval(which))
            for name, accuracy in (("float", real), ("quantized", rounded))
            for which in ("top1", "top5")
        },
        "held_out_images": rounded.images,
        "calibration_images": quantized.calibration.images,
        "mean_sqnr_db": evaluation.mean_sqnr_db,
        "feature_maps": feature_map_rows(quantized, evaluation),
        "weights": weight_rows(quantized),
        "cost": cost_record(quantized),
    }


def environment() -> dict[str, Any]:
    """Return the versions and the device that made a result."""
    import jax

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
