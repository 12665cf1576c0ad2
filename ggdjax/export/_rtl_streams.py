"""Streams of a part's values through its Verilog unit: memories, declarations, and the clocks of one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ggdjax.datapath._formats import bits_of, signed_bits
from ggdjax.export._hex import hex_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Int

    from ggdjax.datapath._program import Program
    from ggdjax.network import Node

#: Operations of the pooling unit -> what it does with a window.
POOLS = {"max": "maximum", "max_pool": "maximum", "sum_over": "sum", "sum_pool": "sum"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """The unit that makes the sums: its declarations, how one value is driven through it, its memories."""

    declarations: list[str]
    drive: list[str]
    files: dict[str, bytes]
    sum_bits: int
    adder: tuple[int, int] | None = None
    """Of an adder: whether it subtracts, and the width of its operands."""


def memory(name: str, bits: int, size: int) -> list[str]:
    """Return the declaration of a memory and the statement that fills it from its file."""
    return [f"reg [{bits - 1}:0] {name} [0:{size - 1}];", f'initial $readmemh("{name}.hex", {name});']


def layer_source(program: Program, node: Node, x: np.ndarray, lanes: int) -> Source:
    """Stream the rows of a convolution or dense node through the processing element."""
    spec, layer = program.accelerator, program.layers[node.name]
    kernel, tile = layer.kernel, node.attr("channel_tile")
    channels, per_group = kernel.shape[-1], kernel.shape[-2]
    if node.op == "conv":
        patches = _patches(x, kernel.shape[:-2], node.attr("strides"), node.attr("padding"), node.attr("dilation"))
        groups = node.attr("groups")
    else:
        patches, groups = x[..., None, :], 1
    taps = patches.shape[-2]
    rows = patches.reshape(-1, taps, groups, per_group).transpose(0, 2, 1, 3)
    rows, ends = _words(rows, tile, lanes)
    columns, _ = _words(kernel.reshape(taps, per_group, channels).transpose(2, 0, 1), tile, lanes)
    words, x_bits = len(ends), max(spec.activation_bits, bits_of(layer.source.low, layer.source.high))
    files = {
        "rows.hex": hex_lines(rows.reshape(-1, lanes), x_bits),
        "kernel.hex": hex_lines(columns.reshape(-1, lanes), spec.weight_bits),
        "bias.hex": hex_lines(layer.bias.reshape(-1, 1), spec.accumulator_bits),
        "ends.hex": hex_lines(ends.reshape(-1, 1), 1),
    }
    declarations = [
        *memory("rows", lanes * x_bits, rows.size // lanes),
        *memory("kernel", lanes * spec.weight_bits, columns.size // lanes),
        *memory("bias", spec.accumulator_bits, channels),
        *memory("ends", 1, words),
        f"reg [{lanes * x_bits - 1}:0] x;",
        f"reg [{lanes * spec.weight_bits - 1}:0] weights;",
        f"reg [{spec.accumulator_bits - 1}:0] start;",
        f"processing_element #(.LANES({lanes}), .X_BITS({x_bits}), .X_SIGNED({int(layer.source.low < 0)}),",
        f"    .PARTIAL_BITS({signed_bits(-layer.magnitude, layer.magnitude)}))",
        "    unit (clk, 1'b1, first, last, x, weights, start, sum, overflow);",
        "always @(negedge clk) overflows = overflows + overflow;",
    ]
    drive = [
        f"channel = n % {channels};",
        f"row = (n / {channels} * {groups} + channel / {channels // groups}) * {words};",
        "start = bias[channel];",
        f"for (k = 0; k < {words}; k = k + 1) begin",
        "    first = k == 0;",
        "    last = ends[k];",
        "    x = rows[row + k];",
        f"    weights = kernel[channel * {words} + k];",
        "    #1 clk = 1;",
        "    #1 clk = 0;",
        "end",
        "#1;",
    ]
    return Source(declarations=declarations, drive=drive, files=files, sum_bits=spec.accumulator_bits)


def pool_source(program: Program, node: Node, x: np.ndarray) -> Source:
    """Stream the windows of a pooling, or what a reduction reduces, through the pooling unit."""
    held = program.formats[node.inputs[0]]
    bits, maximum = signed_bits(held.low, held.high), POOLS[node.op] == "maximum"
    if node.op in {"max_pool", "sum_pool"}:
        # The smallest number of the width never wins over a value.
        fill = -(1 << (bits - 1)) if maximum else 0
        shape = (node.attr(name) for name in ("window", "strides", "padding", "dilation"))
        elements = np.moveaxis(_patches(x, *shape, fill=fill), -2, -1)
    else:
        axes = tuple(axis % x.ndim for axis in node.attr("axes"))
        others = tuple(axis for axis in range(x.ndim) if axis not in axes)
        elements = x.transpose(*others, *axes).reshape(*(x.shape[axis] for axis in others), -1)
    window = elements.shape[-1]
    sum_bits = bits if maximum else bits + (window - 1).bit_length()
    declarations = [
        *memory("elements", bits, elements.size),
        f"reg signed [{bits - 1}:0] x;",
        f"pooling #(.MAXIMUM({int(maximum)}), .X_BITS({bits}), .OUT_BITS(SUM_BITS))",
        "    unit (clk, 1'b1, first, x, sum);",
    ]
    drive = [
        f"for (k = 0; k < {window}; k = k + 1) begin",
        "    first = k == 0;",
        f"    x = elements[n * {window} + k];",
        "    #1 clk = 1;",
        "    #1 clk = 0;",
        "end",
        "#1;",
    ]
    files = {"elements.hex": hex_lines(elements.reshape(-1, 1), bits)}
    return Source(declarations=declarations, drive=drive, files=files, sum_bits=sum_bits)


def adder_source(program: Program, node: Node, values: Mapping[str, np.ndarray]) -> Source:
    """Stream both branches of an addition; the adders themselves stand beside their requantizers."""
    forms = [program.formats[tensor] for tensor in node.inputs]
    bits = signed_bits(min(f.low for f in forms), max(f.high for f in forms))
    shape = values[node.output].shape
    x, y = (np.broadcast_to(values[tensor], shape).reshape(-1, 1) for tensor in node.inputs)
    subtract = int(node.op == "sub")
    declarations = [
        *memory("left", bits, x.size),
        *memory("right", bits, x.size),
        f"reg signed [{bits - 1}:0] x, y;",
        f"residual_adder #(.SUBTRACT({subtract}), .X_BITS({bits})) unit",
        "    (.x(x), .y(y), .multiplier({`ACCELERATOR_MULTIPLIER_BITS{1'b0}}), .shift(6'd0), .sum(sum));",
    ]
    return Source(
        declarations=declarations,
        drive=["x = left[n];", "y = right[n];", "#1;"],
        files={"left.hex": hex_lines(x, bits), "right.hex": hex_lines(y, bits)},
        sum_bits=bits + 1,
        adder=(subtract, bits),
    )


def _patches(
    x: np.ndarray,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    fill: int = 0,
) -> Int[np.ndarray, "batch *space_out taps chan"]:
    """Return what each window sees."""
    x = np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=fill)
    space = [
        (size - step * (taps - 1) - 1) // stride + 1
        for size, taps, stride, step in zip(x.shape[1:-1], window, strides, dilation, strict=True)
    ]
    seen = []
    for at in np.ndindex(*window):
        first = [i * step for i, step in zip(at, dilation, strict=True)]
        where = [slice(f, f + (n - 1) * s + 1, s) for f, n, s in zip(first, space, strides, strict=True)]
        seen.append(x[(slice(None), *where)])
    return np.stack(seen, axis=-2)


def _words(
    values: Int[np.ndarray, "*rows taps chan"], tile: int, lanes: int
) -> tuple[Int[np.ndarray, "*rows words lanes"], Int[np.ndarray, " words"]]:
    """Return each row as words of ``lanes`` values, tile by tile, and which words end a tile."""
    words, ends = [], []
    for start in range(0, values.shape[-1], tile):
        part = values[..., start : start + tile]
        part = part.reshape(*part.shape[:-2], -1)
        missing = -part.shape[-1] % lanes
        part = np.pad(part, [(0, 0)] * (part.ndim - 1) + [(0, missing)])
        words.append(part.reshape(*part.shape[:-1], -1, lanes))
        ends += [0] * (words[-1].shape[-2] - 1) + [1]
    return np.concatenate(words, axis=-2), np.asarray(ends)
