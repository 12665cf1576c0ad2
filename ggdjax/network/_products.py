"""Products of tensors as the importers see them: sums over any axes, as matrix products and grouped convolutions."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from ggdjax.network._builder import View, picked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from ggdjax.network._builder import Probes

Axes = tuple[int, ...]


def product_of_views(call: Any, views: Sequence[View], contract: Sequence[Axes], batch: Sequence[Axes]) -> View:
    """Append the product of two views as `jax.lax.dot_general` defines it.

    ``contract`` and ``batch`` are axes of each; those of the result are ``batch``, then what is left of both.
    """
    order = [batch[0].index(axis) for axis in images_first(call, views[0], batch[0])]
    batch = [tuple(axes[k] for k in order) for axes in batch]
    rows, shapes = [], []
    for which, view in enumerate(views):
        call.refuse_batch(view, contract[which], "a sum over the batch")
        free = [axis for axis in range(len(view.axes)) if axis not in (*contract[which], *batch[which])]
        parts = (batch[which], free, contract[which]) if which == 0 else (batch[which], contract[which], free)
        moved = view.permute([axis for part in parts for axis in part])
        shapes.append(_each(call.shape(view), lambda shape, free=free: tuple(shape[axis] for axis in free)))
        ends = [len(parts[0]), len(parts[0]) + len(parts[1])]
        matrix = _each(
            call.shape(moved),
            lambda shape, ends=ends: (*shape[: ends[0]], prod(shape[ends[0] : ends[1]]), prod(shape[ends[1] :])),
        )
        rows.append(call.builder.native(call.builder.shaped(moved, matrix, name=f"{view.tensor}.matrix")))
    rank = len(batch[0])
    result = call.emit("matmul", rows, range(rank + 2))
    target = [(*shape[:rank], *shapes[0][k], *shapes[1][k]) for k, shape in enumerate(call.shape(result))]
    shaped = call.builder.shaped(result, tuple(target), name=f"{result.tensor}.shaped")
    return shaped.permute((*map(order.index, range(rank)), *range(rank, len(shaped.axes))))


def product_with_weight(
    call: Any, view: View, weight: np.ndarray, contract: Sequence[Axes], batch: Sequence[Axes]
) -> View:
    """Append the product of a view and a weight; the axes of the result are ``batch``, those of both that are left.

    ``contract`` and ``batch`` are axes of the view and of the weight. With ``batch`` it is a grouped convolution.
    """
    (ours, theirs), (shared, groups) = contract, batch
    own = [axis for axis in range(len(view.axes)) if axis not in (*ours, *shared)]
    free = images_first(call, view, own)
    columns = [axis for axis in range(weight.ndim) if axis not in (*theirs, *groups)]
    sizes, shared_sizes = tuple(weight.shape[k] for k in columns), tuple(weight.shape[k] for k in groups)
    count, inner = prod(shared_sizes), prod(weight.shape[axis] for axis in theirs)
    kernel = weight.transpose((*theirs, *groups, *columns)).reshape(inner, -1)
    rows = view.permute((*free, *shared, *ours))
    lead = len(free)
    if len(ours) != 1 or shared:
        rows = _shaped(call, rows, lambda shape: (*shape[:lead], count * inner))
    if not shared:
        result = call.emit("dense", [call.builder.native(rows)], range(lead + 1), {"kernel": kernel})
    else:
        flat = _shaped(call, rows, lambda shape: (shape[0] if lead else 1, prod(shape[1:lead]), shape[-1]))
        result = call.emit(
            "conv",
            [call.builder.native(flat)],
            range(3),
            {"kernel": kernel[None]},
            strides=(1,),
            padding=((0, 0),),
            dilation=(1,),
            groups=count,
        )
    shapes = call.shape(rows)
    target = tuple((*shape[:lead], *shared_sizes, *sizes) for shape in shapes)
    result = call.builder.shaped(result, target, name=f"{result.tensor}.shaped")
    rest = range(lead + len(shared), len(target[0]))
    return result.permute((*range(lead, lead + len(shared)), *(free.index(axis) for axis in own), *rest))


def images_first(call: Any, view: View, axes: Sequence[int]) -> list[int]:
    """Return axes of a view, that of the images first: images are counted, split and drawn along a first axis."""
    first, second = call.shape(view)
    return sorted(axes, key=lambda axis: first[axis] == second[axis])


def _shaped(call: Any, view: View, rule: Callable[[tuple[int, ...]], tuple[int, ...]]) -> View:
    return call.builder.shaped(view, _each(call.shape(view), rule), name=f"{view.tensor}.rows")


def _each(probes: Probes, rule: Callable[[tuple[int, ...]], Any]) -> tuple:
    return rule(probes[0]), rule(probes[1])


def product_over(call: Any, view: View, axes: Sequence[int], *, keepdims: bool) -> View:
    """Append the product of all elements over axes, halves by halves."""
    call.refuse_batch(view, axes, "a reduction over the batch")
    if not prod(call.shape(view)[0][axis] for axis in axes):
        raise call.refuse("the product of nothing")
    for axis in axes:
        while (size := call.shape(view)[0][axis]) > 1:
            half = size // 2
            parts = [picked(call, view, axis, range(start, start + half)) for start in (0, half)]
            found = call.emit("mul", [part.tensor for part in parts], view.axes)
            if size % 2:
                rest = picked(call, view, axis, [size - 1])
                found = call.emit("concat", [found.tensor, rest.tensor], view.axes, axis=view.axes[axis])
            view = found
    if keepdims:
        return view
    shapes = tuple(tuple(n for k, n in enumerate(shape) if k not in axes) for shape in call.shape(view))
    return call.builder.shaped(view, shapes, name=f"{view.tensor}.product")
