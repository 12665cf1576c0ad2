"""One rule per JAX primitive: what it is in the project's own graph."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ggdjax.network._builder import Constant, View, channels_last, common_order, stored_constant, without_repeats
from ggdjax.network._choices import chosen, masked, sign
from ggdjax.network._ops import window_counts
from ggdjax.network._products import product_of_views, product_over, product_with_weight
from ggdjax.network.jaxpr._call import Call, Comparison
from ggdjax.network.jaxpr._lrn import note_channel_sum, response_norm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_UNARY = {
    "abs": "abs",
    "atan": "atan",
    "erf": "erf",
    "exp": "exp",
    "log": "log",
    "logistic": "sigmoid",
    "sqrt": "sqrt",
    "tanh": "tanh",
}
_BINARY = {"add": "add", "sub": "sub", "mul": "mul", "div": "div", "max": "maximum", "min": "minimum"}


#: primitive -> rule that translates one equation of it.
RULES: dict[str, Callable[[Call], Any]] = {}


def rule(*primitives: str) -> Callable[[Any], Any]:
    """Register a function as the translation of primitives."""

    def register(function: Any) -> Any:
        for primitive in primitives:
            RULES[primitive] = function
        return function

    return register


@rule(*_UNARY)
def _unary(call: Call) -> View:
    view = call.view()
    return call.emit(_UNARY[call.primitive], [view.tensor], view.axes)


@rule("sign")
def _sign(call: Call) -> View:
    return sign(call, call.view())


@rule("expm1", "log1p")
def _beside_one(call: Call) -> View:
    """Write exp(x) − 1 and log(1 + x) out: near 0 they lose digits of float32, none that quantization keeps."""
    view = call.view()
    one = {"constant": np.ones((1,) * len(view.axes), np.float32)}
    if call.primitive == "expm1":
        return call.emit("sub", [call.emit("exp", [view.tensor], view.axes).tensor], view.axes, one)
    return call.emit("log", [call.emit("add", [view.tensor], view.axes, one).tensor], view.axes)


@rule("sinh", "cosh")
def _hyperbolic(call: Call) -> View:
    view = call.view()
    half = {"constant": np.full((1,) * len(view.axes), 0.5, np.float32)}
    powers = [call.emit("exp", [each.tensor], view.axes) for each in (view, _negative(call, view))]
    op = "sub" if call.primitive == "sinh" else "add"
    return call.emit("mul", [call.emit(op, [each.tensor for each in powers], view.axes).tensor], view.axes, half)


@rule("exp2")
def _exp2(call: Call) -> View:
    view = call.view()
    factor = {"constant": np.full((1,) * len(view.axes), np.log(2), np.float32)}
    return call.emit("exp", [call.emit("mul", [view.tensor], view.axes, factor).tensor], view.axes)


@rule("erfc")
def _erfc(call: Call) -> View:
    view = call.view()
    erf = call.emit("erf", [view.tensor], view.axes)
    one = np.ones((1,) * len(view.axes), np.float32)
    return call.emit("sub", [erf.tensor], view.axes, {"constant": one}, reverse=True)


@rule("copy", "copy_p", "stop_gradient", "reduce_precision", "optimization_barrier", "sharding_constraint")
def _identity(call: Call) -> Any:
    return list(call.inputs)


@rule("convert_element_type")
def _convert(call: Call) -> Any:
    before = call.builder.producer(call.inputs[0].tensor) if isinstance(call.inputs[0], View) else None
    if before is not None and before.op == "argmax":  # an index is an integer as it is
        return call.view()
    if isinstance(condition := call.inputs[0], Comparison):
        return _chosen(call, condition, np.float32(1), np.float32(0))
    if not jax.numpy.issubdtype(call.param("new_dtype"), jax.numpy.floating):
        raise call.refuse(f"a conversion of an activation to or from {call.param('new_dtype')}")
    return call.view()


@rule("neg")
def _negate(call: Call) -> View:
    return _negative(call, call.view())


@rule("square", "integer_pow", "pow", "rsqrt")
def _power(call: Call) -> View:
    view = call.view()
    match call.primitive:
        case "square":
            exponent = 2.0
        case "rsqrt":
            exponent = -0.5
        case "integer_pow":
            exponent = float(call.param("y"))
        case _:
            exponents = call.constant(1)
            if exponents.min() != exponents.max():
                raise call.refuse("a power that differs between elements")
            exponent = float(exponents.reshape(-1)[0])
    return call.emit("power", [view.tensor], view.axes, exponent=exponent)


@rule(*_BINARY)
def _binary(call: Call) -> View:
    op = _BINARY[call.primitive]
    if all(isinstance(value, View) for value in call.inputs):
        views = [call.view(0), call.view(1)]
        if op == "div" and (normalized := response_norm(call, *views)) is not None:
            return normalized
        axes = common_order(views)
        return call.emit(op, [call.builder.stored(view, axes) for view in views], axes)
    which = 0 if isinstance(call.inputs[0], Constant) else 1
    view = call.view(1 - which)
    # A constant repeats what has one element there.
    repeated = [
        k for k, (size, out) in enumerate(zip(call.shape(view)[0], call.out_shape[0], strict=False)) if size != out
    ]
    constant = small(call, which, repeated)
    if op == "maximum" and (constant == -np.inf).all():
        return view  # softmax protects itself against empty axes
    if op == "div" and which == 1:
        mean = _mean(call, view, constant)
        if mean is not None:
            return mean
    attrs = {"reverse": True} if which == 0 and op in {"sub", "div"} else {}
    stored = stored_constant(constant, view)
    if (normalized := _normalization(call, which, view, stored)) is not None:
        return normalized
    return call.emit(op, [view.tensor], view.axes, {"constant": stored}, **attrs)


def _normalization(call: Call, which: int, view: View, factor: np.ndarray) -> View | None:
    """Return the product with γ/σ behind the subtraction of a mean, as an `affine` node that knows γ; else None."""
    spread, before = call.inputs[which].spread, call.builder.producer(view.tensor)
    if spread is None or call.primitive not in {"mul", "div"} or (call.primitive == "div" and which == 0):
        return None
    chan = factor.size
    if chan != factor.shape[-1] or chan == 1 or chan != call.builder.stored_shape(view.tensor)[-1]:
        return None
    divides = call.primitive == "div"
    if spread[0] != (1 if divides else -1) or before is None or before.op != "sub" or before.param("constant") is None:
        return None
    gain = stored_constant(without_repeats(np.asarray(spread[1], np.float32)), view)
    gain = np.broadcast_to(gain.reshape(-1), (chan,))
    factor, gain = (1 / factor, 1 / gain) if divides else (factor, gain)
    zeros = np.zeros(chan, np.float32)
    params = {"scale": factor.reshape(-1), "offset": zeros, "mean": zeros, "deviation": np.abs(gain)}
    return call.emit("affine", [view.tensor], view.axes, params)


def small(call: Call, index: int, kept: Sequence[int] = ()) -> np.ndarray:
    """Return a constant operand without the axes along which it only repeats a value (the batch above all).

    The axes ``kept`` stay as they are.
    """
    probes = []
    for value in call.constants(index):
        probes.append(without_repeats(np.asarray(value, np.float32), kept))
    if not np.array_equal(*probes):
        raise call.refuse("a constant whose values depend on the batch size")
    return probes[0]


def _mean(call: Call, view: View, divisor: np.ndarray) -> View | None:
    """Return the mean that a sum (of axes, or of pooling windows) divided by its number of terms is; else None."""
    if view.tensor not in call.trace.sums:
        return None
    kind, source, attrs = call.trace.sums[view.tensor]
    if kind == "sum":
        if divisor.size != 1 or float(divisor.reshape(-1)[0]) != attrs["count"]:
            return None
        return call.emit("mean", [source], view.axes, axes=attrs["axes"], keepdims=attrs["keepdims"])
    if divisor.size == 1 and float(divisor.reshape(-1)[0]) == prod(attrs["window"]):
        return call.emit("average_pool", [source], view.axes, **attrs)
    stored = stored_constant(divisor, view)
    sizes, sizes_out = (call.builder.stored_shape(tensor)[1:-1] for tensor in (source, view.tensor))
    arguments = [attrs[name] for name in ("window", "strides", "padding", "dilation")]
    counts = window_counts(sizes, sizes_out, *arguments, count_padding=False)[None, ..., None]
    if stored.shape[0] == stored.shape[-1] == 1 and (stored == counts).all():
        uncounted = attrs | {"count_padding": False}
        return call.emit("average_pool", [source], view.axes, **uncounted)
    return None


@rule("clamp")
def _clamp(call: Call) -> View:
    view = call.view(1)
    low, high = (float(scalar(call, index)) for index in (0, 2))
    return call.emit("clip", [view.tensor], view.axes, low=low, high=high)


def scalar(call: Call, index: int) -> float:
    value = small(call, index)
    if value.size != 1:
        raise call.refuse("limits that differ between elements")
    return float(value.reshape(-1)[0])


@rule("gt", "ge", "lt", "le", "eq", "ne")
def _compare(call: Call) -> Comparison | Constant:
    if call.primitive == "ne" and call.inputs[0] == call.inputs[1] and isinstance(call.inputs[0], View):
        # It asks for NaN: `jax.nn.softplus` does so.
        return Constant(*(np.zeros(shape, bool) for shape in call.shape(call.inputs[0])))
    which = 0 if isinstance(call.inputs[0], View) else 1
    view, other, threshold = call.view(which), call.inputs[1 - which], 0.0
    if isinstance(other, View):  # x against y is x − y against zero
        axes = common_order([view, other])
        view = call.emit("sub", [call.builder.stored(one, axes) for one in (view, other)], axes)
    elif (numbers := small(call, 1 - which)).size == 1:
        threshold = float(numbers.reshape(-1)[0])
    else:
        view = call.emit("add", [view.tensor], view.axes, {"constant": stored_constant(-numbers, view)})
    if call.primitive in {"eq", "ne"}:
        return Comparison(view, threshold=threshold, equal=True, positive=call.primitive == "eq")
    positive = (call.primitive in {"gt", "ge"}) == (which == 0)
    # x < c is the contrary of x ≥ c, x ≤ c that of x > c.
    strict = (call.primitive in {"gt", "lt"}) == positive
    return Comparison(view, threshold=threshold, strict=strict, positive=positive)


@rule("not")
def _not(call: Call) -> Comparison:
    condition = call.inputs[0]
    if not isinstance(condition, Comparison):
        raise call.refuse("the bits of an activation")
    return condition.contrary()


@rule("is_finite")
def _is_finite(call: Call) -> Constant:
    """Take every value for finite, as networks are: `jax.nn.logsumexp` asks."""
    return Constant(*(np.ones(shape, bool) for shape in call.shape(call.view())))


@rule("select_n")
def _select(call: Call) -> View:
    condition, on_false, on_true = call.inputs if len(call.inputs) == 3 else (None, None, None)
    if isinstance(on_false, Comparison) or isinstance(on_true, Comparison):
        raise call.refuse("a choice between comparisons")
    if isinstance(condition, Comparison):
        above, below = (on_true, on_false) if condition.positive else (on_false, on_true)
        view = condition.view
        if condition.threshold == 0 and not condition.equal and above == view:
            if isinstance(below, Constant) and not np.any(small(call, call.inputs.index(below))):
                return call.emit("relu", [view.tensor], view.axes)
            slope = call.builder.constant_factor(below.tensor, view.tensor) if isinstance(below, View) else None
            if slope is not None and below.axes == view.axes:
                if slope.size == 1:
                    return call.emit("leaky_relu", [view.tensor], view.axes, slope=float(slope.reshape(-1)[0]))
                return call.emit("prelu", [view.tensor], view.axes, {"slope": slope})
        branches = (b if isinstance(b, View) else small(call, call.inputs.index(b)) for b in (on_true, on_false))
        return _chosen(call, condition, *branches)
    if isinstance(condition, Constant) and (mask := small(call, 0)).size == 1:
        # `x.var()` asks whether it divides by a positive number.
        value = on_true if mask.item() else on_false
        if isinstance(value, View):
            return value
    if isinstance(condition, Constant):
        if not any(isinstance(value, View) for value in (on_true, on_false)):
            raise call.refuse("a choice between constants")
        branches = (b if isinstance(b, View) else small(call, call.inputs.index(b)) for b in (on_true, on_false))
        return masked(call, small(call, 0) != 0, *branches)
    raise call.refuse("a choice by anything but the comparison of a tensor with a number")


def _chosen(call: Call, condition: Comparison, *branches: View | np.ndarray) -> View:
    """Return the first of the branches where the condition holds, the second elsewhere."""
    view = condition.view
    if any(isinstance(branch, View) and call.shape(branch) != call.shape(view) for branch in branches):
        raise call.refuse("a choice between tensors of another shape than the one that is compared")
    axes = common_order([view, *(branch for branch in branches if isinstance(branch, View))])
    stored = View(call.builder.stored(view, axes), tuple(axes))
    first, second = (
        call.builder.stored(branch, axes) if isinstance(branch, View) else stored_constant(branch, stored)
        for branch in branches
    )
    return chosen(call, condition, stored, first, second)


@rule("conv_general_dilated")
def _conv(call: Call) -> View:
    numbers = call.param("dimension_numbers")
    if call.param("batch_group_count") != 1:
        raise call.refuse("a convolution grouped by the batch")
    view = call.view(0).permute(numbers.lhs_spec)
    out_features, in_features, *space = numbers.rhs_spec
    kernel = call.constant(1).transpose((*space, in_features, out_features))
    rank = len(view.axes)
    last = channels_last(rank)
    order = [0] * rank
    for axis, position in enumerate(numbers.out_spec):
        order[position] = last[axis]
    spreading, padding = ints(call.param("lhs_dilation")), [ints(pair) for pair in call.param("padding")]
    # Integer programs and other formats only pad.
    source, padding = call.builder.uncropped(call.builder.stored(view, last), padding, spreading, f"{view.tensor}.crop")
    return call.emit(
        "conv",
        [source],
        order,
        {"kernel": kernel},
        strides=ints(call.param("window_strides")),
        padding=padding,
        dilation=ints(call.param("rhs_dilation")),
        groups=int(call.param("feature_group_count")),
        **({"input_dilation": spreading} if max(spreading, default=1) > 1 else {}),
    )


def ints(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


@rule("dot_general")
def _dot(call: Call) -> View:
    contract, batch = call.param("dimension_numbers")
    if all(isinstance(value, View) for value in call.inputs):
        return product_of_views(call, [call.view(0), call.view(1)], contract, batch)
    which = 0 if isinstance(call.inputs[0], View) else 1
    view, weight = call.view(which), call.constant(1 - which)
    order = (which, 1 - which)
    contract, batch = [contract[k] for k in order], [batch[k] for k in order]
    result = product_with_weight(call, view, weight, contract, batch)
    if which == 0:
        return result
    shared, columns = len(batch[0]), weight.ndim - len(contract[1]) - len(batch[0])
    count = len(result.axes) - columns
    return result.permute((*range(shared), *range(count, count + columns), *range(shared, count)))


def each(probes: tuple, function: Any) -> tuple:
    return function(probes[0]), function(probes[1])


@rule("reduce_window_max", "reduce_window_min", "reduce_window_sum")
def _pool(call: Call) -> View:
    view = call.view()
    rank = len(view.axes)
    window = ints(call.param("window_dimensions"))
    strides, padding, dilation = (call.param(name) for name in ("window_strides", "padding", "window_dilation"))
    still = [k for k in range(rank) if window[k] == strides[k] == 1 and not any(padding[k])]
    if 0 not in still or len(still) < 2 or any(step != 1 for step in call.param("base_dilation")):
        raise call.refuse("pooling over the batch, or over every axis")
    channel = still[-1] if still[-1] == rank - 1 else still[1]
    order = (0, channel, *(axis for axis in range(1, rank) if axis != channel))
    space = order[2:]
    if call.primitive == "reduce_window_min":
        view = _negative(call, view)
    last = channels_last(rank)
    source = call.builder.stored(view.permute(order), last)
    result = [0] * rank
    for axis, position in enumerate(order):
        result[position] = last[axis]
    attrs = {
        "window": tuple(window[axis] for axis in space),
        "strides": tuple(int(strides[axis]) for axis in space),
        "padding": tuple(ints(padding[axis]) for axis in space),
        "dilation": tuple(int(dilation[axis]) for axis in space),
    }
    if call.primitive != "reduce_window_sum":
        found = call.emit("max_pool", [source], result, **attrs)
        return found if call.primitive == "reduce_window_max" else _negative(call, found)
    attrs |= {"overhang": (0,) * len(space), "count_padding": True}
    mean = call.emit("average_pool", [source], result, **attrs)
    size = np.full((1,) * rank, prod(attrs["window"]), np.float32)
    total = call.emit("mul", [mean.tensor], result, {"constant": size})
    call.trace.sums[total.tensor] = ("pool", source, attrs)
    note_channel_sum(call, view, total)
    return total


@rule("reduce_sum", "reduce_max")
def _reduce(call: Call) -> View:
    view = call.view()
    axes = ints(call.param("axes"))
    if not axes:
        return view
    call.refuse_batch(view, axes, "a reduction over the batch (batch normalization in training mode?)")
    stored = tuple(sorted(view.axes[axis] for axis in axes))
    kept = [position for axis, position in enumerate(view.axes) if axis not in axes]
    order = [sorted(kept).index(position) for position in kept]
    op = "sum" if call.primitive == "reduce_sum" else "max"
    result = call.emit(op, [view.tensor], order, axes=stored, keepdims=False)
    if op == "sum":
        count = prod(call.shape(view)[0][axis] for axis in axes)
        attrs = {"axes": stored, "keepdims": False, "count": count, "view": view, "reduced": axes, "result": result}
        call.trace.sums[result.tensor] = ("sum", view.tensor, attrs)
    return result


@rule("reduce_min", "reduce_prod", "argmax", "argmin")
def _reduce_by_others(call: Call) -> View:
    view, axes = call.view(), ints(call.param("axes"))
    if call.primitive == "reduce_prod":
        return product_over(call, view, axes, keepdims=False)
    call.refuse_batch(view, axes, "a reduction over the batch")
    stored = tuple(sorted(view.axes[axis] for axis in axes))
    kept = [position for axis, position in enumerate(view.axes) if axis not in axes]
    order = [sorted(kept).index(position) for position in kept]
    turned = call.primitive != "argmax"
    if turned:
        view = _negative(call, view)
    op = "max" if call.primitive == "reduce_min" else "argmax"
    found = call.emit(op, [view.tensor], order, axes=stored, keepdims=False)
    return _negative(call, found) if op == "max" else found


def _negative(call: Call, view: View) -> View:
    return call.emit("mul", [view.tensor], view.axes, {"constant": np.full((1,) * len(view.axes), -1.0, np.float32)})
