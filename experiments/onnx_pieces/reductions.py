"""Pieces of random ONNX models: reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from experiments.drawing import Pieces, need

if TYPE_CHECKING:
    from experiments.random_onnx import Draw, Value

piece = Pieces()

_REDUCED = ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp", "LogSum")


@piece(3)
def reduction(d: Draw, v: Value) -> str:
    kind, axes, tensor = d.pick(_REDUCED), d.some_axes(v), v.name
    need(axes)
    if kind == "LogSum":
        tensor = d.op("Add", [d.op("Abs", [v.name]), d.const(np.float32(0.2))])
    axes = d.signed(axes, v.rank) if d.opset >= 11 else axes
    if d.chance(0.05):
        axes = None
    given = {} if d.chance(0.4) else {"keepdims": d.int(0, 1)}
    since = 13 if kind == "Sum" else 18
    if d.opset >= since and d.chance(0.1):
        given["noop_with_empty_axes"] = d.int(0, 1)
    return d.with_axes(f"Reduce{kind}", tensor, axes, since=since, **given)


@piece()
def softmax(d: Draw, v: Value) -> str:
    axes = d.axes(v)
    need(axes)
    axis = None if d.chance(0.3) else d.signed(d.pick(axes), v.rank) if d.opset >= 11 else d.pick(axes)
    return d.op(d.pick(("Softmax", "LogSoftmax")), [v.name], axis=axis)


@piece()
def arg_max(d: Draw, v: Value) -> str:
    axes = d.axes(v)
    need(axes)
    given = {} if d.chance(0.5) else {"keepdims": d.int(0, 1)}
    if d.opset >= 12 and d.chance(0.4):
        given["select_last_index"] = d.int(0, 1)
    axis = d.pick(axes)
    ordered = np.sort(v.arrays[0], axis)
    # Rounding decides between equals.
    need((np.diff(ordered, axis=axis) > 1e-4 * np.abs(ordered).max()).all())
    axis = d.signed(axis, v.rank) if d.opset >= 11 else axis
    return d.op("Cast", [d.op(d.pick(("ArgMax", "ArgMin")), [v.name], axis=axis, **given)], to=TensorProto.FLOAT)
