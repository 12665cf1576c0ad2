"""The Verilog reference of the datapath, run on the layers of a real network against the simulator."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import GgdjaxError, expect_path, near_matches
from ggdjax.datapath._compile import as_program, refuse_float
from ggdjax.datapath._rounding import Rounding
from ggdjax.datapath._simulate import simulate
from ggdjax.export._memories import slug
from ggdjax.export._testbench import parts, testbench

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike

    from jax.typing import ArrayLike

    from ggdjax.datapath._program import Program
    from ggdjax.export._testbench import Testbench

#: Folder of the Verilog sources.
RTL = Path(__file__).parent / "rtl"


@dataclass(frozen=True, kw_only=True)
class RtlCheck:
    """One layer, pooling or addition, with the requantizers that read it, in Verilog."""

    layer: str
    op: str
    values: int
    """Output values."""
    checks: int
    """Comparisons: each value's sum, and its code by every requantizer and rounding; and the count of overflows."""
    overflows: int
    """Sums that the simulator's accumulators could not hold; the hardware's count is compared with it."""
    wrong: int
    """Comparisons that failed."""


@dataclass(frozen=True, kw_only=True)
class RtlResult:
    """All parts that were run."""

    parts: tuple[RtlCheck, ...]

    @property
    def values(self) -> int:
        """Output values of all parts."""
        return sum(part.values for part in self.parts)

    @property
    def checks(self) -> int:
        """Comparisons in all parts."""
        return sum(part.checks for part in self.parts)

    @property
    def wrong(self) -> int:
        """Comparisons that failed in all parts."""
        return sum(part.wrong for part in self.parts)


def rtl_layers(program: Program) -> tuple[str, ...]:
    """Return the names of the layers, poolings and additions that the Verilog reference has a unit for, in order."""
    program = as_program(program)
    refuse_float(program, "Verilog")
    return tuple(parts(program))


def write_testbenches(
    program: Program,
    images: ArrayLike,
    folder: str | PathLike[str],
    *,
    layers: Sequence[str] | None = None,
    rounding: Sequence[Rounding | str] | None = None,
    lanes: int = 16,
) -> tuple[str, ...]:
    """Write a folder per layer: a testbench, the Verilog sources, and golden vectors as `$readmemh` files.

    In each folder ``iverilog -g2012 -o check *.v && vvp -n check`` prints ``PASS`` or ``FAIL`` and the number of
    comparisons.

    Args:
        program: what :func:`ggdjax.datapath.compile` returned.
        images: a batch in the layout of the network's own input.
        folder: where; made if it does not exist.
        layers: some of `rtl_layers`; None: all of them.
        rounding: roundings of the requantizers, all on the same sums; None: the accelerator's.
        lanes: products per clock of the processing element.

    Returns:
        The names of the folders, one per layer, in order.

    Raises:
        GgdjaxError: a layer or a rounding is unknown, ``lanes`` is not positive, or the folder cannot be written.
    """
    program = as_program(program)
    refuse_float(program, "Verilog")
    folder = expect_path("folder", folder, "the name of a folder")
    names = []
    for name, bench in _testbenches(program, images, layers, rounding, lanes):
        names.append(f"{len(names):03d}_{slug(name)}")
        _write(bench, folder / names[-1])
    return tuple(names)


def verify_rtl(
    program: Program,
    images: ArrayLike,
    *,
    layers: Sequence[str] | None = None,
    rounding: Sequence[Rounding | str] | None = None,
    lanes: int = 16,
) -> RtlResult:
    """Run the Verilog reference in Icarus Verilog on whole layers and compare it with the simulator, bit by bit.

    Processing element, pooling, residual adder and requantizers; lookup tables, products of two tensors and leaky
    ReLUs have no Verilog unit and are left out. One part after another: one to two million products a second.

    Args:
        program: what :func:`ggdjax.datapath.compile` returned.
        images: a batch in the layout of the network's own input.
        layers: some of `rtl_layers`; None: all of them.
        rounding: roundings of the requantizers, all on the same sums; None: the accelerator's.
        lanes: products per clock of the processing element.

    Raises:
        GgdjaxError: Icarus Verilog is not installed or fails; a layer or a rounding is unknown; ``lanes`` is not
            positive.
    """
    program = as_program(program)
    refuse_float(program, "Verilog")
    missing = [tool for tool in ("iverilog", "vvp") if shutil.which(tool) is None]
    if missing:
        raise GgdjaxError(f"`{missing[0]}` was not found: install Icarus Verilog (Debian's package iverilog)")
    known, checked = parts(program), []
    for name, bench in _testbenches(program, images, layers, rounding, lanes):
        with tempfile.TemporaryDirectory() as folder:
            _write(bench, Path(folder))
            wrong = _run(Path(folder), name, bench.checks)
        measured = {field: getattr(bench, field) for field in ("values", "checks", "overflows")}
        checked.append(RtlCheck(layer=name, op=known[name].node.op, wrong=wrong, **measured))
    return RtlResult(parts=tuple(checked))


def _testbenches(
    program: Program,
    images: ArrayLike,
    layers: Sequence[str] | None,
    rounding: Sequence[Rounding | str] | None,
    lanes: int,
) -> Iterator[tuple[str, Testbench]]:
    known = parts(program)
    for name in layers or ():
        if name not in known:
            raise GgdjaxError(f"`layers` holds `{name}`, which has no Verilog unit; {near_matches(name, known)}")
    if lanes < 1:
        raise GgdjaxError(f"`lanes` must be a positive number of products per clock, got {lanes}")
    try:
        roundings = [Rounding(r) for r in rounding or (program.accelerator.rounding,)]
    except ValueError:
        raise GgdjaxError(f"`rounding` {rounding!r} must hold some of {', '.join(Rounding)}") from None
    # All tensors at once, whichever layers are asked for: one compilation per program.
    tensors = tuple(dict.fromkeys(tensor for part in known.values() for tensor in part.tensors))
    kept, overflows = simulate(program.graph, tensors, program.params, program._checked(images))
    for name in known if layers is None else layers:
        values = {tensor: np.asarray(kept[tensor]) for tensor in known[name].tensors}
        yield name, testbench(program, known[name], values, int(overflows.get(name, 0)), roundings, lanes)


def _write(bench: Testbench, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source in RTL.glob("*.v"):
            shutil.copyfile(source, folder / source.name)
        for name, content in bench.files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise GgdjaxError(f"`folder` {folder} cannot be written: {error.strerror}; choose another place") from None


def _run(folder: Path, name: str, checks: int) -> int:
    """Compile and run a testbench; return how many comparisons failed."""
    sources = sorted(path.name for path in folder.glob("*.v"))
    output = ""
    for command in (["iverilog", "-g2012", "-o", "check", *sources], ["vvp", "-n", "check"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        if done.returncode:
            raise GgdjaxError(f"`{command[0]}` failed on `{name}`: {output.strip().splitlines()[-1:]}")
    verdict = output.strip().splitlines()[-1].split() if output.strip() else [""]
    if verdict == ["PASS", str(checks)]:
        return 0
    if verdict[0] == "FAIL":
        return int(verdict[1])
    raise GgdjaxError(f"the testbench of `{name}` did not end with PASS {checks}: {' '.join(verdict)}")
