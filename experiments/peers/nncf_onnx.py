"""NNCF's post-training quantization of an ONNX file; 8 bits, the only width it has there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.onnx_runtime import predictor
from experiments.peers.tool import Tool, grid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from experiments.peers.tool import Setting
    from experiments.peers.work import Work


def quantize(work: Work, setting: Setting, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Calibrate with fast bias correction, NNCF's default, and open the quantized file."""
    import nncf
    import onnx
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

    model = onnx.load(work.model)
    name = model.graph.input[0].name
    batches = work.calibration_batches()
    quantized = nncf.quantize(
        model,
        nncf.Dataset(batches, lambda batch: {name: batch}),
        preset=nncf.QuantizationPreset[setting.scheme.upper()],
        subset_size=len(batches),
        advanced_parameters=AdvancedQuantizationParameters(
            weights_quantization_params=QuantizationParameters(per_channel=setting.weights_per == "channel")
        ),
    )
    return predictor(quantized.SerializeToString())


TOOL = Tool(
    name="nncf",
    package="nncf",
    settings=grid(("performance", "mixed"), ("8/8",)),
    quantize=quantize,
    install="in an environment of its own, pip install nncf onnxruntime lazy_loader",
)
