"""ONNX Runtime's static quantization, QDQ format, in its own defaults but for what a setting names."""

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

#: The opset from which tensors of four bits exist.
_OPSET_OF_INT4 = 21


def quantize(work: Work, setting: Setting, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Fold batch normalization, calibrate, write the quantized file, and open it."""
    import onnx
    import onnxruntime
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(work.calibration_batches())

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(({name: batch} for batch in self.batches), None)

    onnxruntime.set_default_logger_severity(3)
    types = {8: (quantization.QuantType.QInt8, quantization.QuantType.QUInt8)}
    types[4] = (quantization.QuantType.QInt4, quantization.QuantType.QUInt4)
    weight_bits, activation_bits = setting.bits
    ready, out = folder / "ready.onnx", folder / "quantized.onnx"
    quant_pre_process(str(work.model), str(ready), skip_symbolic_shape=True)
    model = onnx.load(ready)
    name = model.graph.input[0].name
    if min(setting.bits) < 8:
        model = onnx.version_converter.convert_version(model, _OPSET_OF_INT4)
    quantization.quantize_static(
        model,
        str(out),
        Reader(),
        calibrate_method=quantization.CalibrationMethod[setting.scheme],
        per_channel=setting.weights_per == "channel",
        weight_type=types[weight_bits][0],
        activation_type=types[activation_bits][1],
    )
    # What the file says is evaluated. Its optimizer moves four-bit tensors into operators that do not take them, and
    # eight-bit ones into kernels that saturate on CPUs without VNNI.
    return predictor(out, optimize=False)


TOOL = Tool(
    name="onnxruntime",
    package="onnxruntime",
    settings=grid(("MinMax", "Entropy", "Percentile"), ("8/8",)) + grid(("MinMax",), ("8/4", "4/4")),
    quantize=quantize,
)
