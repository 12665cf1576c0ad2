"""Concatenation as both importers see it: of tensors, and of tensors with constants between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax.network._builder import View, common_order, stored_constant

if TYPE_CHECKING:
    from collections.abc import Sequence


def joined(call: Any, values: Sequence[View | np.ndarray], axis: int) -> View:
    """Append the concatenation of views and constants along ``axis``; one value of the batch holds for all images."""
    views = [value for value in values if isinstance(value, View)]
    if len(values) > 1:
        call.refuse_batch(views[0], [axis], "a concatenation along the batch")
    if len(views) < len(values):
        return _with_constants(call, values, axis)
    if len(views) == 1:
        return views[0]
    axes = common_order(views)
    return call.emit("concat", [call.builder.stored(view, axes) for view in views], axes, axis=axes[axis])


def _with_constants(call: Any, values: Sequence[View | np.ndarray], axis: int) -> View:
    """Return the concatenation as a sum: the views padded with zeros, and the constants among zeros."""
    where = [index for index, value in enumerate(values) if isinstance(value, View)]
    first, second = call.shape(values[where[0]])
    around = [size if size == other else 1 for size, other in zip(first, second, strict=True)]
    before, after, blocks = dict.fromkeys(where, 0), dict.fromkeys(where, 0), []
    for index, value in enumerate(values):
        if isinstance(value, View):
            shape = [call.shape(value)[0][axis] if k == axis else size for k, size in enumerate(around)]
            blocks.append(np.zeros(shape, np.float32))
            continue
        if any(a != b for k, (a, b) in enumerate(zip(value.shape, around, strict=True)) if k != axis):
            raise call.refuse("a concatenation with a constant that differs between images")
        blocks.append(value)
        place = after if index > where[0] else before
        place[max((k for k in where if k < index), default=where[0])] += value.shape[axis]
    padded = []
    for index in where:
        amounts, view = [(0, 0)] * len(around), values[index]
        amounts[view.axes[axis]] = (before[index], after[index])
        more = {"padding": tuple(amounts), "mode": "constant", "value": 0.0}
        padded.append(call.emit("pad", [view.tensor], view.axes, **more) if any(map(any, amounts)) else view)
    whole = joined(call, padded, axis)
    constant = stored_constant(np.concatenate(blocks, axis), whole)
    return call.emit("add", [whole.tensor], whole.axes, {"constant": constant})
