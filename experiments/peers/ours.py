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


#: The default recipe: `ggd` for feature maps, weights rounded for the output of their layer.
ROUNDED = "ggd, weights rounded for the output (default)"
#: From there, gradients for about a minute: no labels, on the calibration images themselves.
GRADIENT = "ggd, default, then gradients on the calibration images"


def quantize(work: Work, setting: Setting, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load the file, calibrate, choose every step and fractional length, and round."""
    import ggdjax as gd

    weight_bits, activation_bits = setting.bits
    net = gd.load_onnx(work.model)
    config = gd.QuantConfig(
        weight_bits=weight_bits, activation_bits=activation_bits, scheme="ggd", weights_per=setting.weights_per
    )
    q = gd.quantize(net, gd.calibrate(net, work.calibration_batches()), config)
    if setting.scheme != "ggd":
        q = gd.tune.round_weights(q, work.calibration)
    if setting.scheme == GRADIENT:
        q = gd.tune.gradient(q, work.calibration)
    return q


TOOL = Tool(
    name="ggdjax",
    package="ggdjax",
    settings=grid(("ggd", ROUNDED), ("8/8", "6/6", "5/5", "4/4", "8/6", "8/4", "4/8"))
    + grid((GRADIENT,), ("4/8", "4/4")),
    quantize=quantize,
    compiles=True,
)
