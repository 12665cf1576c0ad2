"""The compiler's state: requests travel back through the network, and nodes of the integer graph come out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import UnsupportedError
from ggdjax.datapath._formats import Format, ratio_of, signed_bits, tensor_of
from ggdjax.datapath._functions import Functions, exact_table, range_of, tables
from ggdjax.datapath._layers import IntegerLayer, code_format, integer_layer
from ggdjax.datapath._lowering import lowered
from ggdjax.datapath._precision import losses
from ggdjax.datapath._program import Program
from ggdjax.datapath._ranges import Ranges, bounds_of, float_bounds, in_float, limits_of, measured_ranges, window_of
from ggdjax.datapath._rounding import Overflow, Requantization
from ggdjax.network import Graph, Node
from ggdjax.network._ops import LIMITS, MOVES, PRODUCTS, QUANTIZABLE
from ggdjax.network._rewrites import scale_and_offset

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ggdjax.datapath._functions import Function, Table
    from ggdjax.datapath._spec import Accelerator
    from ggdjax.quantization import QuantizedNetwork

#: Operations that scale and shift each channel, where one operand is constant.
_SCALINGS = frozenset({"affine", "add", "sub", "mul", "div"})


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Exact integers that a node makes, before requantization; the real value is ``scale · weights · integer``."""

    tensor: str
    format: Format
    weights: np.ndarray | None = None
    """Factor per position (last axes), for averages over windows of different sizes."""
    kind: Requantization = Requantization.MULTIPLIER_AND_SHIFT


class Compiler:
    """Collects the nodes of the integer graph while requests travel back through the real one."""

    def __init__(
        self,
        q: QuantizedNetwork,
        accelerator: Accelerator,
        makers: Mapping[str, Callable[[Compiler, Node], Sums]],
    ) -> None:
        # A softmax at the end is applied to the logits in real numbers.
        graph = q.graph.up_to_logits() if len(q.graph.outputs) == 1 else q.graph
        self.network = q.float_network
        q, measured = lowered(q, graph, measured_ranges(q))
        self.q, self.spec, self.source, self.makers = q, accelerator, q.graph, makers
        self.normalizers = _normalizers(q.graph)
        self.nodes: list[Node] = []
        self.params: dict[str, np.ndarray] = {}
        self.formats: dict[str, Format] = {}
        self.shapes = {tensor: self.source.shape(tensor) for tensor in self.source.inputs}
        self.made: dict[tuple[str, Format], str] = {}
        self.sums: dict[str, Sums] = {}
        self.ranges = Ranges(measured, accelerator.residual_bits)
        self.functions = Functions(q.graph, q.params)
        self.layers: dict[str, IntegerLayer] = {}
        self.gains: dict[str, Callable[[float], float]] = {}

    def program(self) -> Program:
        self._find_ranges()
        feature_maps: dict[str, str] = {}
        for node in self.source.nodes:
            # In order, so that requests never travel back over more than one layer.
            for tensor in node.feature_maps:
                if tensor in self.q.quantizers.activations:
                    feature_maps[tensor] = self.as_format(tensor, self.codes(tensor))
            if node.feature_maps:
                self.sums_of(node)
        outputs = tuple(self.output(tensor) for tensor in self.source.outputs)
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
            inexact=self._inexact(feature_maps, outputs),
        )

    def _inexact(self, feature_maps: Mapping[str, str], outputs: Sequence[str]) -> dict[str, tuple[float, str]]:
        """Return which feature maps lose more than a code bears, by how much, and what is too coarse for them."""
        largest = {}
        for tensor, form in self.formats.items():
            seen = self.ranges.magnitude(tensor_of(tensor, form), 1.0)
            largest[tensor] = min(seen / min(form.scale), max(-form.low, form.high)) if seen else 0.0
        lost = losses(self.nodes, self.formats, self.shapes, self.gains, largest)
        found = {
            name: lost[tensor]
            for name, tensor in feature_maps.items()
            if tensor in lost and lost[tensor].matters(self.formats[tensor])
        }
        for name, tensor in zip(self.source.outputs, outputs, strict=True):
            if tensor in lost and (magnitude := self.ranges.magnitude(name, 1.0)):
                as_codes = Format(scale=(magnitude / 127,), low=-128, high=127)
                loss = lost[tensor].scaled(max(self.formats[tensor].scale) / as_codes.scale[0])
                found |= {name: loss} if loss.matters(as_codes) else {}
        return {name: (loss.error, tensor_of(loss.origin, self.formats[loss.origin])) for name, loss in found.items()}

    # Ranges -----------------------------------------------------------------------------------------------------

    def _find_ranges(self) -> None:
        """Compute the integers of every layer and the real range of every tensor."""
        bounds = self.ranges.bounds
        for tensor in self.source.inputs:
            bounds[tensor] = (-math.inf, math.inf)
        for node in self.source.nodes:
            if in_float(self.q, node):
                sources = [self._real_ends(tensor) for tensor in node.inputs]
                if node.op in PRODUCTS:
                    ends = [self._terms(node) * a * b for a in sources[0] for b in sources[1]]
                    bounds[node.output] = (min(ends), max(ends))
                else:
                    bounds[node.output] = float_bounds(*self.float_parameters(node), sources[0])
                continue
            if node.op in QUANTIZABLE:
                layer = integer_layer(self.q, node, self.codes(node.inputs[0]), self.spec)
                self.layers[node.name] = layer
                bounds[node.output], self.ranges.noise[node.output] = layer.bounds, layer.noise
                if self.spec.overflow is not Overflow.RAISE:  # what the width leaves
                    held, largest = self.held(layer), max(layer.accumulator.scale)
                    bounds[node.output] = (held.low * largest, held.high * largest)
                continue
            if node.op in PRODUCTS:
                ends, scale = self.product_ends(node)
                bounds[node.output] = tuple(scale * end for end in ends)
                continue
            params = {role: np.asarray(self.q.params[key]) for role, key in node.params}
            if (function := self.functions.of(node.output)) is not None:
                bounds[node.output] = range_of(function, self.ranges.expected(function.root))
            elif self._is_scaling(node):
                scale, offset = scaling_of(node, params)
                with np.errstate(invalid="ignore"):
                    ends = np.where(scale == 0, offset, [scale * end + offset for end in bounds[node.inputs[0]]])
                bounds[node.output] = (float(np.min(ends)), float(np.max(ends)))
            else:
                window = window_of(self.source, node) if node.op in {"argmax", "mean", "sum"} else 1
                bounds[node.output] = bounds_of(node, [bounds[t] for t in node.inputs], params, window)

    def held(self, layer: IntegerLayer) -> Format:
        """Return the format of an accumulator within its width, which its sums may pass."""
        half = 1 << (self.spec.accumulator_bits - 1)
        low, high = max(layer.accumulator.low, -half), min(layer.accumulator.high, half - 1)
        return replace(layer.accumulator, low=low, high=high)

    def _is_scaling(self, node: Node) -> bool:
        """Return whether a node scales and shifts each channel of its one input."""
        reciprocal = node.op == "div" and dict(node.attrs).get("reverse", False)
        return node.op in _SCALINGS and len(node.inputs) == 1 and not reciprocal

    def natural(self, tensor: str, bits: int) -> Format | None:
        """Return the grid that the network itself rounds ``tensor`` to, if signed integers of ``bits`` hold it."""
        node = self.source.producer(tensor)
        if node is None:
            return None
        if node.op == "round_to_grid":
            form = grid_of(node)
            return form if signed_bits(form.low, form.high) <= bits else None
        if len(node.inputs) > 1 or node.params or node.op not in MOVES | LIMITS or node.op == "pad":
            return None
        form = self.natural(node.inputs[0], bits)
        if form is None or node.op in MOVES:
            return form
        limits = limits_of(node)
        return form.limited(*limits, self.spec.rounding) if form.holds(*limits) else None

    def codes(self, tensor: str) -> Format:
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

    def as_format(self, tensor: str, form: Format) -> str:
        """Return the integer tensor that holds ``tensor`` in the format ``form``."""
        key = (tensor, form)
        if key not in self.made:
            self.made[key] = self._make(tensor, form)
        return self.made[key]

    def _make(self, tensor: str, form: Format) -> str:
        node = self.source.producer(tensor)
        if node is None:
            return self.emit(tensor, "quantize", (tensor,), form, scale=form.scale[0], low=form.low, high=form.high)
        if (function := self.functions.of(tensor)) is not None:
            return self._lookup(function, form)
        if node.op in LIMITS:
            return self.as_format(node.inputs[0], form.limited(*limits_of(node), self.spec.rounding))
        if node.op in MOVES:
            return self._move(node, form)
        if node.op in {"leaky_relu", "prelu"}:
            return self._by_sign(node, form)
        return self._requantized(tensor, self.sums_of(node), form)

    def output(self, tensor: str) -> str:
        """Return the network's output: in the units of its sums; in wide fixed point where they have many units, or
        none that the limits of an activation function are multiples of."""
        node, limits = self.source.producer(tensor), []
        while node is not None and node.op in LIMITS | {"reshape", "transpose", "slice"}:
            limits += limits_of(node) if node.op in LIMITS else ()
            node = self.source.producer(node.inputs[0])
        if node is not None and node.op in self.makers and self.functions.of(node.output) is None:
            sums = self.sums_of(node)
            if len(sums.format.scale) == 1 and sums.weights is None and sums.format.holds(*limits):
                return self.as_format(tensor, replace(sums.format, role="logit"))
        return self.as_format(tensor, replace(self.ranges.carry(tensor), role="logit"))

    # What nodes make --------------------------------------------------------------------------------------------

    def sums_of(self, node: Node) -> Sums:
        if node.output not in self.sums:
            kind = "in_float" if in_float(self.q, node) else "scaling" if self._is_scaling(node) else node.op
            if (make := self.makers.get(kind)) is None:
                raise UnsupportedError(
                    f"`{node.name}` ({node.op}) has no integer form: leave it out of the quantized part, or replace it"
                )
            self.sums[node.output] = make(self, node)
        return self.sums[node.output]

    def float_parameters(self, node: Node) -> tuple[np.ndarray, np.ndarray | float]:
        """Return the kernel and bias of a layer in float, rounded where they have quantizers; a bias of 0 without."""
        quantizers, key = self.q.quantizers, node.param("bias")
        rounding = [(node.param("kernel"), quantizers.weights.get(node.name))]
        rounding += [] if key is None else [(key, quantizers.bias(node))]
        found = [np.asarray(self.q.params[k] if r is None else r(self.q.params[k]), np.float32) for k, r in rounding]
        return found[0], found[1] if len(found) > 1 else 0.0

    def product_ends(self, node: Node) -> tuple[tuple[int, int], float]:
        """Return the least and largest sum of a matrix product of codes, and its unit."""
        x, y = (self.codes(tensor) for tensor in node.inputs)
        ends = [self._terms(node) * a * b for a in ends_of(x) for b in ends_of(y)]
        return (min(ends), max(ends)), x.scale[0] * y.scale[0]

    def read_in_float(self, tensor: str) -> Format:
        """Return the format of what a layer in float reads: codes where there are any, else wide numbers."""
        return self.codes(tensor) if tensor in self.q.quantizers.activations else self.ranges.carry(tensor)

    def _real_ends(self, tensor: str) -> tuple[float, float]:
        """Return the range of what a layer in float reads."""
        if tensor not in self.q.quantizers.activations:
            return self.ranges.expected(tensor)
        codes = self.codes(tensor)
        return codes.low * codes.scale[0], codes.high * codes.scale[0]

    def _terms(self, node: Node) -> int:
        terms = self.source.shape(node.inputs[0])[-1]
        if terms is None:
            raise UnsupportedError(f"`{node.name}` ({node.op}) sums over the batch, which has no integer form")
        return terms

    def _move(self, node: Node, form: Format) -> str:
        """Do to integers what the node does to real numbers."""
        inputs = tuple(self.as_format(tensor, form) for tensor in node.inputs)
        if len(inputs) == 1 and node.op in {"maximum", "minimum"}:
            constant = np.asarray(self.q.params[node.params[0][1]])
            if constant.size > 1:
                return self._limited_by_channel(node, inputs[0], form, constant)
            low, high = (
                (float(constant.reshape(())), None) if node.op == "maximum" else (None, float(constant.reshape(())))
            )
            return self.as_format(node.inputs[0], form.limited(low, high, self.spec.rounding))
        attrs = dict(node.attrs)
        lows, highs = ([getattr(self.formats[t], end) for t in inputs] for end in ("low", "high"))
        if node.op == "pad" and node.attr("mode") == "constant":
            attrs["value"] = form.code_of(node.attr("value"), self.spec.rounding)
            lows, highs = [*lows, attrs["value"]], [*highs, attrs["value"]]
        held = replace(form, low=min(lows), high=max(highs))
        return self.emit(node.output, node.op, inputs, held, **attrs)

    def _limited_by_channel(self, node: Node, x: str, form: Format, constant: np.ndarray) -> str:
        """Return the larger or smaller of codes and those of a limit per channel: rounding commutes with both."""
        key = f"{node.output}.{form.role}{len(self.params)}/constant"
        codes = [form.code_of(float(value), self.spec.rounding) for value in constant.reshape(-1)]
        self.params[key] = np.asarray(codes, np.int32).reshape(constant.shape)
        return self.emit(node.output, node.op, (x,), form, params=(("constant", key),))

    def _lookup(self, function: Function, form: Format) -> str:
        """Look up what few integers give; interpolate between the values at the ends of cells of many."""
        output = function.nodes[-1].output
        few = self.natural(function.root, self.spec.lookup_bits)
        if few is None:
            return self._requantized(output, self._interpolated(function), form)
        x = self.as_format(function.root, few)
        first, last = ends_of(self.formats[x])
        key = f"{output}.{form.role}{len(self.params)}/table"
        self.params[key] = exact_table(function, replace(few, low=first, high=last), form)
        return self.emit(output, "lookup", (x,), form, params=(("table", key),), first=first)

    def _interpolated(self, function: Function) -> Sums:
        node = function.nodes[-1]
        if node.output not in self.sums:
            (first, *corrections), error = tables(
                function,
                self.ranges.expected(function.root),
                self.ranges.bounds[function.root],
                self.ranges.measured.get(function.root, (0.0, 0.0)),
                lookup_bits=self.spec.lookup_bits,
                bits=self.spec.residual_bits,
            )
            tensor, held = self._interpolate(function, first, error), first.sums
            for held_too in corrections:
                other = held_too.sums
                held = replace(held, low=held.low + other.low, high=held.high + other.high)
                tensor = self.emit(node.output, "add", (tensor, self._interpolate(function, held_too)), held)
            self.sums[node.output] = Sums(tensor=tensor, format=held)
        return self.sums[node.output]

    def _interpolate(self, function: Function, held: Table, error: float | None = None) -> str:
        """Interpolate; ``error`` is how far the table and its corrections (their own: None) are from the function."""
        tensor, name = function.nodes[-1].output, None if error is None else function.nodes[-1].name
        keys = {role: f"{tensor}/{role}{'' if name else len(self.params)}" for role in ("table", "curve")}
        self.params |= {keys["table"]: held.values, keys["curve"]: held.curve}
        output = self.emit(
            tensor,
            "interpolate",
            (self.as_format(function.root, held.index),),
            held.sums,
            name=name,
            params=tuple(keys.items()),
            first=held.first,
            cell_bits=held.cell_bits,
        )
        if error is not None:
            share = _NORMALIZING if tensor in self.normalizers else 1.0
            unit, result = held.index.scale[0], held.sums.scale[0]
            low, high = self.ranges.measured.get(function.root) or self.ranges.expected(function.root)
            least, most = unit * held.index.low, unit * held.index.high

            def gain(of_index: float) -> float:
                by = share * of_index * unit  # which may lead out of the range
                return (function.change(by, max(low - by, least), min(high + by, most)) + share * error) / result

            self.gains[output] = gain
        return output

    def _by_sign(self, node: Node, form: Format) -> str:
        held = self.ranges.carry(node.inputs[0])
        x = self.as_format(node.inputs[0], held)
        if node.op == "leaky_relu":
            slopes = np.asarray([node.attr("slope")], np.float64)
        else:
            slopes = np.atleast_1d(np.asarray(self.q.params[node.params[0][1]], np.float64))
        ratio = held.scale[0] / form.scale[0]
        above, below = self.factors(np.asarray([ratio]), node), self.factors(ratio * np.abs(slopes), node)
        signs = np.sign(slopes).astype(int).reshape(-1).tolist()
        return self.emit(
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

    def _requantized(self, tensor: str, sums: Sums, form: Format) -> str:
        ratios = np.asarray(sums.format.scale) / form.scale[0]
        held = self.formats[sums.tensor]
        if sums.weights is not None:
            ratios = sums.weights * ratios
        if (ratios == 1).all():
            if form.low <= held.low and held.high <= form.high:
                return sums.tensor
            return self.emit(tensor, "saturate", (sums.tensor,), form, low=form.low, high=form.high)
        factors = self.factors(ratios, self.source.producer(tensor), sums.kind)
        return self.emit(
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

    def factors(
        self, ratios: np.ndarray, node: Node, kind: Requantization = Requantization.MULTIPLIER_AND_SHIFT
    ) -> dict[str, tuple[int, ...]]:
        found = [ratio_of(float(v), self.spec.multiplier_bits, kind, f"`{node.name}`") for v in ratios.reshape(-1)]
        return {"multiplier": tuple(r.multiplier for r in found), "shift": tuple(r.shift for r in found)}

    def emit(
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


#: Share of its worst case that counts of an inverse that normalizes: of softmax about a hundredth was measured.
_NORMALIZING = 1 / 64


def _normalizers(graph: Graph) -> set[str]:
    """Return the tensors 1/n and n^(−p) by which what n was summed from is multiplied: softmax, layer normalization.

    Where n is small and its inverse thus inexact, so is what it multiplies: the worst case of both never meets, and
    `_NORMALIZING` of it counts.
    """

    def before(tensor: str) -> set[str]:
        """Return what makes a tensor, back to the layers."""
        found, waiting = set(), [tensor]
        while waiting:
            found.add(one := waiting.pop())
            node = graph.producer(one)
            if node is not None and node.op not in QUANTIZABLE | PRODUCTS:
                waiting += [t for t in node.inputs if t not in found]
        return found

    def inverse(node: Node | None) -> bool:
        attrs = {} if node is None else dict(node.attrs)
        return attrs.get("exponent", 0) < 0 or (node is not None and node.op == "div" and attrs.get("reverse", False))

    found = set()
    for node in graph.nodes:
        for x, factor in (node.inputs, node.inputs[::-1]) if node.op == "mul" and len(node.inputs) == 2 else ():
            made = before(factor)
            makers = [graph.producer(tensor) for tensor in made]
            if any(maker is not None and maker.op in {"mean", "sum"} for maker in makers) and made & before(x):
                found |= {maker.output for maker in makers if inverse(maker)}
    return found


def grid_of(node: Node) -> Format:
    """Return the format of what a rounding in the middle of the network gives."""
    return Format(scale=(node.attr("step"),), low=int(node.attr("low")), high=int(node.attr("high")))


def scaling_of(node: Node, params: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return (scale, offset), float64, of one shape: that of the last axes over which they differ."""
    values = {role: np.atleast_1d(value.astype(np.float64)) for role, value in params.items()}
    found = (values["scale"], values["offset"]) if node.op == "affine" else scale_and_offset(node, values["constant"])
    assert found is not None, "a constant divided by the input is no scaling"
    scale, offset = np.broadcast_arrays(*found)
    while scale.ndim > 1 and scale.shape[0] == 1:
        scale, offset = scale[0], offset[0]
    return scale, offset


def ends_of(form: Format) -> tuple[int, int]:
    return form.low, form.high
