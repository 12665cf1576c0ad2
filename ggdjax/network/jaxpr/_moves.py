"""Rules for the primitives that only move values: broadcasting, reshaping, joining, padding, slicing, gathering."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax.network._builder import Constant, View, picked
from ggdjax.network._joined import joined
from ggdjax.network.jaxpr._call import Call
from ggdjax.network.jaxpr._rules import each, ints, rule, scalar, small

if TYPE_CHECKING:
    pass


@rule("broadcast_in_dim")
def _broadcast(call: Call) -> View:
    view = call.view()
    places = ints(call.param("broadcast_dimensions"))
    ours, wanted = call.shape(view), call.out_shape
    unit = tuple(
        tuple(shape[places.index(axis)] if axis in places else 1 for axis in range(len(out)))
        for shape, out in zip(ours, wanted, strict=True)
    )
    kept = _keep_dims(call, view, unit)
    view = kept if kept is not None else call.reshape(view, unit)
    if unit == wanted:
        return view
    shape: list[int | None] = [None] * len(view.axes)
    for axis, (own, large) in enumerate(zip(unit[0], wanted[0], strict=True)):
        if own != large:
            if wanted[1][axis] != large:
                raise call.refuse("a repetition whose number depends on the batch size")
            shape[view.axes[axis]] = large
    return call.emit("broadcast", [view.tensor], view.axes, shape=tuple(shape))


def _keep_dims(call: Call, view: View, wanted: tuple) -> View | None:
    """Return the sum that keeps its axes, if `wanted` is what keeping them gives; else None."""
    kind, source, attrs = call.trace.sums.get(view.tensor, (None, None, None))
    if kind != "sum" or attrs["keepdims"] or view != attrs["result"]:
        return None
    summed = attrs["view"]
    kept = each(call.shape(summed), lambda s: tuple(1 if axis in attrs["reduced"] else n for axis, n in enumerate(s)))
    if kept != wanted:
        return None
    result = call.emit("sum", [source], summed.axes, axes=attrs["axes"], keepdims=True)
    call.trace.sums[result.tensor] = ("sum", source, attrs | {"keepdims": True})
    return result


@rule("reshape", "squeeze", "expand_dims")
def _reshape(call: Call) -> View:
    if call.pair[0].params.get("dimensions") is not None and call.primitive == "reshape":
        raise call.refuse("a reshape that also transposes")
    return call.reshape(call.view(), call.out_shape)


@rule("transpose")
def _transpose(call: Call) -> View:
    return call.view().permute(call.param("permutation"))


@rule("concatenate")
def _concatenate(call: Call) -> View:
    return joined(call, [_one_image(call, index) for index in range(len(call.inputs))], call.param("dimension"))


def _one_image(call: Call, index: int) -> View | np.ndarray:
    """Return an operand; where it is constant, without the batch along which it repeats."""
    value = call.inputs[index]
    if not isinstance(value, Constant):
        return call.view(index)
    shapes = [probe.shape for probe in value.probes]
    return small(call, index, [axis for axis, (a, b) in enumerate(zip(*shapes, strict=True)) if a == b])


@rule("stack")
def _stack(call: Call) -> View:
    axis, values = call.param("axis"), []
    for index in range(len(call.inputs)):
        value = _one_image(call, index)
        if isinstance(value, View):
            first, second = ((*shape[:axis], 1, *shape[axis:]) for shape in call.shape(value))
            values.append(call.reshape(value, (first, second)))
        else:
            values.append(np.expand_dims(value, axis))
    return joined(call, values, axis)


@rule("tile")
def _tile(call: Call) -> View:
    view = call.view()
    for axis, copies in enumerate(call.param("reps")):
        if copies < 1:
            raise call.refuse("no copy of a tensor")
        if copies > 1:
            view = joined(call, [view] * copies, axis)
    return view


@rule("pad")
def _pad(call: Call) -> View:
    view = call.view(0)
    config = call.param("padding_config")
    call.refuse_batch(view, [axis for axis, amounts in enumerate(config) if any(amounts)], "padding of the batch")
    value = scalar(call, 1)
    config = [ints(amounts) for amounts in config]
    for axis, (low, high, interior) in enumerate(config):
        if interior:
            view = _spread(call, view, axis, interior, value)
            config[axis] = (low, high - interior, 0)
    padding = [(0, 0)] * len(view.axes)
    for axis, (low, high, _) in enumerate(config):
        padding[view.axes[axis]] = (low, high)
    return call.emit("pad", [view.tensor], view.axes, padding=tuple(padding), mode="constant", value=value)


def _spread(call: Call, view: View, axis: int, count: int, value: float) -> View:
    """Return the view with ``count`` values behind each of its own along an axis."""
    apart = call.reshape(view, each(call.shape(view), lambda shape: (*shape[: axis + 1], 1, *shape[axis + 1 :])))
    padding = [(0, 0)] * len(apart.axes)
    padding[apart.axes[axis + 1]] = (0, count)
    wide = call.emit("pad", [apart.tensor], apart.axes, padding=tuple(padding), mode="constant", value=value)
    grown = each(call.shape(view), lambda shape: (*shape[:axis], shape[axis] * (count + 1), *shape[axis + 1 :]))
    return call.reshape(wide, grown)


@rule("slice")
def _slice(call: Call) -> View:
    starts, limits, strides = (call.params(name) for name in ("start_indices", "limit_indices", "strides"))
    steps = strides[0] or (1,) * len(starts[0])
    return _take(call, call.view(), starts, limits, steps)


def _take(call: Call, view: View, starts: Any, limits: Any, steps: Any) -> View:
    shapes = call.shape(view)
    slices: list[tuple[int | None, int | None, int]] = [(None, None, 1)] * len(view.axes)
    for axis in range(len(view.axes)):
        if shapes[0][axis] != shapes[1][axis]:
            whole = all(
                start[axis] == 0 and limit[axis] == shape[axis]
                for start, limit, shape in zip(starts, limits, shapes, strict=True)
            )
            if not whole or steps[axis] != 1:
                raise call.refuse("a slice of the batch")
            continue
        slices[view.axes[axis]] = (int(starts[0][axis]), int(limits[0][axis]), int(steps[axis]))
    return call.emit("slice", [view.tensor], view.axes, slices=tuple(slices))


@rule("dynamic_slice")
def _dynamic_slice(call: Call) -> View:
    """Take a slice that begins at constants, moved inside where it would reach beyond the end."""
    view, sizes = call.view(0), call.params("slice_sizes")
    shapes = call.shape(view)
    given = [call.constants(k + 1) for k in range(len(view.axes))]
    starts = tuple(
        tuple(int(np.clip(g[probe], 0, n - k)) for g, n, k in zip(given, shapes[probe], sizes[probe], strict=True))
        for probe in (0, 1)
    )
    limits = tuple(tuple(a + n for a, n in zip(*pair, strict=True)) for pair in zip(starts, sizes, strict=True))
    return _take(call, view, starts, limits, (1,) * len(view.axes))


@rule("rev")
def _reverse(call: Call) -> View:
    view, axes = call.view(), call.param("dimensions")
    call.refuse_batch(view, axes, "a reversal of the batch")
    slices: list[tuple[int | None, int | None, int]] = [(None, None, 1)] * len(view.axes)
    for axis in axes:
        slices[view.axes[axis]] = (None, None, -1)
    return call.emit("slice", [view.tensor], view.axes, slices=tuple(slices))


@rule("split")
def _split(call: Call) -> list[View]:
    view = call.view()
    axis, begin, parts = call.param("axis"), 0, []
    shapes = call.shape(view)
    for size in ints(call.param("sizes")):
        starts = each(shapes, lambda s, b=begin: tuple(b if k == axis else 0 for k in range(len(s))))
        limits = each(shapes, lambda s, e=begin + size: tuple(e if k == axis else n for k, n in enumerate(s)))
        parts.append(_take(call, view, starts, limits, (1,) * len(view.axes)))
        begin += size
    return parts


@rule("gather")
def _gather(call: Call) -> View:
    """Pick elements along an axis; an enlargement by an integer (`jax.image.resize`) is a nearest-neighbour one."""
    view, numbers = call.view(0), call.param("dimension_numbers")
    index = call.constant(1)
    shape, wanted = call.shape(view)[0], call.out_shape[0]
    one_axis = len(numbers.start_index_map) == 1 and numbers.collapsed_slice_dims == numbers.start_index_map
    axis = numbers.start_index_map[0]
    kept = all(n == m for k, (n, m) in enumerate(zip(call.param("slice_sizes"), shape, strict=True)) if k != axis)
    offsets = tuple(k for k in range(len(shape)) if k != axis)
    if one_axis and kept and axis != 0 and tuple(numbers.offset_dims) == offsets and len(wanted) == len(shape):
        size, length = wanted[axis], shape[axis]
        if size % length == 0 and np.array_equal(index.reshape(-1), np.arange(size) // (size // length)):
            sizes: list[int | None] = [None] * len(shape)
            scales = [1.0] * len(shape)
            sizes[view.axes[axis]], scales[view.axes[axis]] = size, size / length
            return call.emit(
                "resize",
                [view.tensor],
                view.axes,
                sizes=tuple(sizes),
                scales=tuple(scales),
                method="nearest",
                coordinates="asymmetric",
                rounding="floor",
            )
    # Positions of the index stand where the axis was.
    places = tuple(k for k in range(len(wanted)) if not axis <= k < axis + index.ndim - 1)
    inside = index.size and index.min() >= 0 and index.max() < shape[axis]
    if one_axis and kept and tuple(numbers.offset_dims) == places and inside:
        call.refuse_batch(view, [axis], "picking images of the batch")
        found = picked(call, view, axis, index.reshape(-1).tolist())
        return call.reshape(found, call.out_shape)
    raise call.refuse("picking elements by anything but constant positions along one axis")
