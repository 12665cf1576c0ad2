"""Integer programs for other tools: QDQ and integer ONNX, QONNX, and the hardware bundle with its Verilog reference."""

from __future__ import annotations

from ggdjax.export._bundle import export_bundle, load_bundle
from ggdjax.export._onnx import export_onnx
from ggdjax.export._qonnx import export_qonnx
from ggdjax.export._rtl import RtlCheck, RtlResult, rtl_layers, verify_rtl, write_testbenches
from ggdjax.export._testbench import verilog_parameters

__all__ = [
    "RtlCheck",
    "RtlResult",
    "export_bundle",
    "export_onnx",
    "export_qonnx",
    "load_bundle",
    "rtl_layers",
    "verify_rtl",
    "verilog_parameters",
    "write_testbenches",
]
