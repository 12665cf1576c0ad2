"""ONNX operators that are elementwise, that reduce, or that only move numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from ggdjax.network._builder import Constant, View, common_order, stored_constant
from ggdjax.network._choices import sign
from ggdjax.network._joined import joined
from ggdjax.network.onnx._convert import Call, handler
from ggdjax.network.onnx._quantized import clip_codes

_PLAIN = {
    "Abs": "abs",
    "Atan": "atan",
    "Erf": "erf",
    "Exp": "exp",
    "HardSwish": "hard_swish",
    "Log": "log",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Sqrt": "sqrt",
    "Tanh": "tanh",
}
_BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div"}
#: Of any number of operands, in any order.
_OF_SEVERAL = {"Sum": "add", "Max": "maximum", "Min": "minimum"}
#: From here on the end of a slice means the end of the axis.
_UNBOUNDED = 10**9
_REDUCTIONS = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max"}


@handler(*_PLAIN)
def _plain(call: Call) -> View:
    return call.same_order(_PLAIN[call.node.op_type])


@handler("Celu", "Elu", "Selu")
def _exponential(call: Call) -> View:
    """Return γ · (max(x, 0) + α · (exp(min(x, 0) / scale) − 1)): all three are that."""
    kind = call.node.op_type
    alpha = float(call.attr("alpha", 1.6732632423543772 if kind == "Selu" else 1.0))
    below = call.same_order("clip", low=None, high=0.0)
    if kind == "Celu":
        below = apply_number(call, "mul", below, 1 / alpha)
    below = apply_number(call, "mul", apply_number(call, "sub", apply(call, "exp", below), 1.0), alpha)
    found = apply(call, "add", call.same_order("relu"), below)
    return apply_number(call, "mul", found, float(call.attr("gamma", 1.0507009873554805))) if kind == "Selu" else found


@handler("Softplus", "Mish")
def _softplus(call: Call) -> View:
    """Return log(1 + exp(x)) = max(x, 0) + log(1 + exp(−|x|)); mish is x · tanh of it."""
    small = apply(call, "exp", apply_number(call, "mul", call.same_order("abs"), -1.0))
    softplus = apply(call, "add", call.same_order("relu"), apply(call, "log", apply_number(call, "add", small, 1.0)))
    if call.node.op_type == "Softplus":
        return softplus
    return apply(call, "mul", call.view(), apply(call, "tanh", softplus))


@handler("Softsign")
def _softsign(call: Call) -> View:
    return apply(call, "div", call.view(), apply_number(call, "add", call.same_order("abs"), 1.0))


@handler("Gelu")
def _gelu(call: Call) -> View:
    """Return x · (1 + erf(x / √2)) / 2, or its approximation by tanh (Hendrycks and Gimpel 2016)."""
    x = call.view()
    if call.attr("approximate", b"none") in {b"tanh", "tanh"}:
        cube = apply_number(call, "mul", call.same_order("power", exponent=3.0), 0.044715)
        inner = apply(call, "tanh", apply_number(call, "mul", apply(call, "add", x, cube), math.sqrt(2 / math.pi)))
    else:
        inner = apply(call, "erf", apply_number(call, "mul", x, math.sqrt(0.5)))
    return apply(call, "mul", apply_number(call, "mul", x, 0.5), apply_number(call, "add", inner, 1.0))


@handler("ThresholdedRelu")
def _thresholded_relu(call: Call) -> View:
    view = call.view()
    threshold = float(call.attr("alpha", 1.0))
    zero = {"below": np.zeros((1,) * len(view.axes), np.float32)}
    return call.emit("select", [view.tensor] * 2, view.axes, zero, threshold=threshold, strict=True)


@handler("Sign")
def _sign(call: Call) -> View:
    return sign(call, call.view())


def apply(call: Call, op: str, *views: View) -> View:
    """Append an elementwise operation of views."""
    order = common_order(views)
    return call.emit(op, [call.builder.stored(view, order) for view in views], order)


def apply_number(call: Call, op: str, view: View, number: float) -> View:
    """Append an operation of a view and a number."""
    return call.emit(op, [view.tensor], view.axes, {"constant": np.full((1,) * len(view.axes), number, np.float32)})


@handler("LeakyRelu")
def _leaky_relu(call: Call) -> View:
    return call.same_order("leaky_relu", slope=call.attr("alpha", 0.01))


@handler("HardSigmoid")
def _hard_sigmoid(call: Call) -> View:
    return call.same_order("hard_sigmoid", alpha=call.attr("alpha", 0.2), beta=call.attr("beta", 0.5))


@handler("Clip")
def _clip(call: Call) -> View:
    """Limit; without limits there is nothing to do."""

    def limit(index: int, attribute: str) -> float | None:
        value = call.constant(index, attribute)
        if value is None:
            return None
        number = float(value.reshape(-1)[0])
        # The largest numbers of float32 are how old files say "no limit".
        return None if abs(number) >= np.finfo(np.float32).max else number

    low, high = limit(1, "min"), limit(2, "max")
    # Integers limit codes, between the two nodes of a pair.
    if call.has(1 if call.has(1) else 2) and call.constant(1 if call.has(1) else 2).dtype.kind in "iu":
        return clip_codes(call, low, high)
    return call.view() if low is None and high is None else call.same_order("clip", low=low, high=high)


@handler("Pow")
def _power(call: Call) -> View:
    exponent = call.weight(1)
    if exponent.size != 1:
        raise call.refuse("a power that differs between elements")
    return call.same_order("power", exponent=float(exponent.reshape(())))


@handler("Neg")
def _negate(call: Call) -> View:
    view = call.view()
    return call.emit("mul", [view.tensor], view.axes, {"constant": np.float32(-1.0)})


@handler(*_BINARY)
def _binary(call: Call) -> View:
    op = _BINARY[call.node.op_type]
    values = call.get(0), call.get(1)
    if isinstance(values[0], View) and isinstance(values[1], View):
        return _of_views(call, op, *values)
    which = 0 if isinstance(values[0], Constant) else 1
    attrs = {"reverse": True} if which == 0 and op in {"sub", "div"} else {}
    return _with_constant(call, op, call.view(1 - which), which, **attrs)


@handler(*_OF_SEVERAL)
def _of_several(call: Call) -> View:
    op = _OF_SEVERAL[call.node.op_type]
    values = [call.get(k) for k in range(len(call.node.input))]
    result, *views = (value for value in values if isinstance(value, View))
    for view in views:
        result = _of_views(call, op, result, view)
    for index, value in enumerate(values):
        if isinstance(value, Constant) and not _changes_nothing(call.node.op_type, value.probes[0]):
            result = _with_constant(call, op, result, index)
    return result


def _changes_nothing(kind: str, number: np.ndarray) -> bool:
    """Return whether it is the infinity at which JAX begins a maximum or minimum."""
    return number.size == 1 and {"Max": -np.inf, "Min": np.inf}.get(kind) == number.item()


def _of_views(call: Call, op: str, *views: View) -> View:
    rank = max(len(view.axes) for view in views)
    alike = [raised(call, view, rank) for view in views]
    axes = common_order(alike)
    return call.emit(op, [call.builder.stored(view, axes) for view in alike], axes)


def _with_constant(call: Call, op: str, view: View, index: int, **attrs: bool) -> View:
    """Append ``op`` of ``view`` and the constant at input ``index``."""
    constant = call.one_image(index)
    view = raised(call, view, max(len(view.axes), constant.ndim))
    return call.emit(op, [view.tensor], view.axes, {"constant": stored_constant(constant, view)}, **attrs)


def raised(call: Call, view: View, rank: int) -> View:
    """Return ``view`` with axes of size 1 in front, up to ``rank``."""
    extra = (1,) * (rank - len(view.axes))
    first, second = call.shape(view)
    return call.reshape(view, extra + first, extra + second) if extra else view


@handler("Concat")
def _concat(call: Call) -> View:
    values = [call.get(k) for k in range(len(call.node.input))]
    rank = next(len(value.axes) for value in values if isinstance(value, View))
    given = [value if isinstance(value, View) else call.one_image(index) for index, value in enumerate(values)]
    return joined(call, given, call.attr("axis", 1) % rank)


@handler(*_REDUCTIONS)
def _reduce(call: Call) -> View:
    view = call.view()
    rank = len(view.axes)
    axes = call.constant(1, "axes")
    if axes is None or not axes.size:
        if call.attr("noop_with_empty_axes", 0):
            return view
        axes = np.arange(rank)
    axes = sorted({int(axis) % rank for axis in axes.reshape(-1)})
    images = call.batch_axis(view)
    if images in axes and call.batch == call.own_shape(view)[images] == 1:
        return _reduced_batch_of_one(call, view, axes, images)
    call.refuse_batch(view, axes, "a reduction over the batch")
    stored = tuple(sorted(view.axes[axis] for axis in axes))
    keep = bool(call.attr("keepdims", 1))
    left = view.axes
    if not keep:
        kept = [view.axes[axis] for axis in range(rank) if axis not in axes]
        left = tuple(sorted(kept).index(axis) for axis in kept)
    return call.emit(_REDUCTIONS[call.node.op_type], [view.tensor], left, axes=stored, keepdims=keep)


def _reduced_batch_of_one(call: Call, view: View, axes: Sequence[int], images: int) -> View:
    """Return the reduction over the other axes: over the only image of a batch there is nothing to reduce."""
    shape = [size for k, size in enumerate(call.own_shape(view)) if k not in axes]
    others = tuple(sorted(view.axes[axis] for axis in axes if axis != images))
    if others:
        view = call.emit(_REDUCTIONS[call.node.op_type], [view.tensor], view.axes, axes=others, keepdims=True)
    return view if call.attr("keepdims", 1) else call.regroup(view, shape)


@handler("Softmax")
def _softmax(call: Call) -> View:
    view = call.view()
    rank = len(view.axes)
    axis = call.attr("axis", -1 if call.version >= 13 else 1) % rank
    # Before operator set 13 everything from the axis on was one axis.
    axes = [axis] if call.version >= 13 else range(axis, rank)
    call.refuse_batch(view, axes, "softmax over the batch")
    return call.same_order("softmax", axes=tuple(sorted(view.axes[k] for k in axes)))


@handler("Identity", "Dropout")
def _identity(call: Call) -> View:
    if call.node.op_type == "Dropout":
        training = call.constant(2)
        if training is not None and bool(training):
            raise call.refuse("dropout in training mode")
    return call.view()


@handler("Transpose")
def _transpose(call: Call) -> View:
    view = call.view()
    order = call.attr("perm", tuple(reversed(range(len(view.axes)))))
    return view.permute(order)


def _reshaped(call: Call, rule: Callable[[tuple[int, ...], int], tuple[int, ...]]) -> View:
    """Return the input with the shape that ``rule`` makes of its shape at each probe."""
    view = call.view()
    first, second = call.shape(view)
    return call.reshape(view, rule(first, 0), rule(second, 1))


@handler("Flatten")
def _flatten(call: Call) -> View:
    if call.batch is not None:
        own = call.own_shape(call.view())
        axis = call.attr("axis", 1)
        axis = axis % len(own) if axis < 0 else axis
        return call.regroup(call.view(), (prod(own[:axis]), prod(own[axis:])))

    def rule(shape: tuple[int, ...], _: int) -> tuple[int, ...]:
        axis = call.attr("axis", 1)
        axis = axis % len(shape) if axis < 0 else axis
        return prod(shape[:axis]), prod(shape[axis:])

    return _reshaped(call, rule)


@handler("Reshape")
def _reshape(call: Call) -> View:
    view = call.view()
    shapes, targets = call.shape(view), []
    for shape, target in zip(shapes, call.constants(1, "shape"), strict=True):
        copied = not call.attr("allowzero", 0)
        if copied and any(size == 0 and k >= len(shape) for k, size in enumerate(target)):
            raise call.refuse(f"a reshape from {shape} to {tuple(target)}")
        targets.append([shape[k] if size == 0 and copied else int(size) for k, size in enumerate(target)])
    if targets[0] != targets[1] or call.batch_axis(view) is None or (call.batch is None and targets[0][:1] == [-1]):
        filled = [_filled(call, shape, target) for shape, target in zip(shapes, targets, strict=True)]
        return call.reshape_to(view, filled)
    # The target names the batch size: the declared one; else the only one that it fits, or 1.
    target, batch = targets[0], call.batch
    if batch is None:
        batch = 1 if -1 in target else prod(target) // prod(call.own_shape(view, 1))
        if -1 in target and target[0] != 1:
            raise call.refuse(f"a reshape to {tuple(target)}, which leaves no axis to the batch: its size is free")
    return call.regroup(view, _filled(call, call.own_shape(view, batch), target), batch)


def _filled(call: Call, shape: Sequence[int], target: Sequence[int]) -> tuple[int, ...]:
    """Return ``target`` with its −1 replaced by what a reshape of ``shape`` leaves."""
    total, rest = prod(shape), prod(size for size in target if size != -1)
    filled = tuple(total // max(rest, 1) if size == -1 else size for size in target)
    if prod(filled) != total:
        raise call.refuse(f"a reshape from {tuple(shape)} to {tuple(target)}")
    return filled


@handler("Expand")
def _expand(call: Call) -> View:
    targets = [tuple(map(int, target)) for target in call.constants(1)]
    view = call.view()
    view = raised(call, view, max(len(view.axes), *(len(target) for target in targets)))
    shapes, own = call.shape(view), call.own_shape(view)
    targets = [(1,) * (len(own) - len(target)) + target for target in targets]
    shape: list[int | None] = [None] * len(own)
    for axis, (now, first, second) in enumerate(zip(own, *targets, strict=True)):
        if axis == call.batch_axis(view):
            if {first, second} <= {1, now} or (first, second) == (shapes[0][axis], shapes[1][axis]):
                continue
            raise call.refuse(f"a repetition of the batch up to {first}")
        if first not in {1, now}:
            if first != second:
                raise call.refuse("a repetition whose number depends on the batch size")
            shape[view.axes[axis]] = first
    return call.emit("broadcast", [view.tensor], view.axes, shape=tuple(shape))


@handler("Tile")
def _tile(call: Call) -> View:
    view, copies = call.view(), [int(count) for count in call.constant(1)]
    own = call.own_shape(view)
    if min(copies, default=1) < 1 or len(copies) != len(own):
        raise call.refuse(f"{copies} copies of a tensor of {len(own)} axes")
    call.refuse_batch(view, [axis for axis, count in enumerate(copies) if count > 1], "a repetition of the batch")
    repeated = {view.axes[axis]: count for axis, count in enumerate(copies) if count > 1 and own[axis] == 1}
    if repeated:
        shape = tuple(repeated.get(axis) for axis in range(len(own)))
        view = call.emit("broadcast", [view.tensor], view.axes, shape=shape)
    for axis, count in enumerate(copies):
        if own[axis] > 1:
            view = joined(call, [view] * count, axis)
    return view


@handler("Squeeze")
def _squeeze(call: Call) -> View:
    view, given = call.view(), call.constant(1, "axes")
    # Where the batch size is free, an axis that holds images is none of size 1.
    own = call.own_shape(view, None if call.batch else 2)
    units = [k for k, size in enumerate(own) if size == 1]
    axes = units if given is None else sorted({int(axis) % len(own) for axis in given.reshape(-1)})
    images = call.batch_axis(view)
    if images in axes and call.batch is None:
        raise call.refuse("dropping the axis of the batch, whose size is free")
    if not set(axes) <= set(units):
        raise call.refuse(f"dropping the axes {axes} of {own}; each must be of size 1")

    def rule(shape: tuple[int, ...], _: int = 0) -> tuple[int, ...]:
        return tuple(size for k, size in enumerate(shape) if k not in axes)

    return call.regroup(view, rule(own)) if images in axes else _reshaped(call, rule)


@handler("Unsqueeze")
def _unsqueeze(call: Call) -> View:
    axes = call.constant(1, "axes").reshape(-1)

    def rule(shape: tuple[int, ...], _: int) -> tuple[int, ...]:
        rank = len(shape) + len(axes)
        new = {int(axis) % rank for axis in axes}
        rest = iter(shape)
        return tuple(1 if k in new else next(rest) for k in range(rank))

    return _reshaped(call, rule)


@handler("Slice")
def _slice(call: Call) -> View:
    view = call.view()
    shapes = call.shape(view)
    rank = len(view.axes)
    starts, ends = call.constants(1, "starts"), call.constants(2, "ends")
    axes, steps = call.constant(3, "axes"), call.constant(4)
    axes = range(len(starts[0])) if axes is None else [int(axis) % rank for axis in axes]
    images = call.batch_axis(view)
    slices: list[tuple[int | None, int | None, int]] = [(None, None, 1)] * rank
    for k, axis in enumerate(axes):
        step = 1 if steps is None else int(steps[k])
        bounds = [(int(start[k]), int(end[k])) for start, end in zip(starts, ends, strict=True)]
        if axis == images:
            _check_whole(call, [shape[axis] for shape in shapes], call.own_shape(view)[axis], bounds, step)
            continue
        taken, other = (range(shapes[0][axis])[start:end:step] for start, end in bounds)
        if taken != other:
            raise call.refuse("a slice that depends on the batch size")
        slices[view.axes[axis]] = (taken.start, None if taken.stop < 0 else taken.stop, step)
    return call.same_order("slice", slices=tuple(slices))


def _check_whole(call: Call, sizes: Sequence[int], own: int, bounds: Sequence[tuple[int, int]], step: int) -> None:
    """Refuse a slice of the batch that may leave out an image, or reorders them."""
    start, end = bounds[0]
    if bounds[0] != bounds[1]:
        whole = all(len(range(size)[start:end]) == size for size, (start, end) in zip(sizes, bounds, strict=True))
    elif call.batch is not None:
        whole = len(range(own)[start:end]) == own
    else:
        # Beyond 32 bits means as far as there are images; any other number leaves images out of a large batch.
        whole = (start == 0 or start <= -_UNBOUNDED) and end >= _UNBOUNDED
    if step != 1 and not (whole and own == call.batch == 1):
        whole = False
    if not whole:
        raise call.refuse("a slice of the batch dimension")


@handler("Split")
def _split(call: Call) -> tuple[View, ...]:
    view = call.view()
    axis = call.attr("axis", 0) % len(view.axes)
    if len(call.node.output) == 1:
        return (view,)
    call.refuse_batch(view, [axis], "a split of the batch")
    length = call.shape(view)[0][axis]
    sizes = call.constant(1, "split")
    if sizes is None:
        each = math.ceil(length / len(call.node.output))
        sizes = [min(each, length - k * each) for k in range(len(call.node.output))]
    parts, start = [], 0
    for size, output in zip(sizes, call.node.output, strict=True):
        slices: list[tuple[int | None, int | None, int]] = [(None, None, 1)] * len(view.axes)
        slices[view.axes[axis]] = (start, start + int(size), 1)
        start += int(size)
        tensor = call.builder.emit(
            "slice", [view.tensor], name=call.name, output=output, attrs={"slices": tuple(slices)}
        )
        parts.append(View(tensor, view.axes))
    return tuple(parts)
