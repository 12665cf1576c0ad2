"""Operations without integers of their own, written as several that have them.

These are softmax, quotients, local response normalization, resizing, and choices between tensors.

A softmax is e · (1 / Σ e) with e = exp(min(x − max x, 0)), a quotient a · (1 / b): exponential and reciprocal are
tables, and the product is of two numbers of ``factor_bits``. The limits change nothing; they say what is proven: e
lies in (0, 1], and the sum of n of them, the largest of which is 1, in [1, n]. Local response normalization is
x · (bias + α/n · Σ x²)^(−β), the sum over neighbouring channels one of shifted squares, the power a table. Resizing
picks elements along an axis, or adds up a few of them, each times a weight that depends on the position. A choice
between tensors adds them up, each times 1 where it is chosen and 0 elsewhere; the masks are tables.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from ggdjax._errors import GgdjaxError
from ggdjax.datapath._functions import Functions
from ggdjax.datapath._masks import bounded
from ggdjax.network import Node
from ggdjax.network._resize import taps
from ggdjax.network._rewrites import of_largest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Array

    from ggdjax.network import Graph
    from ggdjax.network._graph import Shape
    from ggdjax.quantization import QuantizedNetwork

Bounds = tuple[float, float]


def lowered(
    q: QuantizedNetwork, graph: Graph, measured: Mapping[str, Bounds]
) -> tuple[QuantizedNetwork, dict[str, Bounds]]:
    """Return the network with ``graph`` rewritten, and what was measured with the ranges of new tensors beside it."""
    # A softmax that was taken off the end follows.
    graph, params, measured = bounded(q, graph, measured, logits=graph.outputs != q.graph.outputs)
    found, functions = _Lowering(params, graph, measured), Functions(graph, params)
    for node in graph.nodes:
        if node.op == "softmax":
            found.softmax(node)
        elif node.op == "resize":
            found.resize(node)
        elif node.op == "local_response_norm":
            found.response_norm(node)
        elif node.op == "div" and len(node.inputs) == 2:
            found.quotient(node)
        elif node.op == "sub" and of_largest(graph, node):
            found.away_from_largest(node)
        elif node.op == "select" and functions.of(node.output) is None:
            found.choice(node)
        else:
            found.nodes.append(node)
    rewritten = replace(graph, nodes=tuple(found.nodes), shapes=tuple(found.shapes.items()))
    return replace(q, graph=rewritten, params=found.params, record=q.record), found.measured


class _Lowering:
    def __init__(self, params: dict[str, Array], graph: Graph, measured: Mapping[str, Bounds]) -> None:
        self.nodes: list[Node] = []
        self.params, self.shapes = params, dict(graph.shapes)
        self.measured = dict(measured)

    def emit(self, op: str, inputs: tuple[str, ...], output: str, shape: Shape, /, **attrs: object) -> str:
        self.nodes.append(Node(name=output, op=op, inputs=inputs, output=output, attrs=tuple(sorted(attrs.items()))))
        self.shapes[output] = shape
        return output

    def with_constant(self, op: str, tensor: str, output: str, constant: np.ndarray | float, /, **attrs: object) -> str:
        self.emit(op, (tensor,), output, self.shapes[tensor], **attrs)
        key = f"{output}/constant"
        self.params[key] = jnp.asarray(constant, jnp.float32)
        self.nodes[-1] = self.nodes[-1].with_params(constant=key)
        return output

    def reciprocal(self, tensor: str, name: str) -> str:
        return self.with_constant("div", tensor, f"{name}.reciprocal", 1.0, reverse=True)

    def quotient(self, node: Node) -> None:
        first, second = node.inputs[::-1] if dict(node.attrs).get("reverse", False) else node.inputs
        factor = self.reciprocal(second, node.output)
        least, most = self.measured.get(second, (0.0, 0.0))
        if least > 0 or most < 0:
            self.measured[factor] = (1 / most, 1 / least)
        elif most > least:
            raise GgdjaxError(
                f"`{node.output}` divides by `{second}`, whose range in calibration holds zero: integers need a least "
                "divisor; divide by `jnp.maximum(divisor, least)` in the network, the larger `least` the finer"
            )
        self.nodes.append(replace(node, op="mul", inputs=(first, factor), attrs=()))

    def resize(self, node: Node) -> None:
        """Pick the nearest elements of each axis, or add up the neighbours, each times its weight by position."""
        (tensor,), attrs = node.inputs, dict(node.attrs)
        sizes, scales, last = attrs.pop("sizes"), attrs.pop("scales"), None
        for axis, (size, scale) in enumerate(zip(sizes, scales, strict=True)):
            if size is None:
                continue
            index, weights = taps(self.shapes[tensor][axis], size, scale, **attrs)
            shape = (*self.shapes[tensor][:axis], size, *self.shapes[tensor][axis + 1 :])
            least, most = self.measured.get(tensor, (0.0, 0.0))
            total = None
            for tap, (at, weight) in enumerate(zip(index.tolist(), weights, strict=True)):
                if not weight.any():
                    continue
                name = f"{node.output}.axis{axis}.{tap}"
                term = self.emit("gather", (tensor,), name, shape, axis=axis, indices=tuple(at))
                if attrs["method"] != "nearest":
                    factor = weight.reshape(-1, *(1,) * (len(shape) - axis - 1))
                    term = self.with_constant("mul", term, f"{name}.weighted", factor)
                if total is not None:
                    term = self.emit("add", (total, term), f"{name}.sum", shape)
                if most > least:
                    spread = float(np.abs(weights).sum(0).max()) * max(-least, most)
                    self.measured[term] = (-spread if least < 0 else 0.0, spread if most > 0 else 0.0)
                total = term
            tensor = last = total
        if last is None:
            self.emit("reshape", (tensor,), node.output, self.shapes[node.output], shape=_kept(self.shapes[tensor]))
            return
        self.nodes[-1] = replace(self.nodes[-1], output=node.output)

    def response_norm(self, node: Node) -> None:
        """Multiply by a power of the sum of the squares of neighbouring channels, the last axis."""
        (x,), name, attrs = node.inputs, node.output, dict(node.attrs)
        shape, size, beta = self.shapes[x], attrs["size"], attrs["beta"]
        channels, before = shape[-1], (size - 1) // 2
        known = x in self.measured
        most = max(map(abs, self.measured.get(x, (0.0, 0.0)))) ** 2
        squares = self.emit("mul", (x, x), f"{name}.squares", shape)
        padding = ((0, 0),) * (len(shape) - 1) + ((before, size - 1 - before),)
        padded = self.emit(
            "pad",
            (squares,),
            f"{name}.padded",
            (*shape[:-1], channels + size - 1),
            padding=padding,
            mode="constant",
            value=0.0,
        )
        total = None
        for k in range(size):
            slices = ((None, None, 1),) * (len(shape) - 1) + ((k, k + channels, 1),)
            term = self.emit("slice", (padded,), f"{name}.{k}", shape, slices=slices)
            total = term if total is None else self.emit("add", (total, term), f"{name}.sum{k}", shape)
            if known:
                self.measured |= {term: (0.0, most), total: (0.0, (k + 1) * most)}
        held = self.emit("clip", (total,), f"{name}.held", shape, low=0.0, high=None)
        inner = self.with_constant("mul", held, f"{name}.scaled", attrs["alpha"] / size)
        inner = self.with_constant("add", inner, f"{name}.inner", attrs["bias"])
        factor = self.emit("power", (inner,), f"{name}.factor", shape, exponent=-beta)
        if known:
            scaled, bias = attrs["alpha"] * most, attrs["bias"]
            self.measured |= {squares: (0.0, most), padded: (0.0, most), held: (0.0, size * most)}
            self.measured |= {f"{name}.scaled": (0.0, scaled), inner: (bias, bias + scaled)}
        self.nodes.append(replace(node, op="mul", inputs=(x, factor), attrs=()))

    def choice(self, node: Node) -> None:
        """Add up the branches that are not 0, each times a mask."""
        (x, *branches), attrs, shape = node.inputs, dict(node.attrs), self.shapes[node.output]
        terms = []
        for role, when in (("above", (1.0, 0.0)), ("below", (0.0, 1.0))):
            name, key = f"{node.output}.{role}", node.param(role)
            mask = self.emit("select", (x,), f"{name}.mask", self.shapes[x], **attrs)
            values = {}
            for where, value in zip(("above", "below"), when, strict=True):
                values[where] = f"{mask}/{where}"
                self.params[values[where]] = jnp.full((1,) * len(self.shapes[x]), value, jnp.float32)
            self.nodes[-1] = self.nodes[-1].with_params(**values)
            self.measured[mask] = (0.0, 1.0)
            if key is None:
                branch = branches.pop(0)
                seen = self.measured.get(branch)
                term = self.emit("mul", (branch, mask), f"{name}.chosen", shape)
            elif not (constant := np.asarray(self.params[key])).any():
                self.nodes.pop()
                continue
            else:
                seen = float(constant.min()), float(constant.max())
                term = self.with_constant("mul", mask, f"{name}.chosen", constant)
                self.shapes[term] = shape
            if seen is not None:
                self.measured[term] = (min(seen[0], 0.0), max(seen[1], 0.0))
            terms.append(term)
        if len(terms) == 1:
            self.nodes[-1] = replace(self.nodes[-1], name=node.name, output=node.output)
        else:
            self.nodes.append(replace(node, op="add", inputs=tuple(terms), attrs=(), params=()))

    def away_from_largest(self, node: Node) -> None:
        """Say of x − max x that it is not positive."""
        away = self.emit("sub", node.inputs, f"{node.output}.away", self.shapes[node.output])
        if node.output in self.measured:
            self.measured[away] = self.measured[node.output]
        self.nodes.append(replace(node, op="clip", inputs=(away,), attrs=(("high", 0.0), ("low", None))))

    def softmax(self, node: Node) -> None:
        (x,), axes, name = node.inputs, node.attr("axes"), node.output
        shape = self.shapes[x]
        axes = tuple(axis % len(shape) for axis in axes)
        reduced = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
        largest = self.emit("max", (x,), f"{name}.max", reduced, axes=axes, keepdims=True)
        away = self.emit("sub", (x, largest), f"{name}.away", shape)
        held = self.emit("clip", (away,), f"{name}.held", shape, low=None, high=0.0)
        powers = self.emit("exp", (held,), f"{name}.exp", shape)
        total = self.emit("sum", (powers,), f"{name}.sum", reduced, axes=axes, keepdims=True)
        sum_ = self.emit("clip", (total,), f"{name}.total", reduced, low=1.0, high=None)
        terms = float(prod(shape[axis] or 1 for axis in axes))
        if x in self.measured:
            least, most = self.measured[x]
            self.measured |= {largest: (least, most), away: (least - most, 0.0), held: (least - most, 0.0)}
        self.measured |= {powers: (0.0, 1.0), total: (0.0, terms), sum_: (1.0, terms)}
        factor = self.reciprocal(sum_, name)
        self.nodes.append(replace(node, op="mul", inputs=(powers, factor), attrs=()))


def _kept(shape: Shape) -> tuple[int, ...]:
    """Return the target of a reshape that changes nothing."""
    return tuple(-1 if size is None else size for size in shape)
