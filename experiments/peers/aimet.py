"""AIMET's quantization simulation of an ONNX file, in its default placement of quantizers."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from experiments.peers.tool import Tool, grid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from experiments.peers.tool import Setting
    from experiments.peers.work import Work


def quantize(work: Work, setting: Setting, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Fold batch normalization, calibrate, and return the simulation."""
    import aimet_onnx
    import onnx
    from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight

    model = onnx.load(work.model)
    fold_all_batch_norms_to_weight(model)
    name = model.graph.input[0].name
    weight_bits, activation_bits = setting.bits
    config = {"tensor": "default_config", "channel": "default_config_per_channel"}[setting.weights_per]
    sim = aimet_onnx.QuantizationSimModel(
        model,
        param_type=aimet_onnx.qtype.int(weight_bits),
        activation_type=aimet_onnx.qtype.int(activation_bits),
        quant_scheme=setting.scheme,
        config_file=str(resources.files("aimet_onnx.common.quantsim_config") / f"{config}.json"),
        path=str(folder),
    )
    sim.compute_encodings([{name: batch} for batch in work.calibration_batches()])
    return lambda x: sim.session.run(None, {name: x})[0]


TOOL = Tool(
    name="aimet",
    package="aimet-onnx",
    install="in an environment of its own, pip install aimet-onnx lazy_loader",
    settings=grid(("min_max", "tf_enhanced", "percentile"), ("8/8", "6/6", "5/5", "4/4", "8/6", "8/4")),
    quantize=quantize,
)
