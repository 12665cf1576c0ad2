"""One function per operation of the graph: the ONNX nodes that compute it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import UnsupportedError
from ggdjax.network._builder import View, common_order, stored_constant
from ggdjax.network.onnx._model_writer import Writer, channels_first, stored_attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ggdjax.network._graph import Node

_UNARY = {
    "abs": "Abs",
    "atan": "Atan",
    "erf": "Erf",
    "exp": "Exp",
    "log": "Log",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}
_BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "maximum": "Max", "minimum": "Min"}
_REDUCTIONS = {"mean": "ReduceMean", "sum": "ReduceSum", "max": "ReduceMax"}
#: From this operator set on the axes of a reduction are an input, before they are an attribute.
_AXES_AS_INPUT = {"mean": 18, "sum": 13, "max": 18}
_NO_START, _NO_STOP = np.iinfo(np.int64).min, np.iinfo(np.int64).max

WRITERS: dict[str, Callable[[Writer, Node], View]] = {}


def writes(*ops: str) -> Callable[[Any], Any]:
    """Register a function as the writer of operations."""

    def register(function: Any) -> Any:
        for op in ops:
            WRITERS[op] = function
        return function

    return register


def write_node(writer: Writer, node: Node) -> View:
    """Append the ONNX nodes that compute ``node`` and return how its result is stored."""
    return WRITERS[node.op](writer, node)


def _needs(writer: Writer, node: Node, opset: int, what: str) -> None:
    if writer.opset < opset:
        raise UnsupportedError(
            f"node `{node.name}` ({node.op}) has {what}, which operator set {writer.opset} lacks: give `opset={opset}`"
        )


def _same_order(writer: Writer, node: Node, operator: str, inputs: Sequence[str] = (), **attributes: Any) -> View:
    """Append an elementwise node, which keeps the order in which its first input is stored."""
    view = writer.view(node)
    return View(writer.node(operator, [view.tensor, *inputs], node.name, **attributes), view.axes)


def _spatial(writer: Writer, node: Node, operator: str, inputs: Sequence[str] = (), **attributes: Any) -> View:
    """Append a node that reads its input and leaves its result channels first."""
    axes = channels_first(writer.rank(node))
    source = writer.stored(writer.view(node), axes)
    return View(writer.node(operator, [source, *inputs], node.name, **attributes), axes)


def _pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    """Return ONNX's order: what comes before every axis, then what comes after."""
    return [low for low, _ in padding] + [high for _, high in padding]


@writes("conv")
def _conv(writer: Writer, node: Node) -> View:
    kernel, bias = writer.param(node, "kernel"), writer.param(node, "bias")
    if (transposed := _transposed_conv(writer, node, kernel, bias)) is not None:
        return transposed
    inputs = [writer.constant(np.moveaxis(kernel, (-1, -2), (0, 1)), node.param("kernel"))]
    if bias is not None:
        inputs.append(writer.constant(bias, node.param("bias")))
    padding = node.attr("padding")
    axes = channels_first(writer.rank(node))
    source = spread_node(writer, node, writer.stored(writer.view(node), axes))
    if min(map(min, padding)) < 0:
        # A convolution that crops: only `Pad` takes negative amounts.
        amounts = writer.integers(_pads([(0, 0), (0, 0), *padding]))
        source = writer.node("Pad", [source, amounts], f"{node.name}.pad")
        padding = [(0, 0)] * len(padding)
    output = writer.node(
        "Conv",
        [source, *inputs],
        node.name,
        kernel_shape=kernel.shape[:-2],
        strides=node.attr("strides"),
        pads=_pads(padding),
        dilations=node.attr("dilation"),
        group=node.attr("groups"),
    )
    return View(output, axes)


def _transposed_conv(writer: Writer, node: Node, kernel: np.ndarray, bias: np.ndarray | None) -> View | None:
    """Write the transposed convolution that a convolution with zeros between its inputs is; None where it is none."""
    spreading, dilation, groups = dict(node.attrs).get("input_dilation"), node.attr("dilation"), node.attr("groups")
    if spreading is None or max(node.attr("strides")) > 1:
        return None
    window, pads, more = kernel.shape[:-2], [], []
    for taps, step, (low, high) in zip(window, dilation, node.attr("padding"), strict=True):
        reach = (taps - 1) * step
        pads.append((reach - low, max(reach - high, 0)))
        more.append(max(high - reach, 0))
    # Runtimes want less of that padding than what a value is spread by.
    if min(low for low, _ in pads) < 0 or any(extra >= step for extra, step in zip(more, spreading, strict=True)):
        return None
    axes = channels_first(writer.rank(node))
    weights = np.flip(kernel, range(len(window))).reshape(*window, kernel.shape[-2], groups, -1)
    weights = np.moveaxis(weights, (-2, -3, -1), (0, 1, 2))
    inputs = [writer.constant(weights.reshape(-1, *weights.shape[2:]), node.param("kernel"))]
    if bias is not None:
        inputs.append(writer.constant(bias, node.param("bias")))
    output = writer.node(
        "ConvTranspose",
        [writer.stored(writer.view(node), axes), *inputs],
        node.name,
        kernel_shape=window,
        strides=spreading,
        pads=_pads(pads),
        output_padding=more,
        dilations=dilation,
        group=groups,
    )
    return View(output, axes)


def spread_node(writer: Writer, node: Node, source: str) -> str:
    """Write the zeros that a node puts between the values of its input, channels first; nothing where it puts none."""
    attrs = dict(node.attrs)
    factors = attrs.get("factors", attrs.get("input_dilation"))
    if factors is None:
        return source
    _, *space, channels = writer.graph.shape(node.inputs[0])
    name = f"{node.name}.spread"
    apart = [n for size in space for n in (size, 1)]
    ends = [(0, 0), (0, 0), *(ends for factor in factors for ends in ((0, 0), (0, factor - 1)))]
    axes = range(2, 2 + len(space))
    # A zero in the shape keeps the batch.
    split = writer.node("Reshape", [source, writer.integers([0, channels, *apart])], name)
    padded = writer.node("Pad", [split, writer.integers(_pads(ends))], name)
    whole = [size * factor for size, factor in zip(space, factors, strict=True)]
    joined = writer.node("Reshape", [padded, writer.integers([0, channels, *whole])], name)
    stops = [size - factor + 1 for size, factor in zip(whole, factors, strict=True)]
    limits = [writer.integers(values) for values in ([0] * len(space), stops, axes)]
    return writer.node("Slice", [joined, *limits], name)


@writes("dense")
def _dense(writer: Writer, node: Node) -> View:
    rank = writer.rank(node)
    source = writer.native(writer.view(node))
    inputs = [source, writer.constant(writer.param(node, "kernel"), node.param("kernel"))]
    bias = writer.param(node, "bias")
    if bias is not None:
        inputs.append(writer.constant(bias, node.param("bias")))
    own = tuple(range(rank))
    if rank == 2:
        return View(writer.node("Gemm", inputs, node.name), own)
    output = writer.node("MatMul", inputs[:2], node.name)
    if bias is not None:
        output = writer.node("Add", [output, inputs[2]], f"{node.name}.bias")
    return View(output, own)


@writes("matmul")
def _matmul(writer: Writer, node: Node) -> View:
    return matmul_node(writer, node, [writer.view(node, k) for k in (0, 1)])


def matmul_node(writer: Writer, node: Node, operands: Sequence[View]) -> View:
    """Write the product of two stored tensors."""
    output = writer.node("MatMul", [writer.native(view) for view in operands], node.name)
    return View(output, tuple(range(len(operands[0].axes))))


@writes("affine")
def _affine(writer: Writer, node: Node) -> View:
    view = writer.view(node)
    scale, offset = writer.param(node, "scale"), writer.param(node, "offset")
    if len(view.axes) >= 2 and view.axes[-1] == 1:
        # Batch normalization with mean 0, variance 1 and no ε is the same, and runtimes fold it.
        parts = {"scale": scale, "offset": offset, "mean": np.zeros_like(scale), "variance": np.ones_like(scale)}
        inputs = [writer.constant(value, f"{node.name}/{role}") for role, value in parts.items()]
        return _same_order(writer, node, "BatchNormalization", inputs, epsilon=0.0)
    scale, offset = (
        writer.constant(stored_constant(value, view), node.param(role))
        for role, value in (("scale", scale), ("offset", offset))
    )
    scaled = writer.node("Mul", [view.tensor, scale], f"{node.name}.scaled")
    return View(writer.node("Add", [scaled, offset], node.name), view.axes)


@writes("max_pool")
def _max_pool(writer: Writer, node: Node) -> View:
    axes = channels_first(writer.rank(node))
    source = writer.stored(writer.view(node), axes)
    return View(max_pool_node(writer, node, source, node.name, writer.number(-np.inf)), axes)


def max_pool_node(writer: Writer, node: Node, source: str, name: str, least: str) -> str:
    """Write the maximum itself, channels first; ``least`` is the number that padding stands for."""
    window, padding = node.attr("window"), node.attr("padding")
    if any(max(ends) >= taps for ends, taps in zip(padding, window, strict=True)):
        # Runtimes refuse as much padding as the window has taps, which a dilated window can have.
        amounts = writer.integers(_pads([(0, 0), (0, 0), *padding]))
        source = writer.node("Pad", [source, amounts, least], f"{name}.pad")
        padding = [(0, 0)] * len(padding)
    return writer.node(
        "MaxPool",
        [source],
        name,
        kernel_shape=window,
        strides=node.attr("strides"),
        pads=_pads(padding),
        dilations=node.attr("dilation"),
    )


@writes("average_pool")
def _average_pool(writer: Writer, node: Node) -> View:
    attributes: dict[str, Any] = {"kernel_shape": node.attr("window"), "strides": node.attr("strides")}
    if any(step != 1 for step in node.attr("dilation")):
        _needs(writer, node, 19, "a dilation")
        attributes["dilations"] = node.attr("dilation")
    axes = channels_first(writer.rank(node))
    source = writer.stored(writer.view(node), axes)
    padding, overhang = node.attr("padding"), node.attr("overhang")
    counted = node.attr("count_padding")
    if counted and any(overhang):
        # Runtimes disagree on whether ceil mode's overhang counts: padded first, it is padding that does not.
        source = writer.node("Pad", [source, writer.integers(_pads([(0, 0)] * 2 + [*padding]))], f"{node.name}.pad")
        padding, counted = [(0, 0)] * len(padding), False
    padding = [(low, high + over) for (low, high), over in zip(padding, overhang, strict=True)]
    output = writer.node(
        "AveragePool", [source], node.name, pads=_pads(padding), count_include_pad=int(counted), **attributes
    )
    return View(output, axes)


@writes("local_response_norm")
def _local_response_norm(writer: Writer, node: Node) -> View:
    return _spatial(writer, node, "LRN", **dict(node.attrs))


@writes(*_UNARY)
def _unary(writer: Writer, node: Node) -> View:
    return _same_order(writer, node, _UNARY[node.op])


@writes(*_BINARY)
def _binary(writer: Writer, node: Node) -> View:
    operator, constant = _BINARY[node.op], writer.param(node, "constant")
    if constant is None:
        axes = common_order([writer.view(node, 0), writer.view(node, 1)])
        operands = [writer.stored(writer.view(node, k), axes) for k in (0, 1)]
    else:
        view = writer.view(node)
        axes = view.axes
        operands = [view.tensor, writer.constant(stored_constant(constant, view), node.param("constant"))]
    if dict(node.attrs).get("reverse", False):
        operands.reverse()
    return View(writer.node(operator, operands, node.name), axes)


@writes("concat")
def _concat(writer: Writer, node: Node) -> View:
    views = [writer.view(node, k) for k in range(len(node.inputs))]
    axes = common_order(views)
    inputs = [writer.stored(view, axes) for view in views]
    return View(writer.node("Concat", inputs, node.name, axis=axes[node.attr("axis")]), axes)


@writes("clip")
def _clip(writer: Writer, node: Node) -> View:
    limits = ["" if limit is None else writer.number(limit) for limit in (node.attr("low"), node.attr("high"))]
    return _same_order(writer, node, "Clip", limits)


@writes("select")
def _select(writer: Writer, node: Node) -> View:
    axes = common_order([writer.view(node, k) for k in range(len(node.inputs))])
    stored = [writer.stored(writer.view(node, k), axes) for k in range(len(node.inputs))]
    threshold, rest = writer.number(node.attr("threshold")), iter(stored[1:])
    branches = [
        writer.constant(stored_constant(writer.param(node, role), View(stored[0], tuple(axes))), node.param(role))
        if node.param(role) is not None
        else next(rest)
        for role in ("above", "below")
    ]
    if node.attr("strict"):
        where = writer.node("Greater", [stored[0], threshold], f"{node.name}.where")
    else:
        # GreaterOrEqual is missing from old operator sets.
        where = writer.node(
            "Not", [writer.node("Less", [stored[0], threshold], f"{node.name}.less")], f"{node.name}.where"
        )
    return View(writer.node("Where", [where, *branches], node.name), axes)


@writes("leaky_relu")
def _leaky_relu(writer: Writer, node: Node) -> View:
    return _same_order(writer, node, "LeakyRelu", alpha=node.attr("slope"))


@writes("prelu")
def _prelu(writer: Writer, node: Node) -> View:
    slope = stored_constant(writer.param(node, "slope"), writer.view(node))
    return _same_order(writer, node, "PRelu", [writer.constant(slope, node.param("slope"))])


@writes("hard_sigmoid")
def _hard_sigmoid(writer: Writer, node: Node) -> View:
    return _same_order(writer, node, "HardSigmoid", **dict(node.attrs))


@writes("hard_swish", "silu")
def _self_gated(writer: Writer, node: Node) -> View:
    if node.op == "hard_swish" and writer.opset >= 14:
        return _same_order(writer, node, "HardSwish")
    view = writer.view(node)
    gate = {"alpha": 1 / 6, "beta": 0.5} if node.op == "hard_swish" else {}
    operator = "HardSigmoid" if gate else "Sigmoid"
    gated = writer.node(operator, [view.tensor], f"{node.name}.gate", **gate)
    return View(writer.node("Mul", [view.tensor, gated], node.name), view.axes)


@writes("round_to_grid")
def _round_to_grid(writer: Writer, node: Node) -> View:
    view, step = writer.view(node), node.attr("step")
    limits = node.attr("low"), node.attr("high")
    for integers in (np.uint8, np.int8, np.uint16, np.int16):
        info = np.iinfo(integers)
        zero = int(info.min - limits[0])
        if info.max - zero == limits[1] and info.min <= zero <= info.max:
            break
    else:
        raise UnsupportedError(f"node `{node.name}` rounds to codes {limits}, which are no integers of 8 or 16 bits")
    if np.iinfo(integers).bits == 16:
        _needs(writer, node, 21, "codes of 16 bits")
    scale, zero = writer.number(step), writer.constant(np.asarray(zero, integers), f"{node.name}/zero_point")
    code = writer.node("QuantizeLinear", [view.tensor, scale, zero], f"{node.name}.code")
    return View(writer.node("DequantizeLinear", [code, scale, zero], node.name), view.axes)


@writes("power")
def _power(writer: Writer, node: Node) -> View:
    return _same_order(writer, node, "Pow", [writer.number(node.attr("exponent"))])


@writes("softmax")
def _softmax(writer: Writer, node: Node) -> View:
    view = writer.view(node)
    axes = [view.axes[axis] for axis in node.attr("axes")]
    if len(axes) == 1:
        return _same_order(writer, node, "Softmax", axis=axes[0])
    # `Softmax` has one axis: over several it is spelled out.
    largest = reduce_node(writer, "max", view.tensor, axes, f"{node.name}.max", keepdims=True)
    shifted = writer.node("Sub", [view.tensor, largest], f"{node.name}.shifted")
    powers = writer.node("Exp", [shifted], f"{node.name}.exp")
    total = reduce_node(writer, "sum", powers, axes, f"{node.name}.sum", keepdims=True)
    return View(writer.node("Div", [powers, total], node.name), view.axes)


def reduce_node(writer: Writer, op: str, source: str, axes: Sequence[int], name: str, *, keepdims: bool) -> str:
    """Write the mean, sum or max over ``axes`` of a stored tensor and return its output."""
    axes = sorted(axes)
    if writer.opset >= _AXES_AS_INPUT[op]:
        return writer.node(_REDUCTIONS[op], [source, writer.integers(axes)], name, keepdims=int(keepdims))
    return writer.node(_REDUCTIONS[op], [source], name, keepdims=int(keepdims), axes=axes)


@writes(*_REDUCTIONS)
def _reduction(writer: Writer, node: Node) -> View:
    view, axes, keepdims = writer.view(node), node.attr("axes"), node.attr("keepdims")
    rank = len(view.axes)
    if not axes:
        # To ONNX no axis means every one.
        return _same_order(writer, node, "Identity")
    spatial = rank > 2 and tuple(sorted(axes)) == tuple(range(1, rank - 1))
    if node.op in {"mean", "max"} and spatial and keepdims:
        return _spatial(writer, node, "GlobalAveragePool" if node.op == "mean" else "GlobalMaxPool")
    stored = [view.axes[axis] for axis in axes]
    output = reduce_node(writer, node.op, view.tensor, stored, node.name, keepdims=keepdims)
    if keepdims:
        return View(output, view.axes)
    kept = [view.axes[axis] for axis in range(rank) if axis not in axes]
    return View(output, tuple(sorted(kept).index(axis) for axis in kept))


@writes("pad")
def _pad(writer: Writer, node: Node) -> View:
    mode = node.attr("mode")
    if mode == "wrap" and writer.opset < 19:
        return _wrapped(writer, node)
    amounts = writer.integers(_pads(stored_attributes(node.attr("padding"), writer.view(node))))
    value = [writer.number(node.attr("value"))] if mode == "constant" else []
    return _same_order(writer, node, "Pad", [amounts, *value], mode=mode)


def _wrapped(writer: Writer, node: Node) -> View:
    """Write padding that wraps around for operator sets without it: as the choice of elements, axis by axis."""
    view = writer.view(node)
    for axis, (low, high) in enumerate(node.attr("padding")):
        if low or high:
            size = writer.graph.shape(node.inputs[0])[axis]
            indices = writer.integers(np.arange(-low, size + high) % size)
            name = f"{node.name}.axis{axis}"
            view = View(writer.node("Gather", [view.tensor, indices], name, axis=view.axes[axis]), view.axes)
    return View(writer.node("Identity", [view.tensor], node.name), view.axes)


@writes("reshape")
def _reshape(writer: Writer, node: Node) -> View:
    shape = node.attr("shape")
    output = writer.node("Reshape", [writer.packed(node), writer.integers(shape)], node.name)
    return View(output, tuple(range(len(shape))))


@writes("transpose")
def _transpose(writer: Writer, node: Node) -> View:
    return writer.view(node).permute(node.attr("axes"))


@writes("broadcast")
def _broadcast(writer: Writer, node: Node) -> View:
    # To expand to 1 leaves an axis as it is.
    shape = [1 if size is None else size for size in node.attr("shape")]
    return _same_order(writer, node, "Expand", [writer.integers(stored_attributes(shape, writer.view(node)))])


@writes("slice")
def _slice(writer: Writer, node: Node) -> View:
    slices, view = node.attr("slices"), writer.view(node)
    moved = [axis for axis, limits in enumerate(slices) if limits != (None, None, 1)]
    if not moved:
        return view
    starts, stops = [], []
    for start, stop, step in (slices[axis] for axis in moved):
        first, last = (0, _NO_STOP) if step > 0 else (_NO_STOP, _NO_START)
        starts.append(first if start is None else start)
        stops.append(last if stop is None else stop)
    lists = (starts, stops, [view.axes[axis] for axis in moved], [slices[axis][2] for axis in moved])
    return _same_order(writer, node, "Slice", [writer.integers(values) for values in lists])


@writes("gather")
def _gather(writer: Writer, node: Node) -> View:
    axis = writer.view(node).axes[node.attr("axis")]
    return _same_order(writer, node, "Gather", [writer.integers(node.attr("indices"))], axis=axis)


@writes("argmax")
def _argmax(writer: Writer, node: Node) -> View:
    (axis,), source = node.attr("axes"), writer.native(writer.view(node))
    found = writer.node("ArgMax", [source], f"{node.name}.index", axis=axis, keepdims=int(node.attr("keepdims")))
    output = writer.node("Cast", [found], node.name, to=1)
    return View(output, tuple(range(len(writer.graph.shape(node.output)))))


@writes("resize")
def _resize(writer: Writer, node: Node) -> View:
    view, sizes = writer.view(node), node.attr("sizes")
    if node.attr("coordinates") == "half_pixel_symmetric":
        _needs(writer, node, 19, "half-pixel symmetric coordinates")
    for length, size, scale in zip(writer.graph.shape(node.inputs[0]), sizes, node.attr("scales"), strict=True):
        # Runtimes take the whole part of this float32 product as the size.
        if size is not None and int(np.float32(length) * np.float32(scale)) != size:
            raise UnsupportedError(
                f"node `{node.name}` (resize) makes {size} of {length}, which no scale in ONNX gives"
            )
    scales, cubic = np.asarray(stored_attributes(node.attr("scales"), view), np.float32), {}
    if node.attr("method") == "cubic":
        cubic = {"cubic_coeff_a": node.attr("cubic"), "exclude_outside": int(node.attr("exclude_outside"))}
    return _same_order(
        writer,
        node,
        "Resize",
        ["", writer.constant(scales, f"{node.name}/scales")],
        mode=node.attr("method"),
        coordinate_transformation_mode=node.attr("coordinates"),
        nearest_mode=node.attr("rounding"),
        **cubic,
    )
