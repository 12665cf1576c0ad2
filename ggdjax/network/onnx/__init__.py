"""Reading and writing float ONNX files."""

from __future__ import annotations

from ggdjax.network.onnx._reader import load_onnx
from ggdjax.network.onnx._writer import export_onnx

__all__ = ["export_onnx", "load_onnx"]
