"""The accelerator's datapath in integers: its specification, the compiled program, its simulator and exports."""

from __future__ import annotations

from ggdjax.datapath._testbench import verilog_parameters
from ggdjax.datapath.agreement import Agreement, MapAgreement, agreement, align
from ggdjax.datapath.artefact import export, load_artefact
from ggdjax.datapath.compile import compile
from ggdjax.datapath.cost import CostRatios, CostReport, LayerCost, cost
from ggdjax.datapath.dataflow import Dataflow, LayerWidths, Tile, Traffic
from ggdjax.datapath.energy import EnergyTable
from ggdjax.datapath.formats import Format
from ggdjax.datapath.hardware import (
    RtlCheck,
    RtlResult,
    rtl_layers,
    verify_rtl,
    write_testbenches,
)
from ggdjax.datapath.layers import IntegerLayer
from ggdjax.datapath.machine import FIXED16, FLOAT32, Machine, Widths
from ggdjax.datapath.onnx_export import export_onnx
from ggdjax.datapath.program import Program, RunResult
from ggdjax.datapath.qonnx_export import export_qonnx
from ggdjax.datapath.rounding import Overflow, Requantization, Rounding, rounding_shift
from ggdjax.datapath.shapes import LayerShape, export_scale_sim, layer_shapes
from ggdjax.datapath.simulate import LayerCounts
from ggdjax.datapath.spec import Accelerator

__all__ = [
    "FIXED16",
    "FLOAT32",
    "Accelerator",
    "Agreement",
    "CostRatios",
    "CostReport",
    "Dataflow",
    "EnergyTable",
    "Format",
    "IntegerLayer",
    "LayerCost",
    "LayerCounts",
    "LayerShape",
    "LayerWidths",
    "Machine",
    "MapAgreement",
    "Overflow",
    "Program",
    "Requantization",
    "Rounding",
    "RtlCheck",
    "RtlResult",
    "RunResult",
    "Tile",
    "Traffic",
    "Widths",
    "agreement",
    "align",
    "compile",
    "cost",
    "export",
    "export_onnx",
    "export_qonnx",
    "export_scale_sim",
    "layer_shapes",
    "load_artefact",
    "rounding_shift",
    "rtl_layers",
    "verify_rtl",
    "verilog_parameters",
    "write_testbenches",
]
