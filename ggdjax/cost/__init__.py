"""What a network costs on an accelerator: operations, bytes, traffic, cycles and energy."""

from __future__ import annotations

from ggdjax.cost._cost import CostRatios, CostReport, LayerCost, estimate
from ggdjax.cost._dataflow import LayerWidths, Tile, Traffic
from ggdjax.cost._energy import EnergyTable
from ggdjax.cost._hardware_model import Dataflow, HardwareModel, Widths
from ggdjax.cost._scale_sim import export_scale_sim
from ggdjax.network._layer_shapes import LayerShape

__all__ = [
    "CostRatios",
    "CostReport",
    "Dataflow",
    "EnergyTable",
    "HardwareModel",
    "LayerCost",
    "LayerShape",
    "LayerWidths",
    "Tile",
    "Traffic",
    "Widths",
    "estimate",
    "export_scale_sim",
]
