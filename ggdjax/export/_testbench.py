"""Testbenches for the Verilog reference: the parts of a program, their vectors, and the text that checks them.

A part is one node that makes integers (a layer, a pooling, an addition) together with the requantizers that read it.
Values stream through the unit under test in the order of the simulator's array, channels fastest; a layer's inputs
lie in memory as the rows of its matrix product, zero padding written out, tile by tile of input channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from ggdjax._errors import expect
from ggdjax.datapath import _ops as ops
from ggdjax.datapath._rounding import Overflow, Rounding
from ggdjax.export._hex import hex_lines
from ggdjax.export._rtl_streams import POOLS, Source, adder_source, layer_source, memory, pool_source
from ggdjax.network._ops import QUANTIZABLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Int

    from ggdjax.datapath._formats import Format
    from ggdjax.datapath._program import Program
    from ggdjax.datapath._spec import Accelerator
    from ggdjax.network import Node

#: Parameter ROUNDING of `rtl/requantizer.v`.
ROUNDINGS = {rounding: k for k, rounding in enumerate(Rounding)}
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
    graph = program.graph
    return {
        node.name: Part(node=node, readers=tuple(r for r in graph.readers(node.output) if r.op in _READERS))
        for node in graph.nodes
        if node.op in QUANTIZABLE or node.op in POOLS or node.op in _ADDERS
    }


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

    The modules in `ggdjax/export/rtl` take their defaults from it.
    """
    expect("accelerator", accelerator, "Accelerator")
    values = {
        "ACTIVATION_BITS": accelerator.activation_bits,
        "WEIGHT_BITS": accelerator.weight_bits,
        "MULTIPLIER_BITS": accelerator.multiplier_bits,
        "ACCUMULATOR_BITS": accelerator.accumulator_bits,
        "CARRY_BITS": accelerator.residual_bits,
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
        source = layer_source(program, node, values[node.inputs[0]], lanes)
    elif node.op in POOLS:
        source = pool_source(program, node, values[node.inputs[0]])
    else:
        source = adder_source(program, node, values)
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


def _reader(
    program: Program, reader: Node, index: int, codes: Mapping[Rounding, np.ndarray], source: Source
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
        *memory(f"multiplier{index}", multiplier_bits, multiplier.size),
        *memory(f"shift{index}", 6, shift.size),
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
        declarations += [*memory(name, bits, expected.size), f"wire [{bits - 1}:0] {unit};"]
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
