"""ONNX operators that are several operations of ours: normalizations, reductions, rearrangements, choices."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from ggdjax.network._builder import Comparison, Constant, View, common_order, picked, stored_constant
from ggdjax.network._choices import chosen, masked
from ggdjax.network._products import product_over
from ggdjax.network.onnx._convert import Call, handler
from ggdjax.network.onnx._shaping import apply, apply_number, raised

if TYPE_CHECKING:
    from collections.abc import Sequence


def _reduced(call: Call, op: str, view: View, axes: Sequence[int], *, keepdims: bool = True) -> View:
    """Append a reduction over axes of ``view``, which are not the batch."""
    call.refuse_batch(view, axes, "a reduction over the batch")
    stored = tuple(sorted(view.axes[axis] for axis in axes))
    left = view.axes
    if not keepdims:
        kept = [position for axis, position in enumerate(view.axes) if axis not in axes]
        left = tuple(sorted(kept).index(position) for position in kept)
    return call.emit(op, [view.tensor], left, axes=stored, keepdims=keepdims)


def _with(call: Call, op: str, view: View, constant: np.ndarray) -> View:
    """Append an elementwise operation with a constant in the model's order of (its last) axes."""
    return call.emit(op, [view.tensor], view.axes, {"constant": stored_constant(constant, view)})


def _square(call: Call, view: View) -> View:
    return call.emit("power", [view.tensor], view.axes, exponent=2.0)


# Normalizations -----------------------------------------------------------------------------------------------------


def _standardized(call: Call, view: View, axes: Sequence[int], epsilon: float) -> View:
    """Return (x − mean) / √(variance + ε) over ``axes``."""
    centred = apply(call, "sub", view, _reduced(call, "mean", view, axes))
    return _over_root(call, centred, axes, epsilon)


def _over_root(call: Call, view: View, axes: Sequence[int], epsilon: float) -> View:
    """Return x / √(mean of x² + ε)."""
    power = apply_number(call, "add", _reduced(call, "mean", _square(call, view), axes), epsilon)
    return apply(call, "mul", view, call.emit("power", [power.tensor], power.axes, exponent=-0.5))


def _by_channel(call: Call, view: View, scale: np.ndarray | None, offset: np.ndarray | None) -> View:
    """Scale and shift axis 1 of ``view``."""
    for op, value in (("mul", scale), ("add", offset)):
        if value is not None:
            view = _with(call, op, view, value.reshape(-1, *(1,) * (len(view.axes) - 2)))
    return view


@handler("InstanceNormalization")
def _instance_normalization(call: Call) -> View:
    view = call.view()
    found = _standardized(call, view, range(2, len(view.axes)), call.attr("epsilon", 1e-5))
    return _by_channel(call, found, call.weight(1), call.weight(2))


@handler("LayerNormalization", "RMSNormalization")
def _layer_normalization(call: Call) -> View | tuple[View, ...]:
    view, rms = call.view(), call.node.op_type == "RMSNormalization"
    rank = len(view.axes)
    axes = range(call.attr("axis", -1) % rank, rank)
    call.refuse_batch(view, axes, "normalization over the batch")
    epsilon, statistics = call.attr("epsilon", 1e-5), ()
    if not rms and any(call.node.output[1:]):
        mean = _reduced(call, "mean", view, axes)
        variance = _reduced(call, "mean", _square(call, apply(call, "sub", view, mean)), axes)
        power = apply_number(call, "add", variance, epsilon)
        statistics = (mean, call.emit("power", [power.tensor], power.axes, exponent=-0.5))
    found = (_over_root if rms else _standardized)(call, view, axes, epsilon)
    found = _with(call, "mul", found, call.weight(1))
    found = found if rms or not call.has(2) else _with(call, "add", found, call.weight(2))
    return (found, *statistics) if statistics else found


@handler("GroupNormalization")
def _group_normalization(call: Call) -> View:
    view, groups = call.view(), call.attr("num_groups", 1)
    shapes = call.shape(view)
    apart = call.reshape(view, *((shape[0], groups, prod(shape[1:]) // groups) for shape in shapes))
    found = call.reshape(_standardized(call, apart, [2], call.attr("epsilon", 1e-5)), *shapes)
    # Before operator set 21 there is one scale for each group.
    scale, offset = (np.repeat(call.weight(k), shapes[0][1] // call.weight(k).size) for k in (1, 2))
    return _by_channel(call, found, scale, offset)


@handler("MeanVarianceNormalization")
def _mean_variance_normalization(call: Call) -> View:
    view = call.view()
    axes = sorted(int(axis) % len(view.axes) for axis in call.attr("axes", (0, 2, 3)))
    return _standardized(call, view, axes, 1e-9)


@handler("LpNormalization")
def _lp_normalization(call: Call) -> View:
    view = call.view()
    axes, order = [call.attr("axis", -1) % len(view.axes)], call.attr("p", 2)
    if order == 1:
        total = _reduced(call, "sum", call.same_order("abs"), axes)
    else:
        total = apply(call, "sqrt", _reduced(call, "sum", _square(call, view), axes))
    # Of zeros the norm is 0, and the result is.
    held = call.emit("clip", [total.tensor], total.axes, low=1e-30, high=None)
    return apply(call, "div", view, held)


@handler("LogSoftmax")
def _log_softmax(call: Call) -> View:
    """Return x − m − log Σ exp(x − m), m the largest."""
    view = call.view()
    rank = len(view.axes)
    axis = call.attr("axis", -1 if call.version >= 13 else 1) % rank
    # Before operator set 13 everything from the axis on was one axis.
    axes = [axis] if call.version >= 13 else range(axis, rank)
    away = apply(call, "sub", view, _reduced(call, "max", view, axes))
    total = _reduced(call, "sum", apply(call, "exp", away), axes)
    return apply(call, "sub", away, apply(call, "log", total))


# Reductions ---------------------------------------------------------------------------------------------------------

_REDUCTIONS = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMin", "ReduceProd", "ReduceSumSquare")


@handler(*_REDUCTIONS)
def _reduce(call: Call) -> View:
    view, kind = call.view(), call.node.op_type.removeprefix("Reduce")
    axes = call.constant(1, "axes")
    if axes is None or not axes.size:
        if call.attr("noop_with_empty_axes", 0):
            axes = np.zeros(0, int)
        else:
            axes = np.arange(len(view.axes))
    axes = sorted({int(axis) % len(view.axes) for axis in axes.reshape(-1)})
    keepdims = bool(call.attr("keepdims", 1))
    if kind == "Min":
        largest = _reduced(call, "max", apply_number(call, "mul", view, -1.0), axes, keepdims=keepdims)
        return apply_number(call, "mul", largest, -1.0)
    if kind == "Prod":
        return product_over(call, view, axes, keepdims=keepdims)
    if kind == "LogSumExp":
        largest = _reduced(call, "max", view, axes)
        powers = apply(call, "exp", apply(call, "sub", view, largest))
        total = apply(call, "log", _reduced(call, "sum", powers, axes))
        found = apply(call, "add", total, largest)
        return found if keepdims else _dropped(call, found, axes)
    if kind in {"L2", "SumSquare"}:
        view = _square(call, view)
    elif kind == "L1":
        view = call.same_order("abs")
    total = _reduced(call, "sum", view, axes, keepdims=keepdims)
    return apply(call, {"L2": "sqrt", "LogSum": "log"}[kind], total) if kind in {"L2", "LogSum"} else total


def _dropped(call: Call, view: View, axes: Sequence[int]) -> View:
    """Return the view without axes of size 1."""
    return call.reshape(view, *(tuple(n for k, n in enumerate(s) if k not in axes) for s in call.shape(view)))


@handler("ArgMax", "ArgMin")
def _arg_max(call: Call) -> View:
    view = call.view()
    axis = call.attr("axis", 0) % len(view.axes)
    call.refuse_batch(view, [axis], "a reduction over the batch")
    if call.node.op_type == "ArgMin":
        view = apply_number(call, "mul", view, -1.0)
    keepdims, last = bool(call.attr("keepdims", 1)), call.shape(view)[0][axis] - 1
    if not call.attr("select_last_index", 0):
        return _reduced(call, "argmax", view, [axis], keepdims=keepdims)
    found = _reduced(call, "argmax", picked(call, view, axis, range(last, -1, -1)), [axis], keepdims=keepdims)
    constant = {"constant": np.full((1,) * len(found.axes), last, np.float32)}
    return call.emit("sub", [found.tensor], found.axes, constant, reverse=True)


# Rearrangements -----------------------------------------------------------------------------------------------------


@handler("DepthToSpace", "SpaceToDepth")
def _rearranged(call: Call) -> View:
    view, block = call.view(), call.attr("blocksize", 1)
    call.refuse_batch(view, [1, 2, 3], "blocks of images moved into channels, or back")
    columns_last, into = call.attr("mode", "DCR") == "CRD", call.node.op_type == "SpaceToDepth"
    apart, whole = [], []
    for images, chan, *space in call.shape(view):
        if into:
            apart.append((images, chan, *(n for size in space for n in (size // block, block))))
            whole.append((images, chan * block**2, *(size // block for size in space)))
        else:
            left = chan // block**2
            apart.append((images, *([left, block, block] if columns_last else [block, block, left]), *space))
            whole.append((images, left, *(size * block for size in space)))
    if into:
        order = (0, 1, 3, 5, 2, 4) if columns_last else (0, 3, 5, 1, 2, 4)
    else:
        order = (0, 1, 4, 2, 5, 3) if columns_last else (0, 3, 4, 1, 5, 2)
    return call.reshape(call.reshape(view, *apart).permute(order), *whole)


@handler("Gather")
def _gather(call: Call) -> View:
    """Pick elements along an axis, by constant indices of any shape."""
    if isinstance(call.get(0), Constant):
        raise call.refuse("a constant as input 0, looked up by the network's input (an embedding)")
    view = call.view()
    axis = call.attr("axis", 0) % len(view.axes)
    indices = call.constant(1)
    call.refuse_batch(view, [axis], "picking images of the batch")
    size = call.shape(view)[0][axis]
    flat = [int(index) % size for index in indices.reshape(-1)]
    found = picked(call, view, axis, flat)
    if indices.ndim == 1:
        return found
    return call.reshape(found, *((*shape[:axis], *indices.shape, *shape[axis + 1 :]) for shape in call.shape(found)))


@handler("GatherElements")
def _gather_elements(call: Call) -> View:
    """Pick, for every position, an element along an axis: by constant indices a choice among an image's elements."""
    if isinstance(call.get(1), View):
        raise call.refuse("a choice by indices that the network computes; choose a tensor before it as the output")
    view = call.view()
    rank, images, shapes = len(view.axes), call.batch_axis(view), call.shape(view)
    axis, (first, second) = call.attr("axis", 0) % rank, call.constants(1)
    call.refuse_batch(view, [axis], "picking images of the batch")
    indices, lead = call.one_image(1).astype(np.int64), [] if images is None else [images]
    if images is not None:
        one = indices.take([0], images)
        if (first is second and indices.shape[images] != call.batch) or (indices != one).any():
            raise call.refuse("elements of some images, or others of each")
        indices = one
    order = [*lead, *(k for k in range(rank) if k != images)]
    indices, place = indices.transpose(order), order.index(axis)
    at = np.indices(indices.shape)
    at[place] = indices % shapes[0][axis]
    sizes = [shapes[0][k] for k in order[len(lead) :]]
    flat = np.ravel_multi_index(tuple(at[len(lead) :]), sizes).reshape(-1)
    leads = [tuple(shape[k] for k in lead) for shape in shapes]
    elements = call.reshape(view.permute(order), *((*images, prod(sizes)) for images in leads))
    found = picked(call, elements, len(lead), flat.tolist())
    found = call.reshape(found, *((*images, *indices.shape[len(lead) :]) for images in leads))
    return found.permute([order.index(k) for k in range(rank)])


# Choices ------------------------------------------------------------------------------------------------------------

_COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")


@handler(*_COMPARISONS)
def _compare(call: Call) -> Comparison:
    values = [call.get(0), call.get(1)]
    which = 0 if isinstance(values[0], View) else 1
    view, threshold = call.view(which), 0.0
    if isinstance(other := values[1 - which], View):  # x against y is x − y against zero
        view = apply(call, "sub", *_of_one_shape(call, view, other))
    elif (number := call.one_image(1 - which).astype(np.float32)).size == 1:
        threshold = float(number.reshape(()))
    else:
        view, number = _of_one_shape(call, view, number)
        view = _with(call, "add", view, -number)
    kind = call.node.op_type
    if kind == "Equal":
        return Comparison(view, threshold=threshold, equal=True)
    above = kind.startswith("Greater") == (which == 0)
    # x < c is the contrary of x ≥ c, x ≤ c that of x > c.
    strict = (not kind.endswith("Equal")) == above
    return Comparison(view, threshold=threshold, strict=strict, positive=above)


@handler("Not")
def _not(call: Call) -> Comparison:
    return call.comparison(0).contrary()


@handler("Where")
def _where(call: Call) -> View:
    condition, branches = call.get(0), [call.get(1), call.get(2)]
    arrays = [call.one_image(k + 1) if isinstance(b, Constant) else b for k, b in enumerate(branches)]
    if isinstance(condition, Constant):
        kept = call.one_image(0) != 0
        rank = max(kept.ndim, *(len(a.axes) if isinstance(a, View) else a.ndim for a in arrays))
        return masked(call, kept, *(raised(call, a, rank) if isinstance(a, View) else a for a in arrays))
    return _chosen(call, call.comparison(0), arrays)


@handler("Cast")
def _cast(call: Call) -> View:
    """Convert between types of floats, or a comparison to 1 and 0."""
    condition = call.get(0)
    if isinstance(condition, Comparison):
        return _chosen(call, condition, [np.ones((), np.float32), np.zeros((), np.float32)])
    floating = {1, 10, 11, 16}  # float32, float16, float64, bfloat16
    if call.attr("to", 1) not in floating:
        raise call.refuse("a cast of an activation to an integer type")
    return call.view()


def _chosen(call: Call, condition: Comparison, arrays: Sequence[View | np.ndarray]) -> View:
    """Return the first array where the condition holds, and the second elsewhere."""
    view, *arrays = _of_one_shape(call, condition.view, *arrays)
    order = common_order([view, *(array for array in arrays if isinstance(array, View))])
    stored = View(call.builder.stored(view, order), tuple(order))
    first, second = (
        call.builder.stored(array, order) if isinstance(array, View) else stored_constant(array, stored)
        for array in arrays
    )
    return chosen(call, condition, stored, first, second)


def _of_one_shape(call: Call, *values: View | np.ndarray) -> list[View | np.ndarray]:
    """Return the values with the views among them repeated up to the shape that all broadcast to."""
    shapes = [call.shape(value) if isinstance(value, View) else (value.shape, value.shape) for value in values]
    first, second = (np.broadcast_shapes(*(shape[probe] for shape in shapes)) for probe in (0, 1))
    found = []
    for value in values:
        if isinstance(value, View):
            extra = (1,) * (len(first) - len(value.axes))
            value = call.reshape(value, *(extra + shape for shape in call.shape(value)))  # noqa: PLW2901
            wanted: list[int | None] = [None] * len(first)
            for axis, (own, size, other) in enumerate(zip(call.shape(value)[0], first, second, strict=True)):
                if own != size:
                    if size != other:
                        raise call.refuse("one value for all images of a batch, beside others")
                    wanted[value.axes[axis]] = size
            if any(wanted):
                value = call.emit("broadcast", [value.tensor], value.axes, shape=tuple(wanted))  # noqa: PLW2901
        found.append(value)
    return found


@handler("Shrink")
def _shrink(call: Call) -> View:
    """Return x − bias above λ, x + bias below −λ, else 0."""
    view, bias, limit = call.view(), float(call.attr("bias", 0.0)), float(call.attr("lambd", 0.5))
    less, more = (apply_number(call, "add", view, amount) for amount in (-bias, bias))
    zero = np.zeros((1,) * len(view.axes), np.float32)
    inputs = [view.tensor, more.tensor]
    # At or above −λ there is 0, below it x + bias.
    below = call.emit("select", inputs, view.axes, {"above": zero}, threshold=-limit, strict=False)
    return call.emit("select", [view.tensor, less.tensor, below.tensor], view.axes, threshold=limit, strict=True)


@handler("Reciprocal")
def _reciprocal(call: Call) -> View:
    view = call.view()
    one = np.ones((1,) * len(view.axes), np.float32)
    return call.emit("div", [view.tensor], view.axes, {"constant": one}, reverse=True)


@handler("Swish")
def _swish(call: Call) -> View:
    view, alpha = call.view(), float(call.attr("alpha", 1.0))
    if alpha == 1.0:
        return call.same_order("silu")
    return apply(call, "mul", view, apply(call, "sigmoid", apply_number(call, "mul", view, alpha)))
