"""What a cost is computed for: the hardware, and the widths of the numbers."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from ggdjax._errors import GgdjaxError, near_matches
from ggdjax.cost._energy import EnergyTable
from ggdjax.datapath import Accelerator


class Dataflow(enum.StrEnum):
    """Which data stay where they are while the others move."""

    OUTPUT_STATIONARY = "output-stationary"
    WEIGHT_STATIONARY = "weight-stationary"
    ROW_STATIONARY = "row-stationary"


@dataclass(frozen=True, kw_only=True)
class HardwareModel:
    """An array of multiply-accumulate units beside one buffer beside DRAM.

    The defaults have the size of Eyeriss (Chen, Krishna, Emer & Sze, JSSC 2017): 12 × 14 units with registers for 224
    weights, 12 inputs and 24 sums each, a buffer of 108 KiB, row stationary; not its energy, which is another
    process's.

    Raises:
        GgdjaxError: a field is out of its range.
    """

    rows: int = 12
    """Units down, 1 to 65536."""
    columns: int = 14
    """Units across, 1 to 65536."""
    buffer_bytes: int = 108 * 1024
    """Capacity of the buffer between array and DRAM, at least 1."""
    weight_registers: int = 224
    """Weights that a unit holds in the row-stationary dataflow, 1 to 65536; the other two hold one of each kind."""
    input_registers: int = 12
    """Inputs that it holds, likewise."""
    sum_registers: int = 24
    """Partial sums that it holds, likewise."""
    dataflow: Dataflow = Dataflow.ROW_STATIONARY
    """Which data stay where they are."""
    accelerator: Accelerator = field(default_factory=Accelerator)
    """The datapath. Partial sums have its ``accumulator_bits``; those of floating-point products, their width."""
    energy: EnergyTable = field(default_factory=EnergyTable)
    """Energy per operation."""

    @property
    def sum_bits(self) -> int:
        """Width of a partial sum of integer products: that of the accelerator's accumulator."""
        return self.accelerator.accumulator_bits

    def __post_init__(self) -> None:
        for name in ("rows", "columns", "weight_registers", "input_registers", "sum_registers"):
            _check_whole(name, getattr(self, name), 1, 65536)
        _check_whole("buffer_bytes", self.buffer_bytes, 1, 2**50)
        try:
            object.__setattr__(self, "dataflow", Dataflow(self.dataflow))
        except ValueError:
            raise GgdjaxError(
                f"`dataflow` is {self.dataflow!r}; {near_matches(str(self.dataflow), list(Dataflow))}"
            ) from None
        if not isinstance(self.accelerator, Accelerator):
            raise GgdjaxError(f"`accelerator` must be an Accelerator (see Accelerator.load), got {self.accelerator!r}")
        if not isinstance(self.energy, EnergyTable):
            raise GgdjaxError(f"`energy` must be an EnergyTable (see EnergyTable.load), got {self.energy!r}")


@dataclass(frozen=True, kw_only=True)
class Widths:
    """One set of widths for a whole network.

    Raises:
        GgdjaxError: a width is out of its range, or ``floating`` with other than three times 16 or 32 bits.
    """

    weight_bits: int = 8
    """Of weights, 1 to 32."""
    activation_bits: int = 8
    """Of feature maps, 1 to 32."""
    bias_bits: int = 16
    """Of biases, 1 to 32."""
    floating: bool = False
    """Whether all numbers are floating point."""

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits", "bias_bits"):
            _check_whole(name, getattr(self, name), 1, 32)
        bits = {self.weight_bits, self.activation_bits, self.bias_bits}
        if self.floating and bits not in ({16}, {32}):
            raise GgdjaxError(f"`floating` takes one width of 16 or 32 bits for all numbers, got {sorted(bits)}")

    @property
    def name(self) -> str:
        """``float32``, or the widths of weights and feature maps as ``8/8``."""
        return f"float{self.weight_bits}" if self.floating else f"{self.weight_bits}/{self.activation_bits}"


def _check_whole(name: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise GgdjaxError(f"`{name}` must be an integer from {least} to {most}, got {value!r}")


#: What networks are trained in.
FLOAT32 = Widths(weight_bits=32, activation_bits=32, bias_bits=32, floating=True)
#: 16-bit fixed point, the plain choice of accelerators; biases too.
FIXED16 = Widths(weight_bits=16, activation_bits=16)
