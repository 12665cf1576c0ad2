"""The integer program in ONNX operators: 8-bit products by ConvInteger and MatMulInteger, all else in int64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import UnsupportedError
from ggdjax.datapath._formats import signed_bits
from ggdjax.datapath._rounding import Rounding
from ggdjax.network._builder import View, stored_constant
from ggdjax.network.onnx._model_writer import Writer, channels_first, stored_attributes
from ggdjax.network.onnx._writer_ops import max_pool_node, reduce_node, spread_node, write_node

if TYPE_CHECKING:
    from collections.abc import Callable

    from ggdjax.datapath._program import Program
    from ggdjax.network import Node
    from ggdjax.network._graph import Shape

#: Written as for real numbers: they only move values.
_MOVES = frozenset({"broadcast", "concat", "gather", "maximum", "minimum", "reshape", "slice", "transpose"})
#: Added before a division so that truncation becomes floor; a multiple of every 2^r, larger than any product.
_LIFT = 1 << 62


def write_integer(program: Program, writer: Writer, feature_maps: bool) -> tuple[list[Any], list[tuple[str, Shape]]]:
    """Write every node of the program in int64; int32 outputs."""
    integers = _Integers(program, writer)
    for node in program.graph.nodes:
        if node.op in _MOVES:
            writer.views[node.output] = write_node(writer, node)
        elif node.op in integers.writers:
            writer.views[node.output] = integers.writers[node.op](node)
        else:
            raise UnsupportedError(f"`{node.name}` ({node.op}) has no integer form in ONNX: export with `form='qdq'`")
    wanted = list(zip(program.network.graph.outputs, program.graph.outputs, strict=True))
    if feature_maps:
        wanted += [(f"{name}.codes", tensor) for name, tensor in program.feature_maps.items()]
    outputs = []
    for name, tensor in wanted:
        source = writer.native(writer.views[tensor])
        zero = program.formats[tensor].zero_point
        if zero:
            source = integers.do("Add", source, integers.number(zero), tensor)
        integers.do("Cast", source, name=name, exact_name=True, to=integers.kinds.INT32)
        outputs.append((name, program.graph.shape(tensor)))
    nodes, _ = writer.finish()
    # `finish` ends with the graph's own outputs, which the casts above replace.
    return nodes[: len(nodes) - len(program.graph.outputs)], outputs


class _Integers:
    """One method per operation."""

    def __init__(self, program: Program, writer: Writer) -> None:
        self.program, self.writer = program, writer
        from onnx import TensorProto

        self.kinds = TensorProto
        self.writers: dict[str, Callable[[Node], View]] = {
            "add": self.binary,
            "argmax": self.argmax,
            "conv": self.conv,
            "dense": self.dense,
            "interpolate": self.interpolate,
            "lookup": self.lookup,
            "matmul": self.matmul,
            "max": self.reduced,
            "max_pool": self.max_pool,
            "mul": self.binary,
            "offset": self.offset,
            "pad": self.pad,
            "quantize": self.quantize,
            "requantize": self.requantize,
            "requantize_by_sign": self.requantize_by_sign,
            "saturate": self.saturate,
            "spread": self.spread,
            "sub": self.binary,
            "sum_over": self.reduced,
            "sum_pool": self.sum_pool,
            "wide_mul": self.wide_mul,
        }

    def number(self, value: int) -> str:
        return self.array(np.asarray(value, np.int64), "number")

    def array(self, value: np.ndarray, name: str) -> str:
        return self.writer.constant(value, name)

    def do(self, operator: str, *inputs: str, name: str | None = None, exact_name: bool = False, **attrs: Any) -> str:
        """Append a node; without ``name`` the last input names it."""
        if name is None:
            *inputs, name = inputs  # type: ignore[assignment]
        # Names that no tensor of the network has (the tracer's are `layer/operation`) leave those of the outputs free.
        made = self.writer.node(operator, inputs, name if exact_name else f"{name}:{operator.lower()}", **attrs)
        if exact_name and made != name:
            raise UnsupportedError(f"the name `{name}` is taken in the graph: rename the network's tensor")
        return made

    def clipped(self, source: str, node: Node) -> str:
        limits = (self.number(node.attr("low")), self.number(node.attr("high")))
        return self.do("Clip", source, *limits, node.output)

    def quantize(self, node: Node) -> View:
        view = self.writer.view(node)
        scale, low, high = (self.array(np.float32(node.attr(k)), f"{node.name}/{k}") for k in ("scale", "low", "high"))
        ratio = self.do("Div", view.tensor, scale, node.name)
        # `Round` takes halves to even.
        rounded = self.do("Round", self.do("Clip", ratio, low, high, node.name), node.name)
        return View(self.do("Cast", rounded, node.output, to=self.kinds.INT64), view.axes)

    def requantize(self, node: Node) -> View:
        view = self.writer.view(node)
        shape = node.attr("shape")
        multiplier, shift = (np.asarray(node.attr(k), np.int64).reshape(shape) for k in ("multiplier", "shift"))
        rounded = self.scaled(view, node, multiplier, shift)
        return View(self.clipped(rounded, node), view.axes)

    def requantize_by_sign(self, node: Node) -> View:
        view = self.writer.view(node)
        shapes = {"": (-1,), "negative_": node.attr("negative_shape")}
        above, below = (
            self.scaled(
                view,
                node,
                *(np.asarray(node.attr(f"{sign}{k}"), np.int64).reshape(shape) for k in ("multiplier", "shift")),
            )
            for sign, shape in shapes.items()
        )
        negative = self.do("Less", view.tensor, self.number(0), node.name)
        chosen = self.do("Where", negative, below, above, node.name)
        return View(self.clipped(chosen, node), view.axes)

    def scaled(self, view: View, node: Node, multiplier: np.ndarray, shift: np.ndarray) -> str:
        """Return round(x · multiplier · 2^(−shift))."""
        name = node.name
        form = self.program.formats[node.inputs[0]]
        largest = max(-form.low, form.high) * np.abs(multiplier).astype(object)
        # What is less than half of 2^r has the same result under every larger r, in every rounding.
        widths = np.frompyfunc(lambda v: int(v).bit_length() + 1, 1, 1)(largest)
        shift = np.minimum(shift, widths.astype(np.int64))
        if int(np.max(largest)) + ((1 << int(shift.max())) >> 1) >= _LIFT:
            raise UnsupportedError(f"`{name}` needs more than 64 bits: lower `multiplier_bits`")
        factor = self.array(stored_constant(multiplier, view), f"{name}/multiplier")
        return self.shifted(self.do("Mul", view.tensor, factor, name), view, node, shift)

    def shifted(self, product: str, view: View, node: Node, shift: np.ndarray) -> str:
        """Return round(product · 2^(−shift)), the product in the layout of ``view``."""
        name, rule = node.name, node.attr("rounding")
        power = self.array(stored_constant(np.int64(1) << shift, view), f"{name}/power")
        if rule is Rounding.TOWARD_ZERO:
            # ONNX's integer division truncates.
            return self.do("Div", product, power, name)
        half = np.where(shift > 0, (np.int64(1) << shift) >> 1, 0) if rule is not Rounding.FLOOR else 0 * shift
        lifted = self.do("Add", product, self.array(stored_constant(half + _LIFT, view), f"{name}/half"), name)
        quotient = self.do("Div", lifted, power, name)
        result = self.do("Sub", quotient, self.array(stored_constant(_LIFT >> shift, view), f"{name}/lift"), name)
        if rule in {Rounding.FLOOR, Rounding.HALF_UP}:
            return result
        whole = self.do("Equal", self.do("Mul", quotient, power, name), lifted, name)
        # Without a shift there is no half: nothing is a tie.
        if (shift == 0).any():
            possible = self.array(stored_constant(shift > 0, view), f"{name}/possible")
            whole = self.do("And", whole, possible, name)
        if rule is Rounding.HALF_AWAY:
            down = self.do("Less", product, self.number(0), name)
        else:
            odd = self.do("Mod", quotient, self.number(2), name)
            down = self.do("Equal", odd, self.number(1), name)
        down = self.do("And", whole, down, name)
        return self.do("Sub", result, self.do("Cast", down, name, to=self.kinds.INT64), name)

    def saturate(self, node: Node) -> View:
        view = self.writer.view(node)
        return View(self.clipped(view.tensor, node), view.axes)

    def conv(self, node: Node) -> View:
        view, layer = self.writer.view(node), self.bytes_of(node)
        axes = channels_first(len(view.axes))
        source, zero = self.narrow(self.writer.stored(view, axes), node)
        kernel = np.moveaxis(layer.kernel, (-1, -2), (0, 1))
        weights, weights_zero = self.weights(kernel, node)
        padding = node.attr("padding")
        acc = self.do(
            "ConvInteger",
            source,
            weights,
            zero,
            weights_zero,
            node.name,
            kernel_shape=layer.kernel.shape[:-2],
            strides=node.attr("strides"),
            pads=[low for low, _ in padding] + [high for _, high in padding],
            dilations=node.attr("dilation"),
            group=node.attr("groups"),
        )
        return self.biased(acc, View(acc, axes), node)

    def dense(self, node: Node) -> View:
        view, layer = self.writer.view(node), self.bytes_of(node)
        source, zero = self.narrow(self.writer.native(view), node)
        weights, weights_zero = self.weights(layer.kernel, node)
        acc = self.do("MatMulInteger", source, weights, zero, weights_zero, node.name)
        return self.biased(acc, View(acc, tuple(range(len(view.axes)))), node)

    def spread(self, node: Node) -> View:
        axes = channels_first(len(self.writer.view(node).axes))
        return View(spread_node(self.writer, node, self.writer.stored(self.writer.view(node), axes)), axes)

    def matmul(self, node: Node) -> View:
        operands = []
        for tensor, (low, high) in zip(node.inputs, node.attr("ranges"), strict=True):
            low, high = min(low, 0), max(high, 0)  # noqa: PLW2901
            if high - low > 255:
                raise UnsupportedError(f"`{node.name}` ({node.op}) has factors of more than 8 bits: ONNX lacks them")
            source = self.writer.native(self.writer.views[tensor])
            if low:
                source = self.do("Add", source, self.number(-low), node.name)
            narrow = self.do("Cast", source, node.name, to=self.kinds.UINT8)
            operands.append((narrow, self.array(np.uint8(-low), f"{node.name}/zero_point")))
        (x, x_zero), (y, y_zero) = operands
        sums = self.do("MatMulInteger", x, y, x_zero, y_zero, node.name)
        wide = self.do("Cast", sums, node.output, to=self.kinds.INT64)
        return View(wide, tuple(range(len(self.program.graph.shape(node.output)))))

    def bytes_of(self, node: Node) -> Any:
        """Return the layer, if 8-bit products and 32-bit sums give its accumulators."""
        layer = self.program.layers[node.name]
        if layer.kernel.dtype != np.int8 or max(layer.source.high, 0) - min(layer.source.low, 0) > 255:
            raise UnsupportedError(
                f"`{node.name}` ({node.op}) has more than 8 bits, which ONNX's integer products lack"
            )
        if signed_bits(layer.accumulator.low, layer.accumulator.high) > self.program.accelerator.accumulator_bits:
            raise UnsupportedError(
                f"the accumulator of `{node.name}` can overflow, which ONNX cannot express: raise `accumulator_bits`"
            )
        return layer

    def narrow(self, source: str, node: Node) -> tuple[str, str]:
        """Return codes as uint8, and their zero point."""
        away = max(-node.attr("low"), 0)
        if away:
            source = self.do("Add", source, self.number(away), node.name)
        narrow = self.do("Cast", source, node.name, to=self.kinds.UINT8)
        return narrow, self.array(np.uint8(away), f"{node.name}/zero_point")

    def weights(self, kernel: np.ndarray, node: Node) -> tuple[str, str]:
        """Return weights as uint8, which every kernel accepts, and their zero point."""
        codes = (kernel.astype(np.int16) + 128).astype(np.uint8)
        return self.array(codes, f"{node.name}/kernel"), self.array(np.uint8(128), f"{node.name}/kernel_zero_point")

    def biased(self, acc: str, view: View, node: Node) -> View:
        wide = self.do("Cast", acc, node.name, to=self.kinds.INT64)
        bias = stored_constant(self.program.layers[node.name].bias.astype(np.int64), view)
        return View(self.do("Add", wide, self.array(bias, f"{node.name}/bias"), node.output), view.axes)

    def binary(self, node: Node, operator: str | None = None) -> View:
        first, second = (self.writer.view(node, k) for k in (0, 1))
        other = self.writer.stored(second, first.axes)
        return View(self.do(operator or node.op.capitalize(), first.tensor, other, node.output), first.axes)

    def wide_mul(self, node: Node) -> View:
        product = self.binary(node, "Mul")
        rounded = self.shifted(product.tensor, product, node, np.asarray([node.attr("dropped_bits")], np.int64))
        return View(self.clipped(rounded, node), product.axes)

    def offset(self, node: Node) -> View:
        view = self.writer.view(node)
        sign, constant = (
            self.array(
                stored_constant(np.asarray(node.attr(k), np.int64).reshape(node.attr("shape")), view),
                f"{node.name}/{k}",
            )
            for k in ("sign", "constant")
        )
        return View(self.do("Add", self.do("Mul", view.tensor, sign, node.name), constant, node.output), view.axes)

    def lookup(self, node: Node) -> View:
        view = self.writer.view(node)
        index = self.do("Sub", view.tensor, self.number(node.attr("first")), node.name)
        table = self.array(np.asarray(self.program.params[node.param("table")], np.int64), f"{node.name}/table")
        return View(self.do("Gather", table, index, node.output, axis=0), view.axes)

    def interpolate(self, node: Node) -> View:
        view, shift = self.writer.view(node), node.attr("cell_bits")
        values = np.asarray(self.program.params[node.param("table")], np.int64)
        curve = np.asarray(self.program.params[node.param("curve")], np.int64)
        arrays = {"table": values[:-1], "step": np.diff(values), "curve": curve}
        tables = (self.array(v, f"{node.name}/{k}") for k, v in arrays.items())
        away = self.do("Sub", view.tensor, self.number(node.attr("first")), node.name)
        cell = self.do("Div", away, self.number(1 << shift), node.name)
        here, step, bend = (self.do("Gather", table, cell, node.name, axis=0) for table in tables)
        rest = self.do("Sub", away, self.do("Mul", cell, self.number(1 << shift), node.name), node.name)

        def part(x: str, y: str) -> str:
            lifted = self.do("Add", self.do("Mul", x, y, node.name), self.number(half + _LIFT), node.name)
            return self.do("Sub", self.do("Div", lifted, power, node.name), self.number(_LIFT >> shift), node.name)

        half, power = (1 << shift) >> 1, self.number(1 << shift)
        above = part(part(bend, rest), self.do("Sub", power, rest, node.name))
        return View(self.do("Add", self.do("Add", here, part(step, rest), node.name), above, node.output), view.axes)

    def sum_pool(self, node: Node) -> View:
        """Add the windows' elements one position after the other: runtimes pool no integers."""
        view = self.writer.view(node)
        window, strides, dilation = (node.attr(name) for name in ("window", "strides", "dilation"))
        space_out = self.program.graph.shape(node.output)[1:-1]
        padding = ((0, 0), *node.attr("padding"), (0, 0))
        amounts = stored_attributes(padding, view)
        ends = self.array(np.asarray([low for low, _ in amounts] + [high for _, high in amounts], np.int64), "pads")
        padded = self.do("Pad", view.tensor, ends, self.number(0), node.name)
        axes = self.array(np.asarray(view.axes[1:-1], np.int64), "axes")
        steps = self.array(np.asarray(strides, np.int64), "steps")
        total = None
        for at in np.ndindex(*window):
            first = np.asarray(at) * dilation
            last = first + (np.asarray(space_out) - 1) * strides + 1
            limits = (self.array(np.asarray(end, np.int64), node.name) for end in (first, last))
            part = self.do("Slice", padded, *limits, axes, steps, node.name)
            total = part if total is None else self.do("Add", total, part, node.name)
        return View(total, view.axes)

    def max_pool(self, node: Node) -> View:
        """Pool in float64, which holds every int32 and which runtimes pool."""
        axes = channels_first(len(self.writer.view(node).axes))
        source = self.writer.stored(self.writer.view(node), axes)
        real = self.do("Cast", source, node.name, to=self.kinds.DOUBLE)
        least = self.array(np.float64(-np.inf), f"{node.name}/least")
        pooled = max_pool_node(self.writer, node, real, f"{node.name}/maxpool", least)
        return View(self.do("Cast", pooled, node.output, to=self.kinds.INT64), axes)

    def reduced(self, node: Node) -> View:
        source, op = self.writer.native(self.writer.view(node)), "max" if node.op == "max" else "sum"
        # A tensor of the network may have the node's own name.
        name = f"{node.output}/reduce{op}"
        total = reduce_node(self.writer, op, source, node.attr("axes"), name, keepdims=node.attr("keepdims"))
        return View(total, tuple(range(len(self.program.graph.shape(node.output)))))

    def argmax(self, node: Node) -> View:
        (axis,), source = node.attr("axes"), self.writer.native(self.writer.view(node))
        found = self.do("ArgMax", source, node.output, axis=axis, keepdims=int(node.attr("keepdims")))
        return View(found, tuple(range(len(self.program.graph.shape(node.output)))))

    def pad(self, node: Node) -> View:
        view = self.writer.view(node)
        amounts = stored_attributes(node.attr("padding"), view)
        ends = self.array(np.asarray([low for low, _ in amounts] + [high for _, high in amounts], np.int64), "pads")
        value = [self.number(node.attr("value"))] if node.attr("mode") == "constant" else []
        return View(self.do("Pad", view.tensor, ends, *value, node.output, mode=node.attr("mode")), view.axes)
