"""Testbenches for the Verilog reference: the parts of a program, their vectors, and the text that checks them.

A part is one node that makes integers (a layer, a pooling, an addition) together with the requantizers that read it.
Values stream through the unit under test in the order of the simulator's array, channels fastest; a layer's inputs
lie in memory as the rows of its matrix product, zero padding written out, tile by tile of input channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax.datapath import ops
from ggdjax.datapath._hex import hex_lines
from ggdjax.datapath.formats import signed_bits
from ggdjax.datapath.rounding import Overflow, Rounding
from ggdjax.datapath.simulate import Counting
from ggdjax.network import run
from ggdjax.network.ops import QUANTIZABLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Array, Int

    from ggdjax.datapath.formats import Format
    from ggdjax.datapath.program import Program
    from ggdjax.datapath.spec import Accelerator
    from ggdjax.network import Graph, Node

#: Parameter ROUNDING of `rtl/requantizer.v`.
ROUNDINGS = {rounding: k for k, rounding in enumerate(Rounding)}
_POOLS = {"max": "maximum", "max_pool": "maximum", "sum_over": "sum", "sum_pool": "sum"}
_ADDERS = frozenset({"add", "sub"})
_READERS = frozenset({"requantize", "saturate"})


@dataclass(frozen=True, kw_only=True)
class Part:
    """A node of the integer graph that the Verilog reference has a unit for, and the requantizers that read it."""

    node: Node
    readers: tuple[Node, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """What must be known of a run of the simulator."""
        return (*self.node.inputs, self.node.output, *(reader.output for reader in self.readers))


def parts(program: Program) -> dict[str, Part]:
    """Return the parts of a program by the name of their first node, in order."""
    readers: dict[str, list[Node]] = {}
    for node in program.graph.nodes:
        if node.op in _READERS:
            readers.setdefault(node.inputs[0], []).append(node)
    return {
        node.name: Part(node=node, readers=tuple(readers.get(node.output, ())))
        for node in program.graph.nodes
        if node.op in QUANTIZABLE or node.op in _POOLS or node.op in _ADDERS
    }


class _Keeping(Counting):
    """Keep the tensors, and count the overflows of every layer."""

    def __init__(self, keep: tuple[str, ...]) -> None:
        super().__init__({})
        self._keep = frozenset(keep)


@partial(jax.jit, static_argnums=(0, 1))
def simulate(
    graph: Graph, tensors: tuple[str, ...], params: Mapping[str, Array], x: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the integers of some tensors, and the number of overflows of every layer."""
    numerics = _Keeping(tensors)
    run(graph, params, x, numerics)
    return numerics.kept, {name: counts.overflows for name, counts in numerics.counts.items()}


@dataclass(frozen=True, kw_only=True)
class Testbench:
    """The files of one testbench and what they check."""

    files: dict[str, bytes]
    values: int
    """Output values of the part."""
    checks: int
    """Comparisons: of the sums, and of every requantizer with every rounding; of the count of overflows."""
    overflows: int


def verilog_parameters(accelerator: Accelerator) -> str:
    """Return the text of `parameters.vh`: the widths and rules of an accelerator as Verilog macros.

    The modules in `ggdjax/datapath/rtl` take their defaults from it.
    """
    values = {
        "ACTIVATION_BITS": accelerator.activation_bits,
        "WEIGHT_BITS": accelerator.weight_bits,
        "MULTIPLIER_BITS": accelerator.multiplier_bits,
        "ACCUMULATOR_BITS": accelerator.accumulator_bits,
        "CARRY_BITS": accelerator.carry_bits,
        "ROUNDING": ROUNDINGS[accelerator.rounding],
        "SATURATE": int(accelerator.overflow is Overflow.SATURATE),
    }
    lines = [f"`define ACCELERATOR_{name} {value}" for name, value in values.items()]
    legend = ", ".join(f"{k} {rounding.value.replace('_', ' ')}" for rounding, k in ROUNDINGS.items())
    return "\n".join(
        [
            "// The accelerator's widths and rules, written from its specification.",
            f"// ROUNDING: {legend}.",
            "`ifndef ACCELERATOR_PARAMETERS",
            "`define ACCELERATOR_PARAMETERS",
            *lines,
            "`endif",
            "",
        ]
    )


def testbench(
    program: Program,
    part: Part,
    values: Mapping[str, Int[np.ndarray, "..."]],
    overflows: int,
    roundings: Sequence[Rounding],
    lanes: int,
) -> Testbench:
    """Return the files of the testbench of one part.

    Args:
        program: the compiled network.
        part: one of its `parts`.
        values: the simulator's integers of the part's tensors.
        overflows: how often the part's accumulators overflowed; 0 where it has none.
        roundings: of the requantizers.
        lanes: products per clock of the processing element.
    """
    node = part.node
    if node.op in QUANTIZABLE:
        source = _layer(program, node, values[node.inputs[0]], lanes)
    elif node.op in _POOLS:
        source = _pool(program, node, values[node.inputs[0]])
    else:
        source = _adder(program, node, values)
    expected = values[node.output]
    files = {"sums.hex": hex_lines(expected.reshape(-1, 1), source.sum_bits)} | source.files
    declarations, checks = list(source.declarations), []
    for index, reader in enumerate(part.readers):
        codes = {rounding: _codes(program, reader, values, rounding) for rounding in roundings}
        texts, memories = _reader(program, reader, index, codes, source)
        declarations += texts[0]
        checks += texts[1]
        files |= memories
    text = _TEMPLATE.format(
        count=expected.size,
        sum_bits=source.sum_bits,
        declarations="\n".join(f"    {line}" for line in declarations),
        drive="\n".join(f"            {line}" for line in source.drive),
        checks="\n".join(f"            {line}" for line in checks),
        overflows=overflows,
    )
    files |= {"testbench.v": text.encode(), "parameters.vh": verilog_parameters(program.accelerator).encode()}
    comparisons = expected.size * (1 + len(part.readers) * len(roundings)) + 1
    return Testbench(files=files, values=expected.size, checks=comparisons, overflows=overflows)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The unit that makes the sums: its declarations, how one value is driven through it, its memories."""

    declarations: list[str]
    drive: list[str]
    files: dict[str, bytes]
    sum_bits: int
    adder: tuple[int, int] | None = None
    """Of an adder: whether it subtracts, and the width of its operands."""


_TEMPLATE = """\
// Checks one part of a network against the integer simulator; prints PASS or FAIL and the number of comparisons.
`include "parameters.vh"

module testbench;
    localparam COUNT = {count};
    localparam SUM_BITS = {sum_bits};
    reg clk = 0;
    reg first = 0;
    reg last = 0;
    integer n, k, channel, row, checked, wrong, overflows;
    reg signed [SUM_BITS-1:0] sums [0:COUNT-1];
    wire signed [SUM_BITS-1:0] sum;
    wire overflow;
{declarations}

    task check(input equal);
        begin
            checked = checked + 1;
            if (equal !== 1'b1) begin
                wrong = wrong + 1;
                if (wrong <= 5) $display("value %0d differs, sum %0d, expected %0d", n, sum, sums[n]);
            end
        end
    endtask

    initial begin
        checked = 0;
        wrong = 0;
        overflows = 0;
        $readmemh("sums.hex", sums);
        for (n = 0; n < COUNT; n = n + 1) begin
{drive}
            check(sum === sums[n]);
{checks}
        end
        check(overflows == {overflows});
        if (wrong == 0) $display("PASS %0d", checked);
        else $display("FAIL %0d of %0d", wrong, checked);
        $finish;
    end
endmodule
"""


def _memory(name: str, bits: int, size: int) -> list[str]:
    return [f"reg [{bits - 1}:0] {name} [0:{size - 1}];", f'initial $readmemh("{name}.hex", {name});']


def _layer(program: Program, node: Node, x: np.ndarray, lanes: int) -> _Source:
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
    words, x_bits = len(ends), max(spec.activation_bits, layer.source.bits)
    files = {
        "rows.hex": hex_lines(rows.reshape(-1, lanes), x_bits),
        "kernel.hex": hex_lines(columns.reshape(-1, lanes), spec.weight_bits),
        "bias.hex": hex_lines(layer.bias.reshape(-1, 1), spec.accumulator_bits),
        "ends.hex": hex_lines(ends.reshape(-1, 1), 1),
    }
    declarations = [
        *_memory("rows", lanes * x_bits, rows.size // lanes),
        *_memory("kernel", lanes * spec.weight_bits, columns.size // lanes),
        *_memory("bias", spec.accumulator_bits, channels),
        *_memory("ends", 1, words),
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
    return _Source(declarations=declarations, drive=drive, files=files, sum_bits=spec.accumulator_bits)


def _pool(program: Program, node: Node, x: np.ndarray) -> _Source:
    """Stream the windows of a pooling, or what a reduction reduces, through the pooling unit."""
    held = program.formats[node.inputs[0]]
    bits, maximum = signed_bits(held.low, held.high), _POOLS[node.op] == "maximum"
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
        *_memory("elements", bits, elements.size),
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
    return _Source(declarations=declarations, drive=drive, files=files, sum_bits=sum_bits)


def _adder(program: Program, node: Node, values: Mapping[str, np.ndarray]) -> _Source:
    """Stream both branches of an addition; the adders themselves stand beside their requantizers."""
    forms = [program.formats[tensor] for tensor in node.inputs]
    bits = signed_bits(min(f.low for f in forms), max(f.high for f in forms))
    shape = values[node.output].shape
    x, y = (np.broadcast_to(values[tensor], shape).reshape(-1, 1) for tensor in node.inputs)
    subtract = int(node.op == "sub")
    declarations = [
        *_memory("left", bits, x.size),
        *_memory("right", bits, x.size),
        f"reg signed [{bits - 1}:0] x, y;",
        f"residual_adder #(.SUBTRACT({subtract}), .X_BITS({bits})) unit",
        "    (.x(x), .y(y), .multiplier({`ACCELERATOR_MULTIPLIER_BITS{1'b0}}), .shift(6'd0), .sum(sum));",
    ]
    return _Source(
        declarations=declarations,
        drive=["x = left[n];", "y = right[n];", "#1;"],
        files={"left.hex": hex_lines(x, bits), "right.hex": hex_lines(y, bits)},
        sum_bits=bits + 1,
        adder=(subtract, bits),
    )


def _reader(
    program: Program, reader: Node, index: int, codes: Mapping[Rounding, np.ndarray], source: _Source
) -> tuple[tuple[list[str], list[str]], dict[str, bytes]]:
    """Return declarations and checks of one requantizer with every rounding, and its memories."""
    form: Format = program.formats[reader.output]
    attrs, shape = _requantization(reader), next(iter(codes.values())).shape
    trailing = shape[len(shape) - len(attrs["shape"]) :]
    multiplier, shift = (
        np.broadcast_to(np.asarray(attrs[name]).reshape(attrs["shape"]), trailing).reshape(-1, 1)
        for name in ("multiplier", "shift")
    )
    widest, bits = int(multiplier.max()).bit_length(), form.bits
    multiplier_bits = max(program.accelerator.multiplier_bits, widest)
    low, high = attrs["low"], attrs["high"]
    files = {f"multiplier{index}.hex": hex_lines(multiplier, multiplier_bits), f"shift{index}.hex": hex_lines(shift, 6)}
    declarations = [
        *_memory(f"multiplier{index}", multiplier_bits, multiplier.size),
        *_memory(f"shift{index}", 6, shift.size),
        f"reg [{multiplier_bits - 1}:0] m{index};",
        f"reg [5:0] s{index};",
    ]
    checks = [
        f"m{index} = multiplier{index}[n % {multiplier.size}];",
        f"s{index} = shift{index}[n % {shift.size}];",
        "#1;",
    ]
    for rounding, expected in codes.items():
        name = f"codes{index}_{rounding.value}"
        files[f"{name}.hex"] = hex_lines(expected.reshape(-1, 1), bits)
        limits = f".OUT_BITS({bits}), .LOW({low}), .HIGH({high}), .ROUNDING({ROUNDINGS[rounding]})"
        unit = f"y{index}_{rounding.value}"
        declarations += [*_memory(name, bits, expected.size), f"wire [{bits - 1}:0] {unit};"]
        if source.adder is None:
            declarations += [
                f"requantizer #(.IN_BITS(SUM_BITS), .MULTIPLIER_BITS({multiplier_bits}), {limits})",
                f"    {unit}_unit (.x(sum), .multiplier(m{index}), .shift(s{index}), .y({unit}));",
            ]
        else:
            subtract, x_bits = source.adder
            declarations += [
                f"residual_adder #(.SUBTRACT({subtract}), .X_BITS({x_bits}), .MULTIPLIER_BITS({multiplier_bits}), "
                f"{limits})",
                f"    {unit}_unit (.x(x), .y(y), .multiplier(m{index}), .shift(s{index}), .code({unit}));",
            ]
        checks.append(f"check({unit} === {name}[n]);")
    return (declarations, checks), files


def _requantization(reader: Node) -> dict[str, Any]:
    """Return the static arguments of a requantizer; one that only saturates multiplies by 1."""
    if reader.op == "requantize":
        return dict(reader.attrs)
    return {"multiplier": (1,), "shift": (0,), "shape": ()} | dict(reader.attrs)


def _codes(program: Program, reader: Node, values: Mapping[str, np.ndarray], rounding: Rounding) -> np.ndarray:
    """Return the simulator's codes: those of its run, or with another rounding of the same sums."""
    if rounding is program.accelerator.rounding:
        return values[reader.output]
    sums = jnp.asarray(values[reader.inputs[0]])
    return np.asarray(ops.requantize(sums, **_requantization(reader) | {"rounding": rounding}))


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
