"""PPQ's quantization of an ONNX file: inputs of convolutions and dense layers, and weights; then its own passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.peers.tool import Tool, grid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from experiments.peers.tool import Setting
    from experiments.peers.work import Work

SYMMETRIC, ASYMMETRIC = "percentile, symmetric (default)", "mse, asymmetric"
CORRECTED, LSQ = "mse, asymmetric, bias correction", "mse, asymmetric, LSQ (500 steps a block)"
_BATCH = 32
"""Images of a batch: what LSQ takes a step on."""


def quantize(work: Work, setting: Setting, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Fold batch normalization, calibrate, optimize where the setting says so, and return PPQ's executor."""
    import torch
    from ppq.api import load_onnx_graph
    from ppq.api.setting import QuantizationSettingFactory
    from ppq.executor import TorchExecutor

    graph = load_onnx_graph(str(work.model))
    batches = [
        torch.from_numpy(work.calibration[i : i + _BATCH].copy()) for i in range(0, len(work.calibration), _BATCH)
    ]
    options = QuantizationSettingFactory.default_setting()
    options.fusion = False  # which joins the quantizers of neighbours: here the inputs of layers alone have any
    options.bias_correct = setting.scheme == CORRECTED
    options.bias_correct_setting.steps = len(batches)
    options.lsq_optimization = setting.scheme == LSQ
    options.lsq_optimization_setting.collecting_device = "cpu"
    executor = TorchExecutor(graph=graph, device="cpu")
    _quantizer(graph, setting).quantize(
        inputs=batches[0][:1],
        calib_dataloader=batches,
        executor=executor,
        setting=options,
        calib_steps=len(batches),
        collate_fn=None,
    )
    executor.load_graph(graph)
    return lambda x: executor.forward(torch.from_numpy(x))[0].numpy()


def _quantizer(graph: Any, setting: Setting) -> Any:
    """Return a quantizer of our widths: PPQ's own ones have 8 bits, and quantize additions and outputs, too."""
    from ppq.core import QuantizationPolicy, QuantizationProperty, QuantizationStates, RoundingPolicy, TargetPlatform
    from ppq.quantization.quantizer import BaseQuantizer

    kinds = QuantizationProperty
    symmetric = kinds.SYMMETRICAL + kinds.LINEAR + kinds.PER_TENSOR
    weight_bits, activation_bits = setting.bits

    class Layers(BaseQuantizer):
        target_platform = TargetPlatform.PPL_CUDA_INT8
        quant_operation_types = frozenset(("Conv", "Gemm"))

        def init_quantize_config(self, operation: Any) -> Any:
            config = self.create_default_quant_config(
                op=operation,
                num_of_bits=activation_bits,
                quant_min=-(2 ** (activation_bits - 1)),
                quant_max=2 ** (activation_bits - 1) - 1,
                observer_algorithm=setting.scheme.split(",")[0],
                policy=QuantizationPolicy(symmetric),
                rounding=RoundingPolicy.ROUND_HALF_EVEN,
            )
            maps, weights, *biases = config.input_quantization_config
            if setting.scheme != SYMMETRIC:
                maps.policy = QuantizationPolicy(kinds.ASYMMETRICAL + kinds.LINEAR + kinds.PER_TENSOR)
                maps.quant_min, maps.quant_max = 0, 2**activation_bits - 1
            weights.num_of_bits, weights.observer_algorithm = weight_bits, "minmax"
            weights.quant_min, weights.quant_max = -(2 ** (weight_bits - 1)), 2 ** (weight_bits - 1) - 1
            if setting.weights_per == "channel":
                weights.policy = QuantizationPolicy(kinds.SYMMETRICAL + kinds.LINEAR + kinds.PER_CHANNEL)
                weights.channel_axis = 0
            for one in (*biases, *config.output_quantization_config):
                one.state = QuantizationStates.FP32
            return config

    return Layers(graph, verbose=False)


TOOL = Tool(
    name="ppq",
    package="ppq",
    install="in an environment of its own, pip install ppq torch onnx==1.17 protobuf==3.20.3 onnxruntime lazy_loader",
    settings=grid((SYMMETRIC, ASYMMETRIC, CORRECTED, LSQ), ("8/8", "6/6", "4/8", "4/4")),
    quantize=quantize,
)
