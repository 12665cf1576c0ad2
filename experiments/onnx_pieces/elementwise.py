"""Pieces of random ONNX models: functions of each value of a tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from experiments.drawing import Pieces

if TYPE_CHECKING:
    from experiments.random_onnx import Draw, Value

piece = Pieces()

_PLAIN = ("Abs", "Erf", "HardSwish", "Mish", "Neg", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh")


@piece(3)
def plain(d: Draw, v: Value) -> str:
    return d.op(d.pick(_PLAIN), [v.name])


@piece(2)
def parametrized(d: Draw, v: Value) -> str:
    kind = d.pick(("Celu", "Elu", "LeakyRelu", "HardSigmoid", "ThresholdedRelu", "Gelu", "Shrink", "Swish", "Selu"))
    names = {"HardSigmoid": ("alpha", "beta"), "Shrink": ("bias", "lambd"), "Gelu": (), "Selu": ("alpha", "gamma")}
    given = {name: float(d.rng.uniform(0.1, 1.5)) for name in names.get(kind, ("alpha",)) if d.chance(0.6)}
    if kind == "Gelu" and d.chance(0.5):
        given = {"approximate": "tanh"}
    return d.op(kind, [v.name], **given)


@piece()
def beyond_zero(d: Draw, v: Value) -> str:
    """Functions of positive numbers."""
    above = d.op("Add", [d.op("Abs", [v.name]), d.const(np.float32(0.2))])
    kind = d.pick(("Log", "Sqrt", "Reciprocal", "Pow"))
    if kind == "Pow":
        return d.op("Pow", [above, d.const(np.float32(d.pick((0.5, -0.5, -1.0, 1.7, 0.0))))])
    return d.op(kind, [above])


@piece()
def power(d: Draw, v: Value) -> str:
    exponent = d.pick((2.0, 3.0, 1.0))
    whole = d.opset >= 12 and d.chance(0.3)
    shape = d.pick(((), (1,)))
    return d.op("Pow", [v.name, d.const(np.full(shape, exponent), np.int64 if whole else np.float32)])


@piece()
def exponential(d: Draw, v: Value) -> str:
    return d.op("Exp", [d.op("Mul", [v.name, d.const(np.float32(-0.3))])])


@piece()
def clip(d: Draw, v: Value) -> str:
    low, high = sorted(d.rng.normal(size=2))
    low, high = (low if d.chance(0.7) else None), (high if d.chance(0.7) else None)
    if d.opset < 11:
        return d.op("Clip", [v.name], min=low, max=high)
    given = ["" if limit is None else d.const(np.float32(limit)) for limit in (low, high)]
    while given and not given[-1]:
        given.pop()
    return d.op("Clip", [v.name, *given])


@piece()
def no_op(d: Draw, v: Value) -> str:
    if d.chance(0.5):
        double = d.op("Cast", [v.name], to=TensorProto.DOUBLE)
        return d.op("Cast", [double], to=TensorProto.FLOAT)
    if d.opset >= 12 and d.chance(0.5):
        return d.op("Dropout", [v.name, d.const(np.float32(0.4)), *([d.const(False, bool)] if d.chance(0.5) else [])])
    return d.op("Dropout", [v.name])
