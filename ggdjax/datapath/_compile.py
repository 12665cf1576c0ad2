"""From a quantized network to an integer program.

The quantized network rounds what enters convolutions and dense layers (its feature maps) and is real elsewhere. The
program computes the same with integers only. For every tensor, each reader asks for the *format* it needs, and the
request travels back to the tensor that produces the value:

- Convolutions and dense layers ask for the codes of their feature map. Their accumulator, on the grid Δ_in · 2^(−F),
  holds Σ q_x q_w + q_b exactly; the bias is rounded to that grid (Jacob et al., CVPR 2018, section 2.4).
- ReLU, clip, max pooling, concatenation and everything that only moves values are monotone or do nothing, so they
  commute with rounding, round(min(x, c)/Δ) = min(round(x/Δ), round(c/Δ)). A request passes through them unchanged: the
  accumulator is requantized straight to the step of the feature map that is finally read, ReLU and clip become the
  limits of that one saturation, all inputs of a concatenation get one step, and no value is rounded twice.
- What is read as it is (operands of additions, inputs of averages and leaky ReLUs) is requantized from the same
  accumulator to a wide fixed-point number on a power-of-two grid that all it meets shares (`ggdjax.datapath._ranges`).
  The quantized network keeps that branch in real numbers, so ``residual_bits`` decides how often a sum is rounded to
  another code: an error of 2^(−k) of a step changes about 2^(−k−2) of the codes.
- Averages are integer sums whose division by the window's size joins the multiplier; activation functions, in however
  many nodes, are tables (`ggdjax.datapath._functions`); the product of two tensors multiplies two numbers of
  ``factor_bits`` and is rounded to a wide number; a rounding in the middle of the network is a requantization to its
  grid.
- A layer whose input or weights stay in float by choice is computed in float: its input is turned into real numbers,
  its output into wide fixed-point numbers. `Program.in_float` names them.
- The output of the network stays in the units of the accumulator that makes it, as int32 with one scale: argmax needs
  no requantization. Weights with a step per channel have no common unit; their logits are carried.

Ratios of scales are m0 · 2^(−r) with an m0 of ``multiplier_bits`` bits. The relative error 2^(−b) of a ratio moves a
code q by at most q · 2^(−b) of a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import GgdjaxError, UnsupportedError, expect, kinds_of
from ggdjax.datapath._formats import Format, ratio_of, signed_bits
from ggdjax.datapath._functions import Functions, exact_table, range_of, tables
from ggdjax.datapath._layers import IntegerLayer, code_format, integer_layer
from ggdjax.datapath._lowering import lowered
from ggdjax.datapath._ops import method_of
from ggdjax.datapath._program import Program
from ggdjax.datapath._ranges import (
    Ranges,
    bounds_of,
    float_bounds,
    grid,
    headroom_of,
    in_float,
    limits_of,
    measured_ranges,
    window_of,
)
from ggdjax.datapath._rounding import Overflow, Requantization
from ggdjax.datapath._spec import Accelerator
from ggdjax.network import Graph, Node
from ggdjax.network._ops import LIMITS, MOVES, PRODUCTS, QUANTIZABLE, window_counts
from ggdjax.network._rewrites import scale_and_offset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ggdjax.datapath._functions import Function, Table
    from ggdjax.quantization import QuantizedNetwork

#: Operation without an integer form -> what to do instead.
_ALTERNATIVES = {
    "local_response_norm": "train without it, or with batch normalization",
}


def compile(quantized_network: QuantizedNetwork, accelerator: Accelerator | None = None) -> Program:
    """Return the integer program that computes what ``quantized_network`` does.

    Args:
        quantized_network: what :func:`ggdjax.quantize` returned; steps per feature map, not per channel.
        accelerator: the datapath; the defaults of :class:`Accelerator` where None.

    Raises:
        UnsupportedError: an operation has no integer form (named, with an alternative).
        GgdjaxError: codes, weights, biases or ratios that the accelerator's widths cannot hold, or an accumulator
            that can overflow under ``Overflow.RAISE`` (named, with the width it needs).

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (64, 4))
        >>> net = gd.trace(lambda x: jax.nn.relu(x @ jnp.eye(4)) @ jnp.eye(4), jnp.zeros((1, 4)))
        >>> q = gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(scheme="max-abs"))
        >>> program = gd.datapath.compile(q)
        >>> program.integers(x).dtype, program.run(x).overflows
        (dtype('int32'), 0)
    """
    expect("quantized_network", quantized_network, "QuantizedNetwork")
    return _Compiler(quantized_network, accelerator or Accelerator()).program()


def refuse_float(program: Program, what: str) -> None:
    """Raise where a layer stays in float, which ``what`` cannot hold.

    Raises:
        UnsupportedError: naming the layer.
    """
    if program.in_float:
        raise UnsupportedError(
            f"`{program.in_float[0]}` stays in float, which {what} cannot hold: give it widths, or write QDQ with "
            "`export_onnx`"
        )


def as_program(program: Program | QuantizedNetwork) -> Program:
    """Return ``program``; a quantized network is compiled for the default accelerator.

    Raises:
        GgdjaxError: it is neither.
    """
    if "QuantizedNetwork" in kinds_of(program):
        return compile(program)
    return expect("program", program, "Program")


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Exact integers that a node makes, before requantization; the real value is ``scale · weights · integer``."""

    tensor: str
    format: Format
    weights: np.ndarray | None = None
    """Factor per position (last axes), for averages over windows of different sizes."""
    kind: Requantization = Requantization.MULTIPLIER_AND_SHIFT


class _Compiler:
    """Collects the nodes of the integer graph while requests travel back through the real one."""

    def __init__(self, q: QuantizedNetwork, accelerator: Accelerator) -> None:
        # A softmax at the end is applied to the logits in real numbers.
        graph = q.graph.up_to_logits() if len(q.graph.outputs) == 1 else q.graph
        self.network = q.float_network
        q, measured = lowered(q, graph, measured_ranges(q))
        self.q, self.spec, self.source = q, accelerator, q.graph
        self.nodes: list[Node] = []
        self.params: dict[str, np.ndarray] = {}
        self.formats: dict[str, Format] = {}
        self.shapes = {tensor: self.source.shape(tensor) for tensor in self.source.inputs}
        self.made: dict[tuple[str, Format], str] = {}
        self.sums: dict[str, _Sums] = {}
        self.ranges = Ranges(q, measured, accelerator.residual_bits)
        self.functions = Functions(q.graph, q.params)
        self.layers: dict[str, IntegerLayer] = {}
        #: What makes the exact integers of an operation that is no layer and scales nothing.
        self._makers = {
            "add": self._added,
            "argmax": self._argmax,
            "average_pool": self._pooled,
            "mean": self._pooled,
            "matmul": self._matrix_product,
            "mul": self._product,
            "round_to_grid": self._rounded,
            "sub": self._added,
            "sum": self._pooled,
        }

    def program(self) -> Program:
        self._find_ranges()
        feature_maps: dict[str, str] = {}
        for node in self.source.nodes:
            # In order, so that requests never travel back over more than one layer.
            for tensor in node.feature_maps:
                if tensor in self.q.quantizers.activations:
                    feature_maps[tensor] = self._as(tensor, self._codes(tensor))
            if node.feature_maps:
                self._sums_of(node)
        outputs = tuple(self._output(tensor) for tensor in self.source.outputs)
        graph = Graph(
            nodes=tuple(self.nodes), inputs=self.source.inputs, outputs=outputs, shapes=tuple(self.shapes.items())
        )
        return Program(
            graph=graph,
            params=self.params,
            formats=self.formats,
            layers=self.layers,
            feature_maps=feature_maps,
            code_formats={tensor: code_format(self.q, tensor, self.spec) for tensor in feature_maps},
            accelerator=self.spec,
            network=self.network,
        )

    # Ranges -----------------------------------------------------------------------------------------------------

    def _find_ranges(self) -> None:
        """Compute the integers of every layer and the real range of every tensor."""
        bounds = self.ranges.bounds
        for tensor in self.source.inputs:
            bounds[tensor] = (-math.inf, math.inf)
        for node in self.source.nodes:
            if in_float(self.q, node):
                rounded = node.inputs[0] in self.q.quantizers.activations
                codes = self._codes(node.inputs[0]) if rounded else None
                source = (
                    (codes.low * codes.scale[0], codes.high * codes.scale[0])
                    if codes
                    else (self.ranges.expected(node.inputs[0]))
                )
                kernel, bias = self._float_parameters(node)
                bounds[node.output] = float_bounds(kernel, bias, source)
                continue
            if node.op in QUANTIZABLE:
                layer = integer_layer(self.q, node, self._codes(node.inputs[0]), self.spec)
                self.layers[node.name] = layer
                bounds[node.output] = layer.bounds
                if self.spec.overflow is not Overflow.RAISE:  # what the width leaves
                    held, largest = self._held(layer), max(layer.accumulator.scale)
                    bounds[node.output] = (held.low * largest, held.high * largest)
                continue
            if node.op in PRODUCTS:
                ends, scale = self._product_ends(node)
                bounds[node.output] = tuple(scale * end for end in ends)
                continue
            params = {role: np.asarray(self.q.params[key]) for role, key in node.params}
            if (function := self.functions.of(node.output)) is not None:
                bounds[node.output] = range_of(function, self.ranges.expected(function.root))
            elif self._is_scaling(node):
                scale, offset = _scaling(node, params)
                with np.errstate(invalid="ignore"):
                    ends = np.where(scale == 0, offset, [scale * end + offset for end in bounds[node.inputs[0]]])
                bounds[node.output] = (float(np.min(ends)), float(np.max(ends)))
            else:
                window = window_of(self.source, node) if node.op in {"argmax", "mean", "sum"} else 1
                bounds[node.output] = bounds_of(node, [bounds[t] for t in node.inputs], params, window)

    def _held(self, layer: IntegerLayer) -> Format:
        """Return the format of an accumulator within its width, which its sums may pass."""
        half = 1 << (self.spec.accumulator_bits - 1)
        low, high = max(layer.accumulator.low, -half), min(layer.accumulator.high, half - 1)
        return replace(layer.accumulator, low=low, high=high)

    def _is_scaling(self, node: Node) -> bool:
        """Return whether a node scales and shifts each channel of its one input."""
        reciprocal = node.op == "div" and dict(node.attrs).get("reverse", False)
        return node.op in _SCALINGS and len(node.inputs) == 1 and not reciprocal

    def _natural(self, tensor: str, bits: int) -> Format | None:
        """Return the grid that the network itself rounds ``tensor`` to, if signed integers of ``bits`` hold it."""
        node = self.source.producer(tensor)
        if node is None:
            return None
        if node.op == "round_to_grid":
            form = _grid_of(node)
            return form if signed_bits(form.low, form.high) <= bits else None
        if len(node.inputs) > 1 or node.params or node.op not in MOVES | LIMITS or node.op == "pad":
            return None
        form = self._natural(node.inputs[0], bits)
        if form is None or node.op in MOVES:
            return form
        return form.limited(*limits_of(node), self.spec.rounding)

    def _codes(self, tensor: str) -> Format:
        """Return the format of a feature map, within the limits of the activation functions before it."""
        return self._within(tensor, code_format(self.q, tensor, self.spec))

    def _within(self, tensor: str, form: Format) -> Format:
        node = self.source.producer(tensor)
        if node is not None and node.op in LIMITS:
            return self._within(node.inputs[0], form.limited(*limits_of(node), self.spec.rounding))
        if node is not None and node.op in MOVES and len(node.inputs) == 1 and node.op != "pad" and not node.params:
            return self._within(node.inputs[0], form)
        return form

    # Requests ---------------------------------------------------------------------------------------------------

    def _as(self, tensor: str, form: Format) -> str:
        """Return the integer tensor that holds ``tensor`` in the format ``form``."""
        key = (tensor, form)
        if key not in self.made:
            self.made[key] = self._make(tensor, form)
        return self.made[key]

    def _make(self, tensor: str, form: Format) -> str:
        node = self.source.producer(tensor)
        if node is None:
            return self._emit(tensor, "quantize", (tensor,), form, scale=form.scale[0], low=form.low, high=form.high)
        if (function := self.functions.of(tensor)) is not None:
            return self._lookup(function, form)
        if node.op in LIMITS:
            return self._as(node.inputs[0], form.limited(*limits_of(node), self.spec.rounding))
        if node.op in MOVES:
            return self._move(node, form)
        if node.op in {"leaky_relu", "prelu"}:
            return self._by_sign(node, form)
        return self._requantized(tensor, self._sums_of(node), form)

    def _output(self, tensor: str) -> str:
        """Return the network's output: in the units of the sums that make it, or carried where they have many."""
        node = self.source.producer(tensor)
        while node is not None and node.op in LIMITS | {"reshape", "transpose", "slice"}:
            node = self.source.producer(node.inputs[0])
        if node is not None and node.op in QUANTIZABLE | self._makers.keys() and self.functions.of(node.output) is None:
            sums = self._sums_of(node)
            if len(sums.format.scale) == 1 and sums.weights is None:
                return self._as(tensor, replace(sums.format, role="logit"))
        return self._as(tensor, replace(self.ranges.carry(tensor), role="logit"))

    # What nodes make --------------------------------------------------------------------------------------------

    def _sums_of(self, node: Node) -> _Sums:
        if node.output not in self.sums:
            if in_float(self.q, node):
                make = self._in_float
            elif node.op in QUANTIZABLE:
                make = self._layer
            elif self._is_scaling(node):
                make = self._scaled
            elif (make := self._makers.get(node.op)) is None:
                hint = _ALTERNATIVES.get(node.op, "leave it out of the quantized part, or replace it")
                raise UnsupportedError(f"`{node.name}` ({node.op}) has no integer form: {hint}")
            self.sums[node.output] = make(node)
        return self.sums[node.output]

    def _layer(self, node: Node) -> _Sums:
        layer, spec = self.layers[node.name], self.spec
        kernel, codes = layer.kernel, layer.source
        groups = node.attr("groups") if node.op == "conv" else 1
        held = self._held(layer)
        self.params[f"{node.name}/kernel"], self.params[f"{node.name}/bias"] = kernel, layer.bias
        attrs, source = dict(node.attrs), self._as(node.inputs[0], self._codes(node.inputs[0]))
        if (factors := attrs.pop("input_dilation", None)) is not None:
            source = self._spread(node, source, factors)
        tensor = self._emit(
            node.output,
            node.op,
            (source,),
            held,
            name=node.name,
            params=(("kernel", f"{node.name}/kernel"), ("bias", f"{node.name}/bias")),
            **attrs,
            method=method_of(node.op, kernel, groups, codes.low, codes.high, layer.magnitude),
            low=codes.low,
            high=codes.high,
            accumulator_bits=spec.accumulator_bits,
            overflow=Overflow(spec.overflow),
            channel_tile=min(spec.channel_tile or kernel.shape[-2], kernel.shape[-2]),
        )
        return _Sums(tensor=tensor, format=held, kind=spec.requantization)

    def _spread(self, node: Node, source: str, factors: Sequence[int]) -> str:
        """Put the zeros of a transposed convolution between the codes of its feature map; the rest is a convolution."""
        form = self.formats[source]
        zero = replace(form, low=min(form.low, 0), high=max(form.high, 0))
        tensor = self._emit(node.inputs[0], "spread", (source,), zero, factors=tuple(factors))
        batch, *space, channels = self.source.shape(node.inputs[0])
        sizes = ((size - 1) * factor + 1 for size, factor in zip(space, factors, strict=True))
        self.shapes[tensor] = (batch, *sizes, channels)
        return tensor

    def _float_parameters(self, node: Node) -> tuple[np.ndarray, np.ndarray | float]:
        """Return the kernel and bias of a layer in float, rounded where they have quantizers; a bias of 0 without."""
        quantizers, key = self.q.quantizers, node.param("bias")
        rounding = [(node.param("kernel"), quantizers.weights.get(node.name))]
        rounding += [] if key is None else [(key, quantizers.bias(node))]
        found = [np.asarray(self.q.params[k] if r is None else r(self.q.params[k]), np.float32) for k, r in rounding]
        return found[0], found[1] if len(found) > 1 else 0.0

    def _in_float(self, node: Node) -> _Sums:
        """Compute a layer in float between integers: codes where its input has any, else wide numbers."""
        source = node.inputs[0]
        own = self._codes(source) if source in self.q.quantizers.activations else self.ranges.carry(source)
        form, keys = self.ranges.carry(node.output), [("kernel", f"{node.name}/kernel"), ("bias", f"{node.name}/bias")]
        arrays = dict(zip(("kernel", "bias"), self._float_parameters(node), strict=True))
        params = tuple((role, key) for role, key in keys if np.ndim(arrays[role]))
        self.params |= {key: arrays[role] for role, key in params}
        tensor = self._emit(
            node.output,
            "in_float",
            (self._as(source, own),),
            form,
            name=node.name,
            params=params,
            **dict(node.attrs),
            layer=node.op,
            unit=own.scale[0],
            scale=form.scale[0],
            low=form.low,
            high=form.high,
        )
        return _Sums(tensor=tensor, format=form, kind=self.spec.requantization)

    def _argmax(self, node: Node) -> _Sums:
        form = Format(scale=(1.0,), low=0, high=window_of(self.source, node) - 1, role="acc")
        source = self._output(node.inputs[0])
        return _Sums(
            tensor=self._emit(node.output, "argmax", (source,), form, name=node.name, **dict(node.attrs)), format=form
        )

    def _rounded(self, node: Node) -> _Sums:
        form = _grid_of(node)
        return _Sums(tensor=self._as(node.inputs[0], form), format=form)

    def _added(self, node: Node) -> _Sums:
        form = self.ranges.carry(node.output)
        operands = node.inputs[::-1] if dict(node.attrs).get("reverse", False) else node.inputs
        x, y = (self._as(tensor, form) for tensor in operands)
        (a, b), (c, d) = ((self.formats[t].low, self.formats[t].high) for t in (x, y))
        low, high = (a + c, b + d) if node.op == "add" else (a - d, b - c)
        wide = replace(form, low=low, high=high, role="acc")
        return _Sums(
            tensor=self._emit(node.output, node.op, (x, y), wide, name=node.name),
            format=wide,
            kind=self.spec.requantization,
        )

    def _product_ends(self, node: Node) -> tuple[tuple[int, int], float]:
        """Return the least and largest sum of a matrix product of codes, and its unit."""
        x, y = (self._codes(tensor) for tensor in node.inputs)
        terms = self.source.shape(node.inputs[0])[-1]
        if terms is None:
            raise UnsupportedError(f"`{node.name}` ({node.op}) sums over the batch, which has no integer form")
        ends = [terms * a * b for a in _ends(x) for b in _ends(y)]
        return (min(ends), max(ends)), x.scale[0] * y.scale[0]

    def _matrix_product(self, node: Node) -> _Sums:
        (low, high), scale = self._product_ends(node)
        bits = self.spec.accumulator_bits
        if (width := signed_bits(low, high)) > bits:
            raise GgdjaxError(
                f"the sums of `{node.name}` ({node.op}) can reach {low} to {high} and need {width} bits, "
                f"`accumulator_bits` are {bits}: raise them (up to 32) or narrow the feature maps"
            )
        tensors = [self._as(tensor, self._codes(tensor)) for tensor in node.inputs]
        ranges = tuple(_ends(self._codes(tensor)) for tensor in node.inputs)
        held = Format(scale=(scale,), low=low, high=high, role="acc")
        tensor = self._emit(node.output, node.op, tensors, held, name=node.name, ranges=ranges)
        return _Sums(tensor=tensor, format=held, kind=self.spec.requantization)

    def _product(self, node: Node) -> _Sums:
        bits = self.spec.factor_bits
        forms = [
            self._natural(t, bits) or grid(self.ranges.magnitude(t, headroom_of(bits)), bits, "factor", t)
            for t in node.inputs
        ]
        x, y = (self._as(tensor, form) for tensor, form in zip(node.inputs, forms, strict=True))
        ends = [a * b for a in _ends(self.formats[x]) for b in _ends(self.formats[y])]
        low, high, scale = min(ends), max(ends), forms[0].scale[0] * forms[1].scale[0]
        if signed_bits(low, high) <= 32:
            exact = Format(scale=(scale,), low=low, high=high, role="acc")
            return _Sums(tensor=self._emit(node.output, "mul", (x, y), exact, name=node.name), format=exact)
        # The product of the largest factors may be far more than the largest product.
        needed = min(max(-low, high), self.ranges.magnitude(node.output, headroom_of(_WIDE_BITS)) / scale)
        shift = max(1, math.ceil(needed).bit_length() - (_WIDE_BITS - 1))
        largest = (1 << (_WIDE_BITS - 1)) - 1
        low, high = max(low >> shift, -largest - 1), min(-(-high >> shift), largest)
        wide = Format(scale=(math.ldexp(scale, shift),), low=low, high=high, role="acc")
        limits = {"low": low, "high": high, "rounding": self.spec.rounding}
        tensor = self._emit(node.output, "wide_mul", (x, y), wide, name=node.name, dropped_bits=shift, **limits)
        return _Sums(tensor=tensor, format=wide)

    def _scaled(self, node: Node) -> _Sums:
        """Scale and shift per channel: ±x + constant in the units of |scale| · grid."""
        params = {role: np.asarray(self.q.params[key]) for role, key in node.params}
        scale, shift = _scaling(node, params)
        form = self.ranges.carry(node.inputs[0])
        x = self._as(node.inputs[0], form)
        sign, size = np.sign(scale).astype(int), np.where(scale == 0, 1.0, np.abs(scale)) * form.scale[0]
        # A channel that is shifted by far more than it varies is held on a coarser grid, or is the constant alone.
        coarser = np.maximum(0, np.ceil(np.log2(np.maximum(np.abs(shift / size), 1.0))).astype(int) - 29)
        size, sign = np.ldexp(size, coarser), np.where(coarser > 30, 0, sign)
        constant = np.rint(shift / size)
        if coarser.any():
            low, high = (self.formats[x].low, self.formats[x].high)
            shifts, held = np.minimum(coarser, 30), replace(form, low=low, high=high)
            factors = {"multiplier": (1,) * shifts.size, "shift": tuple(shifts.reshape(-1).tolist())}
            x = self._emit(
                node.inputs[0],
                "requantize",
                (x,),
                held,
                **factors,
                shape=shifts.shape,
                low=low,
                high=high,
                rounding=self.spec.rounding,
            )
        spread, most = max(-self.formats[x].low, self.formats[x].high), int(np.abs(constant).max())
        # One number per channel is the sums' scale; where it differs over positions, it is their weight.
        scales, weights = (size, None) if size.ndim == 1 else (np.asarray(form.scale), size / form.scale[0])
        wide = Format(scale=tuple(scales.tolist()), low=-spread - most, high=spread + most, role="acc")
        flat = {"sign": sign, "constant": constant.astype(int)}
        tensor = self._emit(
            node.output,
            "offset",
            (x,),
            wide,
            name=node.name,
            shape=size.shape,
            **{name: tuple(value.reshape(-1).tolist()) for name, value in flat.items()},
        )
        return _Sums(tensor=tensor, format=wide, weights=weights)

    def _pooled(self, node: Node) -> _Sums:
        window = window_of(self.source, node)
        # The sum of the whole window must fit in 32 bits.
        bits = 32 - math.ceil(math.log2(window))
        form = self._natural(node.inputs[0], bits) or self.ranges.summand(node.inputs[0], window)
        x = self._as(node.inputs[0], form)
        low, high = (end * window for end in _ends(self.formats[x]))
        weights, divisor = None, float(window)
        if node.op == "average_pool":
            attrs = dict(node.attrs)
            overhang, counted = attrs.pop("overhang"), attrs.pop("count_padding")
            space, space_out = (self.source.shape(t)[1:-1] for t in (node.inputs[0], node.output))
            counts = window_counts(space, space_out, **attrs, count_padding=counted)  # type: ignore[arg-type]
            if (counts != counts.flat[0]).any():
                weights, divisor = 1 / counts[..., None].astype(np.float64), 1.0
            else:
                divisor = float(counts.flat[0])
            pads = zip(attrs["padding"], overhang, strict=True)
            attrs["padding"] = tuple((before, after + more) for (before, after), more in pads)
            op, low, high = "sum_pool", min(low, 0), max(high, 0)
        else:
            op, attrs = "sum_over", dict(node.attrs)
            divisor = divisor if node.op == "mean" else 1.0
        wide = Format(scale=(form.scale[0] / divisor,), low=low, high=high, role="acc")
        tensor = self._emit(node.output, op, (x,), wide, name=node.name, **attrs)
        return _Sums(tensor=tensor, format=wide, weights=weights)

    def _move(self, node: Node, form: Format) -> str:
        """Do to integers what the node does to real numbers."""
        inputs = tuple(self._as(tensor, form) for tensor in node.inputs)
        if len(inputs) == 1 and node.op in {"maximum", "minimum"}:
            constant = np.asarray(self.q.params[node.params[0][1]])
            if constant.size > 1:
                return self._limited_by_channel(node, inputs[0], form, constant)
            low, high = (
                (float(constant.reshape(())), None) if node.op == "maximum" else (None, float(constant.reshape(())))
            )
            return self._as(node.inputs[0], form.limited(low, high, self.spec.rounding))
        attrs = dict(node.attrs)
        lows, highs = ([end(self.formats[t]) for t in inputs] for end in (_low, _high))
        if node.op == "pad" and node.attr("mode") == "constant":
            attrs["value"] = form.code_of(node.attr("value"), self.spec.rounding)
            lows, highs = [*lows, attrs["value"]], [*highs, attrs["value"]]
        held = replace(form, low=min(lows), high=max(highs))
        return self._emit(node.output, node.op, inputs, held, **attrs)

    def _limited_by_channel(self, node: Node, x: str, form: Format, constant: np.ndarray) -> str:
        """Return the larger or smaller of codes and those of a limit per channel: rounding commutes with both."""
        key = f"{node.output}.{form.role}{len(self.params)}/constant"
        codes = [form.code_of(float(value), self.spec.rounding) for value in constant.reshape(-1)]
        self.params[key] = np.asarray(codes, np.int32).reshape(constant.shape)
        return self._emit(node.output, node.op, (x,), form, params=(("constant", key),))

    def _lookup(self, function: Function, form: Format) -> str:
        """Look up what few integers give; interpolate between the values at the ends of cells of many."""
        output = function.nodes[-1].output
        few = self._natural(function.root, self.spec.lookup_bits)
        if few is None:
            return self._requantized(output, self._interpolated(function), form)
        x = self._as(function.root, few)
        first, last = _ends(self.formats[x])
        key = f"{output}.{form.role}{len(self.params)}/table"
        self.params[key] = exact_table(function, replace(few, low=first, high=last), form)
        return self._emit(output, "lookup", (x,), form, params=(("table", key),), first=first)

    def _interpolated(self, function: Function) -> _Sums:
        node = function.nodes[-1]
        if node.output not in self.sums:
            first, *corrections = tables(
                function,
                self.ranges.expected(function.root),
                self.ranges.bounds[function.root],
                self.ranges.measured.get(function.root, (0.0, 0.0)),
                lookup_bits=self.spec.lookup_bits,
                bits=self.spec.residual_bits,
            )
            tensor, held = self._interpolate(function, first, name=node.name), first.sums
            for held_too in corrections:
                other = held_too.sums
                held = replace(held, low=held.low + other.low, high=held.high + other.high)
                tensor = self._emit(node.output, "add", (tensor, self._interpolate(function, held_too)), held)
            self.sums[node.output] = _Sums(tensor=tensor, format=held)
        return self.sums[node.output]

    def _interpolate(self, function: Function, held: Table, name: str | None = None) -> str:
        tensor = function.nodes[-1].output
        keys = {role: f"{tensor}/{role}{'' if name else len(self.params)}" for role in ("table", "curve")}
        self.params |= {keys["table"]: held.values, keys["curve"]: held.curve}
        return self._emit(
            tensor,
            "interpolate",
            (self._as(function.root, held.index),),
            held.sums,
            name=name,
            params=tuple(keys.items()),
            first=held.first,
            cell_bits=held.cell_bits,
        )

    def _by_sign(self, node: Node, form: Format) -> str:
        held = self.ranges.carry(node.inputs[0])
        x = self._as(node.inputs[0], held)
        if node.op == "leaky_relu":
            slopes = np.asarray([node.attr("slope")], np.float64)
        else:
            slopes = np.atleast_1d(np.asarray(self.q.params[node.params[0][1]], np.float64))
        ratio = held.scale[0] / form.scale[0]
        above, below = self._factors(np.asarray([ratio]), node), self._factors(ratio * np.abs(slopes), node)
        signs = np.sign(slopes).astype(int).reshape(-1).tolist()
        return self._emit(
            node.output,
            "requantize_by_sign",
            (x,),
            form,
            multiplier=above["multiplier"],
            shift=above["shift"],
            negative_multiplier=tuple(s * m for s, m in zip(signs, below["multiplier"], strict=True)),
            negative_shift=below["shift"],
            negative_shape=slopes.shape,
            low=form.low,
            high=form.high,
            rounding=self.spec.rounding,
        )

    def _requantized(self, tensor: str, sums: _Sums, form: Format) -> str:
        ratios = np.asarray(sums.format.scale) / form.scale[0]
        held = self.formats[sums.tensor]
        if sums.weights is not None:
            ratios = sums.weights * ratios
        if (ratios == 1).all():
            if form.low <= held.low and held.high <= form.high:
                return sums.tensor
            return self._emit(tensor, "saturate", (sums.tensor,), form, low=form.low, high=form.high)
        factors = self._factors(ratios, self.source.producer(tensor), sums.kind)
        return self._emit(
            tensor,
            "requantize",
            (sums.tensor,),
            form,
            **factors,
            shape=ratios.shape,
            low=form.low,
            high=form.high,
            rounding=self.spec.rounding,
        )

    def _factors(
        self, ratios: np.ndarray, node: Node, kind: Requantization = Requantization.MULTIPLIER_AND_SHIFT
    ) -> dict[str, tuple[int, ...]]:
        found = [ratio_of(float(v), self.spec.multiplier_bits, kind, f"`{node.name}`") for v in ratios.reshape(-1)]
        return {"multiplier": tuple(r.multiplier for r in found), "shift": tuple(r.shift for r in found)}

    def _emit(
        self,
        tensor: str,
        op: str,
        inputs: Sequence[str],
        form: Format,
        *,
        name: str | None = None,
        params: tuple[tuple[str, str], ...] = (),
        **attrs: Any,
    ) -> str:
        """Add a node whose output stands for ``tensor``, and return its output's name."""
        output = base = f"{tensor}.{form.role}"
        count = 1
        while output in self.formats:
            count += 1
            output = f"{base}{count}"
        self.nodes.append(
            Node(
                name=name or output,
                op=op,
                inputs=tuple(inputs),
                output=output,
                attrs=tuple(sorted(attrs.items())),
                params=params,
            )
        )
        self.formats[output] = form
        self.shapes[output] = self.source.shape(tensor)
        return output


def _grid_of(node: Node) -> Format:
    """Return the format of what a rounding in the middle of the network gives."""
    return Format(scale=(node.attr("step"),), low=int(node.attr("low")), high=int(node.attr("high")))


#: Width of a rounded product.
_WIDE_BITS = 30
#: Operations that scale and shift each channel, where one operand is constant.
_SCALINGS = frozenset({"affine", "add", "sub", "mul", "div"})


def _scaling(node: Node, params: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return (scale, offset), float64, of one shape: that of the last axes over which they differ."""
    values = {role: np.atleast_1d(value.astype(np.float64)) for role, value in params.items()}
    found = (values["scale"], values["offset"]) if node.op == "affine" else scale_and_offset(node, values["constant"])
    assert found is not None, "a constant divided by the input is no scaling"
    scale, offset = np.broadcast_arrays(*found)
    while scale.ndim > 1 and scale.shape[0] == 1:
        scale, offset = scale[0], offset[0]
    return scale, offset


def _low(form: Format) -> int:
    return form.low


def _high(form: Format) -> int:
    return form.high


def _ends(form: Format) -> tuple[int, int]:
    return form.low, form.high
