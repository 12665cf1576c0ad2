"""The arrays of a program as memories for hardware: which, how wide, in which order; and as a C header."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax.export._hex import hex_lines, parse_hex
from ggdjax.network._ops import QUANTIZABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Int

    from ggdjax.datapath._program import Program
    from ggdjax.network import Node

#: Static arguments of requantizers that are memories -> whether they are shifts.
FACTORS = {"multiplier": False, "shift": True, "negative_multiplier": False, "negative_shift": True}
SHIFT_BITS = 6
#: Characters of a network's name in those of files, which file systems and C limit.
_LONGEST = 40


@dataclass(frozen=True, kw_only=True)
class Memory:
    """One array of a node: ``values`` in the order of its file, one word each."""

    file: str
    node: str
    role: str
    """``kernel``, ``bias``, ``table``, or a factor of a requantizer."""
    bits: int
    signed: bool
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    """Sizes of ``axes``, the last varying fastest."""
    values: Int[np.ndarray, " words"] = field(repr=False)

    def hex(self) -> bytes:
        """Return the content of its file."""
        return hex_lines(self.values.reshape(-1, 1), self.bits)

    def entry(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {name: value for name, value in vars(self).items() if name != "values"}


def memories(program: Program) -> Iterator[Memory]:
    """Yield the memories of a program in order of execution."""
    spec = program.accelerator
    for index, node in enumerate(program.graph.nodes):
        if node.op in QUANTIZABLE:
            # As a processing element reads it: one output channel after another.
            kernel = np.moveaxis(program.params[_key(node, "kernel")], -1, 0)
            window = ("depth", "height", "width")[5 - kernel.ndim :] if node.op == "conv" else ()
            yield _memory(index, node, "kernel", kernel, spec.weight_bits, True, ("cout", *window, "cin"))
            bias = program.params[_key(node, "bias")]
            yield _memory(index, node, "bias", bias, spec.bias_bits, True, ("cout",))
        elif node.op == "lookup":
            form = program.formats[node.output]
            table = program.params[_key(node, "table")]
            bits = form.bits if form.zero_point == 0 else 32
            yield _memory(index, node, "table", table, bits, form.low < 0 or bits == 32, ("entry",))
        else:  # of what is interpolated, and limits per channel
            for role, key in node.params:
                values = program.params[key]
                axes = ("entry",) if role == "table" else tuple(f"axis{k}" for k in range(values.ndim))
                yield _memory(index, node, role, values, 32, True, axes)
        attrs = dict(node.attrs)
        for role in (role for role in FACTORS if role in attrs):
            values = np.asarray(attrs[role])
            signed, widest = bool(values.min() < 0), int(np.abs(values).max()).bit_length()
            bits = SHIFT_BITS if FACTORS[role] else max(spec.multiplier_bits, widest) + signed
            yield _memory(index, node, role, values, bits, signed, ("factor",))


def _key(node: Node, role: str) -> str:
    key = node.param(role)
    assert key is not None  # compiling gives every layer a kernel and a bias, every lookup a table
    return key


def _memory(
    index: int, node: Node, role: str, values: np.ndarray, bits: int, signed: bool, axes: tuple[str, ...]
) -> Memory:
    return Memory(
        file=f"memories/{index:03d}_{slug(node.name)}.{role}.hex",
        node=node.name,
        role=role,
        bits=bits,
        signed=signed,
        axes=axes,
        shape=values.shape,
        values=values.reshape(-1),
    )


def read_memory(entry: dict[str, Any], content: bytes) -> Int[np.ndarray, "..."]:
    """Return the array of a manifest's entry in the program's own order of axes, int64.

    Raises:
        GgdjaxError: the content is no memory of that width.
    """
    words = parse_hex(content, entry["bits"], entry["signed"], f"`{entry['file']}`").reshape(entry["shape"])
    return np.moveaxis(words, 0, -1) if entry["role"] == "kernel" else words


def slug(name: str) -> str:
    """Return a name that files and C identifiers can have: the end of a long one, where names differ most."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)[-_LONGEST:]


def c_header(found: list[Memory]) -> str:
    """Return a C99 header with every memory as a constant array of the narrowest standard type."""
    lines = [
        "/* The integer arrays of a quantized network, in the order of the files in memories/; see manifest.json. */",
        "#ifndef GGDJAX_PROGRAM_H",
        "#define GGDJAX_PROGRAM_H",
        "#include <stdint.h>",
        "",
    ]
    for memory in found:
        width = next(w for w in (8, 16, 32) if memory.bits <= w)
        kind = f"{'' if memory.signed else 'u'}int{width}_t"
        name = memory.file.removeprefix("memories/").removesuffix(".hex").replace(".", "_")
        axes = ", ".join(f"{axis} {size}" for axis, size in zip(memory.axes, memory.shape, strict=True))
        lines += [
            f"/* {memory.role} of {memory.node.replace('*/', '')}: {axes}; {memory.bits} bits */",
            f"static const {kind} m{name}[{memory.values.size}] = {{",
        ]
        for start in range(0, memory.values.size, 16):
            row = memory.values[start : start + 16].tolist()
            # The smallest int32 has no literal of its own in C.
            lines.append("    " + " ".join(f"{v}," if v > -(2**31) else "(-2147483647 - 1)," for v in row))
        lines += ["};", ""]
    return "\n".join([*lines, "#endif", ""])
