"""Brevitas' layerwise post-training quantization with GPTQ: inputs of convolutions and dense layers, and weights.

Brevitas quantizes PyTorch modules: the file becomes those by `experiments.peers.onnx_to_torch`. What is done is what
its own ImageNet example does, without that example's 8 bits for first and last layers: batch normalization merged,
steps from the 99.999th percentile, feature maps asymmetric (so that those behind a ReLU lose no bit to a sign).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.peers.onnx_to_torch import to_torch
from experiments.peers.tool import Tool, grid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from experiments.peers.tool import Setting
    from experiments.peers.work import Work

GPTQ, POWERS_OF_TWO, PLAIN = "GPTQ", "GPTQ, power-of-two scales", "percentile"
PUBLISHED = "equalization, GPTQ by activation order, bias correction"
_EQUALIZING = 20
"""Passes of the equalization in Brevitas' published recipes."""


def quantize(work: Work, setting: Setting, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Merge, calibrate, round by GPTQ, and return the forward pass with the weights that were rounded."""
    import torch

    model = _quantized(work, setting)
    for name, layer in [*model.named_modules()]:
        if hasattr(layer, "weight_quant"):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, _fused(layer))

    def predict(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(x)).numpy()

    return predict


def _quantized(work: Work, setting: Setting) -> Any:
    import onnx
    import torch
    from brevitas.graph.quantize import layerwise_quantize, preprocess_for_quantize
    from brevitas_examples.imagenet_classification.ptq import ptq_common

    equalizes = _EQUALIZING if setting.scheme == PUBLISHED else 0
    model = preprocess_for_quantize(
        to_torch(onnx.load(work.model)), equalize_iters=equalizes, equalize_merge_bias=equalizes > 0, merge_bn=True
    )
    scale = "po2_scale" if setting.scheme == POWERS_OF_TWO else "float_scale"
    weight_bits, activation_bits = setting.bits
    _, layers, _, _ = ptq_common.create_quant_maps(
        dtype=torch.float32,
        bias_bit_width=None,
        weight_bit_width=weight_bits,
        weight_param_method="stats",
        weight_scale_type=scale,
        weight_quant_type="sym",
        weight_quant_granularity=f"per_{setting.weights_per}",
        weight_narrow_range=False,
        weight_quant_format="int",
        act_quant_format="int",
        act_bit_width=activation_bits,
        act_scale_type=scale,
        act_scale_computation_type="static",
        act_param_method="stats",
        act_quant_type="asym",
        act_quant_granularity="per_tensor",
        act_quant_percentile=99.999,
    )
    model = layerwise_quantize(model, compute_layer_map=layers).eval()
    batches = [(torch.from_numpy(batch), None) for batch in work.calibration_batches()]
    with torch.no_grad():
        model(batches[0][0][:1])  # weights get their scales
    ptq_common.calibrate(batches, model)
    if setting.scheme != PLAIN:
        ptq_common.apply_gptq(batches, model, act_order=setting.scheme == PUBLISHED)
    if setting.scheme == PUBLISHED:
        ptq_common.apply_bias_correction(batches, model)
    return model


def _fused(layer: Any) -> Any:
    """Return a quantized layer with its weights rounded once, its input by one operation: the same numbers, sooner."""
    import torch
    from torch.nn import Conv2d, Module, functional

    with torch.no_grad():
        weight, maps = layer.quant_weight().value.detach(), layer.input_quant
        step, zero, bits = float(maps.scale()), int(maps.zero_point()), int(maps.bit_width())
    lowest = -(2 ** (bits - 1)) if maps.is_signed else 0

    class Fused(Module):
        def forward(self, x: Any) -> Any:
            x = torch.fake_quantize_per_tensor_affine(x, step, zero, lowest, lowest + 2**bits - 1)
            if isinstance(layer, Conv2d):
                moves = layer.stride, layer.padding, layer.dilation, layer.groups
                return functional.conv2d(x, weight, layer.bias, *moves)
            return functional.linear(x, weight, layer.bias)

    return Fused()


TOOL = Tool(
    name="brevitas",
    package="brevitas",
    install="in an environment of its own, pip install brevitas torch onnx onnxruntime lazy_loader tqdm pandas",
    settings=grid((GPTQ, POWERS_OF_TWO, PUBLISHED, PLAIN), ("8/8", "6/6", "4/8", "4/4")),
    quantize=quantize,
)
