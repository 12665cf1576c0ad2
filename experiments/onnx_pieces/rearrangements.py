"""Pieces of random ONNX models: operators that move values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.drawing import Pieces, need

if TYPE_CHECKING:
    from experiments.random_onnx import Draw, Value

piece = Pieces()


@piece(2)
def transpose(d: Draw, v: Value) -> str:
    need(v.rank)
    order = [int(k) for k in d.rng.permutation(v.rank)]
    if v.batch == 0 and d.chance(0.7):
        order = [0, *(k for k in order if k)]
    return d.op("Transpose", [v.name], perm=None if d.chance(0.1) else order)


@piece()
def flatten(d: Draw, v: Value) -> str:
    return d.op("Flatten", [v.name], axis=d.pick((None, 1, 1, 1 - v.rank if d.opset >= 11 else 1, d.int(0, v.rank))))


@piece(3)
def reshape(d: Draw, v: Value) -> str:
    need(v.batch == 0)
    sizes = d.regrouped(v.shape[1:])
    need(len(sizes) <= 5)
    lead = d.fixed or -1
    if d.chance(0.3):
        target = [0, *sizes]
        if sizes and d.chance(0.6):
            target[d.int(1, len(sizes))] = -1
        return d.op("Reshape", [v.name, d.const(target)])
    if d.fixed and sizes and d.chance(0.5):
        target = [lead, *sizes]
        target[d.int(0, len(sizes))] = -1
        return d.op("Reshape", [v.name, d.const(target)])
    return d.op("Reshape", [v.name, d.vector(v, [lead, *sizes])])


@piece()
def expand(d: Draw, v: Value) -> str:
    need(d.opset >= 8)
    target = [1 if k == v.batch else d.int(1, 3) if n == 1 else d.pick((1, n)) for k, n in enumerate(v.shape)]
    target = [*(d.int(1, 2) for _ in range(d.int(0, 1))), *target]
    return d.op("Expand", [v.name, d.const(target)])


@piece()
def tile(d: Draw, v: Value) -> str:
    copies = [d.int(1, 2) if axis in d.axes(v) else 1 for axis in range(v.rank)]
    return d.op("Tile", [v.name, d.const(copies)])


@piece()
def squeeze(d: Draw, v: Value) -> str:
    units = [axis for axis, size in enumerate(v.shape) if size == 1]
    if d.fixed and d.chance(0.15):  # of any batch it would depend on how many images there are
        return d.with_axes("Squeeze", v.name, None)
    need(units)
    axes = sorted(int(k) for k in d.rng.permutation(units)[: d.int(1, len(units))])
    return d.with_axes("Squeeze", v.name, d.signed(axes, v.rank) if d.opset >= 11 else axes)


@piece()
def unsqueeze(d: Draw, v: Value) -> str:
    count = d.int(1, 2)
    need(v.rank + count <= 5)
    axes = sorted(int(k) for k in d.rng.permutation(v.rank + count)[:count])
    return d.with_axes("Unsqueeze", v.name, d.signed(axes, v.rank + count) if d.opset >= 11 else axes)


@piece(3)
def sliced(d: Draw, v: Value) -> str:
    axes = d.some_axes(v)
    need(axes)
    starts, ends, steps = [], [], []
    for axis in axes:
        size = v.shape[axis]
        start, end = sorted((d.int(0, size - 1), d.int(1, size)))
        step = d.pick((1, 1, 2, -1)) if d.opset >= 10 else 1
        end = max(end, start + 1)
        if step < 0:
            start, end = end - 1, (start - 1 if start else -size - 1)
        elif d.chance(0.3):
            end = d.pick((2**31 - 1, 2**63 - 1, size, size + 5))
        elif d.chance(0.3) and end < size:
            end -= size
        starts.append(start - (size if d.chance(0.3) else 0))
        ends.append(end)
        steps.append(step)
    axes = d.signed(axes, v.rank) if d.opset >= 10 else axes
    return d.slice(v.name, starts, ends, axes, steps if any(s != 1 for s in steps) or d.chance(0.3) else None)


@piece(2)
def split(d: Draw, v: Value) -> Any:
    axes = [axis for axis in d.axes(v) if v.shape[axis] > 1]
    need(axes)
    axis = d.pick(axes)
    size, given = v.shape[axis], {"axis": d.signed(axis, v.rank) if d.opset >= 11 else axis}
    if d.chance(0.6):
        first = d.int(1, size - 1)
        if d.opset < 13:
            return d.op("Split", [v.name], count=2, split=[first, size - first], **given)
        return d.op("Split", [v.name, d.const([first, size - first])], count=2, **given)
    count = d.pick([n for n in range(2, size + 1) if size % n == 0 or d.opset >= 18])
    if d.opset >= 18:
        given["num_outputs"] = count
    return d.op("Split", [v.name], count=count, **given)


@piece(2)
def gather(d: Draw, v: Value) -> str:
    axes = d.axes(v)
    need(axes)
    axis = d.pick(axes)
    low = -v.shape[axis] if d.opset >= 11 else 0
    shape = d.pick(((), (1,), (2,), (3,), (2, 2)))
    indices = d.rng.integers(low, v.shape[axis], shape)
    return d.op("Gather", [v.name, d.const(indices, d.pick((np.int64, np.int32)))], axis=d.signed(axis, v.rank))


@piece(2)
def gather_elements(d: Draw, v: Value) -> str:
    """Elements along an axis, other ones at each position, the same of every image."""
    need(d.opset >= 11 and v.rank and v.batch is not None)
    axis = d.pick(d.axes(v))
    shape = [1 if k == v.batch else n for k, n in enumerate(v.shape)]
    shape[axis] = d.int(1, 4)
    if d.chance(0.3):  # of fewer positions
        shape = [n if k in {v.batch, axis} else d.int(1, n) for k, n in enumerate(shape)]
    size = v.shape[axis]
    indices = d.rng.integers(-size if d.chance(0.4) else 0, size, shape)
    if d.fixed:
        given = d.const(np.repeat(indices, v.shape[v.batch], v.batch))
    else:
        given = d.op(
            "Expand", [d.const(indices), d.vector(v, [-1 if k == v.batch else n for k, n in enumerate(shape)])]
        )
    return d.op("GatherElements", [v.name, given], axis=d.signed(axis, v.rank))
