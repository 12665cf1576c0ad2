"""Pieces of random ONNX models: operators of several tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing import Pieces, need

if TYPE_CHECKING:
    from experiments.random_onnx import Draw, Value

piece = Pieces()


def broadcasting(d: Draw, v: Value) -> np.ndarray:
    """Return a constant that broadcasts against ``v``, or raises its rank."""
    own = [1 if axis == v.batch else size for axis, size in enumerate(v.shape)]
    match d.int(0, 5):
        case 0:
            return d.numbers()
        case 1:
            return d.numbers(1)
        case 2:
            need(v.rank > 1 and v.batch != 1)
            return d.numbers(v.shape[1], *(1,) * (v.rank - 2))
        case 3:
            need(v.rank > 0)
            return d.numbers(own[-1])
        case 4:
            return d.numbers(*own)
        case _:
            shape = [size if d.chance(0.5) else 1 for size in own]
            return d.numbers(*(1,) * d.int(0, 1), *shape)


@piece(3)
def with_constant(d: Draw, v: Value) -> str:
    kind, constant = d.pick(("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum")), broadcasting(d, v)
    if kind == "Div":
        constant = np.sign(constant) + constant
    pair = [v.name, d.const(constant)]
    if d.chance(0.4):
        if kind == "Div":
            pair[0] = d.op("Add", [d.op("Abs", [v.name]), d.const(np.float32(0.3))])
        pair = pair[::-1]
    return d.op(kind, pair)


def partner(d: Draw, v: Value) -> str:
    """Return a tensor that broadcasts against ``v``: another of its shape, or what a reduction leaves."""
    others = [other.name for other in d.values if other.shape == v.shape and other.batch == v.batch]
    if others and d.chance(0.4):
        return d.pick(others)
    if d.chance(0.5):
        axes = d.some_axes(v)
        need(axes)
        return d.with_axes("ReduceMean", v.name, d.signed(axes, v.rank) if d.opset >= 11 else axes, since=18)
    return d.op(d.pick(("Relu", "Tanh", "Abs")), [v.name])


@piece(3)
def of_two(d: Draw, v: Value) -> str:
    kind, other = d.pick(("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum")), partner(d, v)
    if kind == "Div":
        other = d.op("Add", [d.op("Abs", [other]), d.const(np.float32(0.3))])
    pair = [v.name, other] if kind == "Div" or d.chance(0.6) else [other, v.name]
    if kind in {"Max", "Min", "Sum"} and d.chance(0.4):
        pair.append(d.const(broadcasting(d, v)) if d.chance(0.5) else v.name)
    return d.op(kind, pair)


@piece(2)
def concat(d: Draw, v: Value) -> str:
    axes = d.axes(v)
    need(axes)
    axis, parts = d.pick(axes), [v.name]
    for _ in range(d.int(1, 2)):
        if d.chance(0.6):
            parts.append(v.name if d.chance(0.3) else d.op("Tanh", [v.name]))
        elif d.fixed:
            shape = list(v.shape)
            shape[axis] = d.int(1, 3)
            parts.append(d.const(d.numbers(*shape)))
        else:
            parts.append(d.op("ReduceMax", [v.name], axes=[axis]) if d.opset < 18 else d.op("Relu", [v.name]))
    order = [parts[k] for k in d.rng.permutation(len(parts))]
    return d.op("Concat", order, axis=d.signed(axis, v.rank) if d.opset >= 11 else axis)


@piece()
def class_token(d: Draw, v: Value) -> str:
    """A constant repeated for every image, and joined to it."""
    need(v.batch == 0 and not d.fixed and v.rank > 1 and d.opset >= 8)
    axis = d.int(1, v.rank - 1)
    token = d.const(d.numbers(1, *(1 if k == axis else n for k, n in enumerate(v.shape) if k)))
    target = d.vector(v, [-1, *(1 if k == axis else n for k, n in enumerate(v.shape) if k)])
    need("Concat" in {node.op_type for node in d._pending})
    return d.op("Concat", [d.op("Expand", [token, target]), v.name], axis=axis)


@piece(2)
def choice(d: Draw, v: Value) -> str:
    need(d.opset >= 9 and v.rank > 0)
    branches = [d.op("Tanh", [v.name]) if d.chance(0.5) else v.name, d.const(d.numbers())]
    if d.chance(0.3):
        branches[1] = d.op("Abs", [v.name])
    if d.chance(0.2):
        branches[0] = d.op("ReduceMax", [v.name], axes=[v.rank - 1]) if d.opset < 18 else d.op("Exp", [v.name])
    branches = branches[:: d.pick((1, -1))]
    if d.chance(0.3):
        shape = [1 if axis == v.batch else size for axis, size in enumerate(v.shape)]
        mask = d.rng.random(shape[d.int(0, v.rank - 1) :]) < 0.5
        return d.op("Where", [d.const(mask, bool), *branches])
    if d.chance(0.2):  # of a function that is constant over half of its range
        limited = d.op("Relu", [v.name])
        need(d.opset >= 11)
        equal = d.op("Equal", [limited, d.const(np.float32(0))])
        return d.op("Where", [d.op("Not", [equal]) if d.chance(0.3) else equal, *branches])
    kind = d.pick(("Greater", "Less") if d.opset < 12 else ("Greater", "GreaterOrEqual", "Less", "LessOrEqual"))
    pair = [v.name, d.const(np.float32(d.rng.normal()))][:: d.pick((1, -1))]
    condition = d.op(kind, pair)
    return d.op("Where", [d.op("Not", [condition]) if d.chance(0.3) else condition, *branches])


@piece(2)
def mask(d: Draw, v: Value) -> str:
    """Numbers that stand for "never", chosen or added, before what takes them for that."""
    axes = [axis for axis in d.axes(v) if v.shape[axis] > 1 and axis != v.batch]
    need(axes and d.opset >= 9)
    axis, shape = d.pick(axes), [1 if k == v.batch else n for k, n in enumerate(v.shape)]
    kept = d.rng.random(shape) < 0.6
    first = [slice(None)] * v.rank
    first[axis] = d.int(0, v.shape[axis] - 1)
    kept[tuple(first)] = True  # one at least everywhere
    fill = np.float32(d.pick((-np.inf, -1e9, -1e4, -3e38)))
    if d.chance(0.5):
        masked = d.op("Add", [v.name, d.const(np.where(kept, np.float32(0), fill))][:: d.pick((1, -1))])
    elif d.chance(0.5):
        masked = d.op("Where", [d.const(kept, bool), v.name, d.const(fill)])
    else:
        masked = d.op("Where", [d.const(~kept, bool), d.const(fill), v.name])
    if d.chance(0.3):
        masked = d.op("Mul", [masked, d.const(np.float32(d.rng.uniform(0.1, 1)))])
    match d.int(0, 2):
        case 0 if d.opset >= 13:
            return d.op("Softmax", [masked], axis=d.signed(axis, v.rank))
        case 1:
            return d.with_axes("ReduceMax", masked, [d.signed(axis, v.rank) if d.opset >= 11 else axis], since=18)
        case _:
            need(d.opset >= 13)
            return d.op("Exp", [d.op("LogSoftmax", [masked], axis=d.signed(axis, v.rank))])
