"""The exact integers that each operation makes, before they are requantized."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import GgdjaxError
from ggdjax.datapath._compiler import Sums, ends_of, grid_of, scaling_of
from ggdjax.datapath._formats import Format, signed_bits
from ggdjax.datapath._ops import method_of
from ggdjax.datapath._ranges import grid, headroom_of, window_of
from ggdjax.datapath._rounding import Overflow
from ggdjax.network._ops import PRODUCTS, QUANTIZABLE, window_counts

if TYPE_CHECKING:
    from ggdjax.datapath._compiler import Compiler
    from ggdjax.network import Node

#: Width of a rounded product.
_WIDE_BITS = 30


def _layer(compiler: Compiler, node: Node) -> Sums:
    layer, spec = compiler.layers[node.name], compiler.spec
    kernel, codes = layer.kernel, layer.source
    groups = node.attr("groups") if node.op == "conv" else 1
    held = compiler.held(layer)
    compiler.params[f"{node.name}/kernel"], compiler.params[f"{node.name}/bias"] = kernel, layer.bias
    attrs, source = dict(node.attrs), compiler.as_format(node.inputs[0], compiler.codes(node.inputs[0]))
    if (factors := attrs.pop("input_dilation", None)) is not None:
        source = _spread(compiler, node, source, factors)
    tensor = compiler.emit(
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
    return Sums(tensor=tensor, format=held, kind=spec.requantization)


def _spread(compiler: Compiler, node: Node, source: str, factors: Sequence[int]) -> str:
    """Put the zeros of a transposed convolution between the codes of its feature map; the rest is a convolution."""
    form = compiler.formats[source]
    zero = replace(form, low=min(form.low, 0), high=max(form.high, 0))
    tensor = compiler.emit(node.inputs[0], "spread", (source,), zero, factors=tuple(factors))
    batch, *space, channels = compiler.source.shape(node.inputs[0])
    sizes = ((size - 1) * factor + 1 for size, factor in zip(space, factors, strict=True))
    compiler.shapes[tensor] = (batch, *sizes, channels)
    return tensor


def _in_float(compiler: Compiler, node: Node) -> Sums:
    """Compute a layer or product in float between integers: codes where an input has any, else wide numbers."""
    own = [compiler.read_in_float(tensor) for tensor in node.inputs]
    form, keys = compiler.ranges.carry(node.output), [("kernel", f"{node.name}/kernel"), ("bias", f"{node.name}/bias")]
    arrays = {} if node.op in PRODUCTS else dict(zip(("kernel", "bias"), compiler.float_parameters(node), strict=True))
    params = tuple((role, key) for role, key in keys if np.ndim(arrays.get(role)))
    compiler.params |= {key: arrays[role] for role, key in params}
    tensor = compiler.emit(
        node.output,
        "in_float",
        tuple(compiler.as_format(tensor, each) for tensor, each in zip(node.inputs, own, strict=True)),
        form,
        name=node.name,
        params=params,
        **dict(node.attrs),
        layer=node.op,
        unit=own[0].scale[0] if len(own) == 1 else tuple(each.scale[0] for each in own),
        scale=form.scale[0],
        low=form.low,
        high=form.high,
    )
    return Sums(tensor=tensor, format=form, kind=compiler.spec.requantization)


def _argmax(compiler: Compiler, node: Node) -> Sums:
    form = Format(scale=(1.0,), low=0, high=window_of(compiler.source, node) - 1, role="acc")
    source = compiler.output(node.inputs[0])
    return Sums(
        tensor=compiler.emit(node.output, "argmax", (source,), form, name=node.name, **dict(node.attrs)), format=form
    )


def _rounded(compiler: Compiler, node: Node) -> Sums:
    form = grid_of(node)
    return Sums(tensor=compiler.as_format(node.inputs[0], form), format=form)


def _added(compiler: Compiler, node: Node) -> Sums:
    form = compiler.ranges.meeting(node.inputs)
    operands = node.inputs[::-1] if dict(node.attrs).get("reverse", False) else node.inputs
    x, y = (compiler.as_format(tensor, form) for tensor in operands)
    (a, b), (c, d) = ((compiler.formats[t].low, compiler.formats[t].high) for t in (x, y))
    low, high = (a + c, b + d) if node.op == "add" else (a - d, b - c)
    wide = replace(form, low=low, high=high, role="acc")
    return Sums(
        tensor=compiler.emit(node.output, node.op, (x, y), wide, name=node.name),
        format=wide,
        kind=compiler.spec.requantization,
    )


def _matrix_product(compiler: Compiler, node: Node) -> Sums:
    (low, high), scale = compiler.product_ends(node)
    bits = compiler.spec.accumulator_bits
    if (width := signed_bits(low, high)) > bits:
        raise GgdjaxError(
            f"the sums of `{node.name}` ({node.op}) can reach {low} to {high} and need {width} bits, "
            f"`accumulator_bits` are {bits}: raise them (up to 32) or narrow the feature maps"
        )
    tensors = [compiler.as_format(tensor, compiler.codes(tensor)) for tensor in node.inputs]
    ranges = tuple(ends_of(compiler.codes(tensor)) for tensor in node.inputs)
    held = Format(scale=(scale,), low=low, high=high, role="acc")
    tensor = compiler.emit(node.output, node.op, tensors, held, name=node.name, ranges=ranges)
    return Sums(tensor=tensor, format=held, kind=compiler.spec.requantization)


def _product(compiler: Compiler, node: Node) -> Sums:
    bits = compiler.spec.factor_bits
    forms = [
        compiler.natural(t, bits) or grid(compiler.ranges.magnitude(t, headroom_of(bits)), bits, "factor", t)
        for t in node.inputs
    ]
    x, y = (compiler.as_format(tensor, form) for tensor, form in zip(node.inputs, forms, strict=True))
    ends = [a * b for a in ends_of(compiler.formats[x]) for b in ends_of(compiler.formats[y])]
    low, high, scale = min(ends), max(ends), forms[0].scale[0] * forms[1].scale[0]
    if signed_bits(low, high) <= 32:
        exact = Format(scale=(scale,), low=low, high=high, role="acc")
        return Sums(tensor=compiler.emit(node.output, "mul", (x, y), exact, name=node.name), format=exact)
    # The product of the largest factors may be far more than the largest product.
    needed = min(max(-low, high), compiler.ranges.magnitude(node.output, headroom_of(_WIDE_BITS)) / scale)
    shift = max(1, math.ceil(needed).bit_length() - (_WIDE_BITS - 1))
    largest = (1 << (_WIDE_BITS - 1)) - 1
    low, high = max(low >> shift, -largest - 1), min(-(-high >> shift), largest)
    wide = Format(scale=(math.ldexp(scale, shift),), low=low, high=high, role="acc")
    limits = {"low": low, "high": high, "rounding": compiler.spec.rounding}
    tensor = compiler.emit(node.output, "wide_mul", (x, y), wide, name=node.name, dropped_bits=shift, **limits)
    return Sums(tensor=tensor, format=wide)


def _scaled(compiler: Compiler, node: Node) -> Sums:
    """Scale and shift per channel: ±x + constant in the units of |scale| · grid."""
    params = {role: np.asarray(compiler.q.params[key]) for role, key in node.params}
    scale, shift = scaling_of(node, params)
    form = compiler.ranges.carry(node.inputs[0])
    x = compiler.as_format(node.inputs[0], form)
    if compiler.ranges.bounds[node.inputs[0]] == (0.0, 0.0):  # it has no grid of its own
        scale = np.zeros_like(scale)
    # A constant alone takes 29 bits of its own.
    finest = np.ldexp(1.0, np.frexp(np.where(shift == 0, 1.0, shift))[1] - 29)
    sign, size = np.sign(scale).astype(int), np.where(scale == 0, finest, np.abs(scale) * form.scale[0])
    # A channel that is shifted by far more than it varies is held on a coarser grid, or is the constant alone.
    coarser = np.maximum(0, np.ceil(np.log2(np.maximum(np.abs(shift / size), 1.0))).astype(int) - 29)
    size, sign = np.ldexp(size, coarser), np.where(coarser > 30, 0, sign)
    constant = np.rint(shift / size)
    if coarser.any():
        shifts, (low, high) = np.minimum(coarser, 30), ends_of(compiler.formats[x])
        # Shifted channels lie nearer to zero, which may be outside of the ends.
        low, high = int((low >> shifts).min()), int((-(-high >> shifts)).max())
        held = replace(form, low=low, high=high)
        factors = {"multiplier": (1,) * shifts.size, "shift": tuple(shifts.reshape(-1).tolist())}
        x = compiler.emit(
            node.inputs[0],
            "requantize",
            (x,),
            held,
            **factors,
            shape=shifts.shape,
            low=low,
            high=high,
            rounding=compiler.spec.rounding,
        )
    spread, most = max(-compiler.formats[x].low, compiler.formats[x].high), int(np.abs(constant).max())
    # One number per channel is the sums' scale; where it differs over positions, it is their weight.
    scales, weights = (size, None) if size.ndim == 1 else (np.asarray(form.scale), size / form.scale[0])
    wide = Format(scale=tuple(scales.tolist()), low=-spread - most, high=spread + most, role="acc")
    flat = {"sign": sign, "constant": constant.astype(int)}
    tensor = compiler.emit(
        node.output,
        "offset",
        (x,),
        wide,
        name=node.name,
        shape=size.shape,
        **{name: tuple(value.reshape(-1).tolist()) for name, value in flat.items()},
    )
    return Sums(tensor=tensor, format=wide, weights=weights)


def _pooled(compiler: Compiler, node: Node) -> Sums:
    window = window_of(compiler.source, node)
    # The sum of the whole window must fit in 32 bits.
    bits = 32 - math.ceil(math.log2(window))
    form = compiler.natural(node.inputs[0], bits) or compiler.ranges.summand(node.inputs[0], window)
    x = compiler.as_format(node.inputs[0], form)
    low, high = (end * window for end in ends_of(compiler.formats[x]))
    weights, divisor = None, float(window)
    if node.op == "average_pool":
        attrs = dict(node.attrs)
        overhang, counted = attrs.pop("overhang"), attrs.pop("count_padding")
        space, space_out = (compiler.source.shape(t)[1:-1] for t in (node.inputs[0], node.output))
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
    tensor = compiler.emit(node.output, op, (x,), wide, name=node.name, **attrs)
    return Sums(tensor=tensor, format=wide, weights=weights)


#: Operation -> what makes its integers; `in_float` for layers in float, `scaling` for operations that scale channels.
MAKERS: dict[str, Callable[[Compiler, Node], Sums]] = {
    **dict.fromkeys(sorted(QUANTIZABLE), _layer),
    "add": _added,
    "argmax": _argmax,
    "average_pool": _pooled,
    "in_float": _in_float,
    "matmul": _matrix_product,
    "mean": _pooled,
    "mul": _product,
    "round_to_grid": _rounded,
    "scaling": _scaled,
    "sub": _added,
    "sum": _pooled,
}
