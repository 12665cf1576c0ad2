"""AIMET's quantization simulation of an ONNX file, in its default placement of quantizers or at the inputs of layers.

AdaRound gets 1,000 steps a layer; AIMET recommends 10,000 and more, which takes hours here.
"""

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


#: Quantizers at the inputs of convolutions and dense layers, and weights, alone: the places of ours, Brevitas, PPQ.
LAYERS = "tf_enhanced, inputs of layers"
ADAROUND_STEPS = 1000
ADAROUND = f"{LAYERS}, AdaRound ({ADAROUND_STEPS:,} steps a layer)"


def quantize(work: Work, setting: Setting, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Fold batch normalization, round where the setting says so, calibrate, and return the simulation."""
    import aimet_onnx
    import onnx
    import torch
    from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight

    model = onnx.load(work.model)
    fold_all_batch_norms_to_weight(model)
    name = model.graph.input[0].name
    weight_bits, activation_bits = setting.bits
    config = {"tensor": "default_config", "channel": "default_config_per_channel"}[setting.weights_per]
    read = {node.input[0] for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    sim = aimet_onnx.QuantizationSimModel(
        model,
        param_type=aimet_onnx.qtype.int(weight_bits),
        activation_type=aimet_onnx.qtype.int(activation_bits),
        quant_scheme=setting.scheme.split(",")[0],
        config_file=str(resources.files("aimet_onnx.common.quantsim_config") / f"{config}.json"),
        path=str(folder),
    )
    if setting.scheme in (LAYERS, ADAROUND):
        for tensor in sim.activation_names:
            sim.qc_quantize_op_dict[tensor].enabled = tensor in read
    batches = [{name: batch} for batch in work.calibration_batches()]
    if setting.scheme == ADAROUND:
        torch.manual_seed(0)
        aimet_onnx.apply_adaround(sim, batches, ADAROUND_STEPS)
    sim.compute_encodings(batches)
    return lambda x: sim.session.run(None, {name: x})[0]


TOOL = Tool(
    name="aimet",
    package="aimet-onnx",
    install="in an environment of its own, pip install aimet-onnx lazy_loader",
    settings=grid(("min_max", "tf_enhanced", "percentile"), ("8/8", "6/6", "5/5", "4/4", "8/6", "8/4"))
    + grid((LAYERS, ADAROUND), ("8/8", "6/6", "4/8", "4/4")),
    quantize=quantize,
)
