"""ggdjax itself, measured in the same way: one step per feature map that enters a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.peers.tool import Tool, grid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from experiments.peers.tool import Setting
    from experiments.peers.work import Work


def quantize(work: Work, setting: Setting, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load the file, calibrate and choose every step and fractional length."""
    import ggdjax as gd

    weight_bits, activation_bits = setting.bits
    net = gd.load_onnx(work.model)
    config = gd.QuantConfig(
        weight_bits=weight_bits, activation_bits=activation_bits, scheme=setting.scheme, weights_per=setting.weights_per
    )
    return gd.quantize(net, gd.calibrate(net, work.calibration_batches()), config)


TOOL = Tool(
    name="ggdjax",
    package="ggdjax",
    settings=grid(("ggd",), ("8/8", "6/6", "5/5", "4/4", "8/6", "8/4")),
    quantize=quantize,
    compiles=True,
)
