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
- What is read as it is (operands of additions, inputs of averages and leaky ReLUs) is *carried*: requantized from the
  same accumulator to a wide fixed-point number on a power-of-two grid that its whole residual stream shares
  (`ggdjax.datapath._ranges`). The quantized network keeps that branch in real numbers, so ``residual_bits`` decides how
  often a sum is rounded to another code: an error of 2^(−k) of a step changes about 2^(−k−2) of the codes.
- Averages are integer sums whose division by the window's size joins the multiplier; sigmoid, tanh, hard swish and
  SiLU are tables over ``lookup_bits``; the product of two tensors multiplies two numbers of ``lookup_bits``.
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

from ggdjax._errors import UnsupportedError, expect, kinds_of
from ggdjax.datapath._formats import Format, ratio_of
from ggdjax.datapath._layers import IntegerLayer, code_format, integer_layer
from ggdjax.datapath._ops import method_of
from ggdjax.datapath._program import Program
from ggdjax.datapath._ranges import LIMITS, MOVES, Streams, bounds_of, grid, limits_of, window_of
from ggdjax.datapath._rounding import Overflow, Requantization
from ggdjax.datapath._spec import Accelerator
from ggdjax.datapath._tables import TABLES, input_limit, table
from ggdjax.network import Graph, Node
from ggdjax.network._ops import QUANTIZABLE, window_counts
from ggdjax.network._rewrites import scale_and_offset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ggdjax.quantization import QuantizedNetwork

#: Operation without an integer form -> what to do instead.
_ALTERNATIVES = {
    "exp": "where it is part of a softmax, take the logits before it as the output",
    "softmax": "take the logits before it as the output: it does not change their order",
    "local_response_norm": "train without it, or with batch normalization",
    "div": "multiply by the reciprocal of a constant",
    "resize": "resize by nearest neighbour",
    "power": "write a square as a product of the tensor with itself",
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
        self.q, self.spec, self.source = q, accelerator, q.graph
        self.nodes: list[Node] = []
        self.params: dict[str, np.ndarray] = {}
        self.formats: dict[str, Format] = {}
        self.shapes = {tensor: self.source.shape(tensor) for tensor in self.source.inputs}
        self.made: dict[tuple[str, Format], str] = {}
        self.sums: dict[str, _Sums] = {}
        self.streams = Streams(q, accelerator.residual_bits)
        self.layers: dict[str, IntegerLayer] = {}

    def program(self) -> Program:
        self._find_ranges()
        feature_maps: dict[str, str] = {}
        for node in self.source.nodes:
            if node.op in QUANTIZABLE:
                # In order, so that requests never travel back over more than one layer.
                feature_maps[node.inputs[0]] = self._as(node.inputs[0], self._codes(node.inputs[0]))
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
            network=self.q.float_network,
        )

    # Ranges -----------------------------------------------------------------------------------------------------

    def _find_ranges(self) -> None:
        """Compute the integers of every layer and the real range of every tensor."""
        bounds = self.streams.bounds
        for tensor in self.source.inputs:
            bounds[tensor] = (-math.inf, math.inf)
        for node in self.source.nodes:
            if node.op in QUANTIZABLE:
                layer = integer_layer(self.q, node, self._codes(node.inputs[0]), self.spec)
                self.layers[node.name] = layer
                scales = np.asarray(layer.accumulator.scale)
                bounds[node.output] = (layer.accumulator.low * scales.max(), layer.accumulator.high * scales.max())
                continue
            self._refuse(node)
            params = {role: np.asarray(self.q.params[key]) for role, key in node.params}
            if node.op in _SCALINGS and len(node.inputs) == 1:
                scale, offset = _scaling(node, params)
                ends = [scale * end + offset for end in bounds[node.inputs[0]]]
                bounds[node.output] = (float(np.min(ends)), float(np.max(ends)))
            else:
                window = window_of(self.source, node) if node.op in {"mean", "sum"} else 1
                bounds[node.output] = bounds_of(node, [bounds[t] for t in node.inputs], params, window)

    def _refuse(self, node: Node) -> None:
        """Raise for an operation that integers cannot do."""
        known = LIMITS | MOVES | _SCALINGS | TABLES | {"mean", "sum", "average_pool", "leaky_relu", "prelu"}
        bad = node.op not in known
        bad |= node.op == "div" and (len(node.inputs) > 1 or dict(node.attrs).get("reverse", False))
        bad |= node.op == "resize" and node.attr("method") != "nearest"
        if bad:
            hint = _ALTERNATIVES.get(node.op, "leave it out of the quantized part, or replace it")
            raise UnsupportedError(f"`{node.name}` ({node.op}) has no integer form: {hint}")

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
        if node.op in LIMITS:
            return self._as(node.inputs[0], form.limited(*limits_of(node), self.spec.rounding))
        if node.op in MOVES:
            return self._move(node, form)
        if node.op in TABLES:
            return self._lookup(node, form)
        if node.op in {"leaky_relu", "prelu"}:
            return self._by_sign(node, form)
        return self._requantized(tensor, self._sums_of(node), form)

    def _output(self, tensor: str) -> str:
        """Return the network's output: in the units of the sums that make it, or carried where they have many."""
        node = self.source.producer(tensor)
        while node is not None and node.op in LIMITS | {"reshape", "transpose", "slice"}:
            node = self.source.producer(node.inputs[0])
        if node is not None and node.op in QUANTIZABLE | {"add", "sub", "mul", "mean", "sum", "average_pool"}:
            sums = self._sums_of(node)
            if len(sums.format.scale) == 1 and sums.weights is None:
                return self._as(tensor, replace(sums.format, role="logit"))
        return self._as(tensor, replace(self.streams.carry(tensor), role="logit"))

    # What nodes make --------------------------------------------------------------------------------------------

    def _sums_of(self, node: Node) -> _Sums:
        if node.output not in self.sums:
            if node.op in QUANTIZABLE:
                make = self._layer
            elif len(node.inputs) == 1 and node.op in _SCALINGS:
                make = self._scaled
            else:
                make = {"add": self._added, "sub": self._added, "mul": self._product}.get(node.op, self._pooled)
            self.sums[node.output] = make(node)
        return self.sums[node.output]

    def _layer(self, node: Node) -> _Sums:
        layer, spec = self.layers[node.name], self.spec
        kernel, codes = layer.kernel, layer.source
        groups = node.attr("groups") if node.op == "conv" else 1
        half = 1 << (spec.accumulator_bits - 1)
        held = replace(layer.accumulator, low=max(layer.accumulator.low, -half))
        held = replace(held, high=min(layer.accumulator.high, half - 1))
        self.params[f"{node.name}/kernel"], self.params[f"{node.name}/bias"] = kernel, layer.bias
        tensor = self._emit(
            node.output,
            node.op,
            (self._as(node.inputs[0], self._codes(node.inputs[0])),),
            held,
            name=node.name,
            params=(("kernel", f"{node.name}/kernel"), ("bias", f"{node.name}/bias")),
            **dict(node.attrs),
            method=method_of(node.op, kernel, groups, codes.low, codes.high, layer.magnitude),
            low=codes.low,
            high=codes.high,
            accumulator_bits=spec.accumulator_bits,
            overflow=Overflow(spec.overflow),
            channel_tile=min(spec.channel_tile or kernel.shape[-2], kernel.shape[-2]),
        )
        return _Sums(tensor=tensor, format=held, kind=spec.requantization)

    def _added(self, node: Node) -> _Sums:
        form = self.streams.carry(node.output)
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

    def _product(self, node: Node) -> _Sums:
        forms = [grid(self.streams.magnitude(t), self.spec.lookup_bits, "factor", t) for t in node.inputs]
        x, y = (self._as(tensor, form) for tensor, form in zip(node.inputs, forms, strict=True))
        ends = [a * b for a in _ends(self.formats[x]) for b in _ends(self.formats[y])]
        wide = Format(scale=(forms[0].scale[0] * forms[1].scale[0],), low=min(ends), high=max(ends), role="acc")
        return _Sums(tensor=self._emit(node.output, "mul", (x, y), wide, name=node.name), format=wide)

    def _scaled(self, node: Node) -> _Sums:
        """Scale and shift per channel: ±x + constant in the units of |scale| · grid."""
        params = {role: np.asarray(self.q.params[key]) for role, key in node.params}
        scale, shift = _scaling(node, params)
        form = self.streams.carry(node.inputs[0])
        x = self._as(node.inputs[0], form)
        size = np.where(scale == 0, 1.0, np.abs(scale)) * form.scale[0]
        constant = np.rint(shift / size)
        if np.abs(constant).max() >= 1 << 30:
            raise UnsupportedError(
                f"`{node.name}` ({node.op}) shifts a channel by far more than its input's range: fold it into a layer"
            )
        spread, most = max(-self.formats[x].low, self.formats[x].high), int(np.abs(constant).max())
        wide = Format(scale=tuple(size.tolist()), low=-spread - most, high=spread + most, role="acc")
        sign = tuple(np.sign(scale).astype(int).tolist())
        tensor = self._emit(
            node.output, "offset", (x,), wide, name=node.name, sign=sign, constant=tuple(constant.astype(int).tolist())
        )
        return _Sums(tensor=tensor, format=wide)

    def _pooled(self, node: Node) -> _Sums:
        window = window_of(self.source, node)
        form = self.streams.summand(node.inputs[0], window)
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
                raise UnsupportedError(f"`{node.name}` ({node.op}) limits each channel by itself: clip all alike")
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

    def _lookup(self, node: Node, form: Format) -> str:
        limit = input_limit(node)
        seen = self.streams.seen(node.output)
        known = max(map(abs, self.streams.bounds[node.inputs[0]]))
        if limit is None:
            # The output grows as its input does; far below zero it is flat.
            limit = known if seen is None else max(8.0, 2.0 * seen)
        index = grid(min(limit, known), self.spec.lookup_bits, "index", node.inputs[0])
        x = self._as(node.inputs[0], index)
        first, last = _ends(self.formats[x])
        key = f"{node.output}.{form.role}{len(self.params)}/table"
        self.params[key] = table(node, index.scale[0], first, last, form)
        return self._emit(node.output, "lookup", (x,), form, params=(("table", key),), first=first)

    def _by_sign(self, node: Node, form: Format) -> str:
        carried = self.streams.carry(node.inputs[0])
        x = self._as(node.inputs[0], carried)
        if node.op == "leaky_relu":
            slopes = np.asarray([node.attr("slope")], np.float64)
        else:
            slopes = np.asarray(self.q.params[node.params[0][1]], np.float64)
        # As many slopes as channels can also be one per row.
        if slopes.min() < 0 or (slopes.size != 1 and slopes.shape[-1] != slopes.size):
            raise UnsupportedError(
                f"`{node.name}` ({node.op}) has negative slopes, or slopes not per channel: retrain it"
            )
        slopes = slopes.reshape(-1)
        ratio = carried.scale[0] / form.scale[0]
        above, below = self._factors(np.asarray([ratio]), node), self._factors(ratio * slopes, node)
        return self._emit(
            node.output,
            "requantize_by_sign",
            (x,),
            form,
            multiplier=above["multiplier"],
            shift=above["shift"],
            negative_multiplier=below["multiplier"],
            negative_shift=below["shift"],
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


#: Operations that scale and shift each channel, where one operand is constant.
_SCALINGS = frozenset({"affine", "add", "sub", "mul", "div"})


def _scaling(node: Node, params: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return (scale, offset) with one number each, or one per channel, float64."""
    values = {role: value.astype(np.float64) for role, value in params.items()}
    if any(value.size != 1 and value.shape[-1:] != (value.size,) for value in values.values()):
        raise UnsupportedError(f"`{node.name}` ({node.op}) differs over positions, not only over channels")
    flat = {role: value.reshape(-1) for role, value in values.items()}
    if node.op == "affine":
        return flat["scale"], flat["offset"]
    found = scale_and_offset(node, flat["constant"])
    assert found is not None, "a constant divided by the input was refused before"
    return found


def _low(form: Format) -> int:
    return form.low


def _high(form: Format) -> int:
    return form.high


def _ends(form: Format) -> tuple[int, int]:
    return form.low, form.high
