"""Pieces of random ONNX models: quantizing to integers, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing import Pieces, need

if TYPE_CHECKING:
    from experiments.random_onnx import Draw, Value

piece = Pieces()


@piece(2)
def quantized(d: Draw, v: Value) -> str:
    need(d.opset >= 10)
    scale = d.const(np.float32(d.rng.uniform(0.01, 0.2)))
    kind = d.pick((np.uint8, np.int8))
    zero = [d.const(d.int(0, 200) if kind is np.uint8 else d.int(-50, 50), kind)]
    if d.chance(0.2):
        zero = []
    code = d.op("QuantizeLinear", [v.name, scale, *zero])
    return d.op("DequantizeLinear", [code, scale, *zero])
