"""Random cases by seed, each form of them against the others: none may be different.

    python -m experiments run fuzz --kinds integers --workers 8
    python -m experiments run fuzz --kinds onnx tracer --ranges 0-1999
    python -m experiments.fuzzing integers 35 35                            one seed, in full

`integers`: networks with their data, widths and scales (`experiments.random_networks`; from seed 5,000 on of more
operations). Each layer gets the codes of the fake-quantized network; then 99 % of the codes of every feature map must
be equal (of a tie, both are right), none more than one LSB away, the outputs 40 dB near, and ONNX Runtime must give the
program's integers; every 20th network runs in Verilog too, where Icarus Verilog is installed. Of what is refused, the
message's remedy is followed. Compiling warns of codes that wide integers are too coarse for; those may differ.

`onnx`: models of all operators that the importer has (`experiments.random_onnx`), against ONNX Runtime without its
optimizations. `tracer`: functions of `jax.lax`, `jax.numpy`, `jax.nn` and Linen, some inside `jit`, `checkpoint` and
`vmap` (`experiments.random_functions`), against themselves. Both on batches of three images and of one, beyond float
tolerance. What is refused is counted by kind. About a second a case on one core, nearly all of it compiling.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from experiments import fuzzing
from experiments.experiment import Cell, Experiment, Names, check_known, seeds_of
from ggdjax import GgdjaxError


@dataclass(frozen=True, kw_only=True)
class Fuzz(Experiment):
    """Random networks, ONNX files and functions, each form of them against the others, of kinds × seeds."""

    NAME: ClassVar[str] = "fuzz"
    AXES: ClassVar[tuple[str, ...]] = ("kinds", "ranges")
    NEEDS_IMAGES: ClassVar[bool] = False
    TAKES_OWN: ClassVar[bool] = False
    FREE: ClassVar[str] = "random"

    networks: Names = ("random",)
    """Drawn, one per seed of a range."""
    kinds: tuple[str, ...] = tuple(fuzzing.KINDS)
    """What is drawn."""
    ranges: tuple[str, ...] = tuple(f"{first}-{first + 99}" for first in range(10_000, 20_000, 100))
    """Of seeds, the first and the last; those before have results."""

    def check(self) -> None:
        """Refuse unknown names and what is no range."""
        check_known(self, "kinds", fuzzing.KINDS)
        check_known(self, "networks", ("random",))
        for text in self.ranges:
            seeds_of(text)

    def prepare(self, network: str, seed: int) -> None:
        """Return nothing: each cell is a process of its own."""

    def measure(self, prepared: None, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return the counts of one range of seeds."""
        command = [sys.executable, "-m", "experiments.fuzzing", cell["kind"], *cell["range"].split("-")]
        environment = os.environ | fuzzing.environment()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            raise GgdjaxError(f"the process of these seeds failed: {last}")
        return json.loads(done.stdout.splitlines()[-1])

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return how many cases ended in each way."""
        return {"found": ", ".join(f"{count} {state}" for state, count in row["states"].items())}


CONFIGS = {
    "fuzz": Fuzz(),
    "fuzz-tiny": Fuzz(ranges=("0-1",)),
}
