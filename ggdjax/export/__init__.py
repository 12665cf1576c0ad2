"""Integer programs for other tools: QDQ and integer ONNX, QONNX, and the hardware bundle with its Verilog reference."""

from __future__ import annotations

from ggdjax.export._bundle import export_bundle, load_bundle
from ggdjax.export._onnx import export_onnx
from ggdjax.export._qonnx import export_qonnx
from ggdjax.export._rtl import RtlCheck, RtlResult, verify_rtl, write_testbenches

__all__ = [
    "RtlCheck",
    "RtlResult",
    "export_bundle",
    "export_onnx",
    "export_qonnx",
    "load_bundle",
    "verify_rtl",
    "write_testbenches",
]
