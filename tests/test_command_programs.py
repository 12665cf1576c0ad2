"""How many programs XLA compiles for each command, on the embedded digits network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import pytest

from ggdjax.cli import main
from tests.programs import Programs

if TYPE_CHECKING:
    from pathlib import Path

#: Tracing the network evaluates its batch normalizations.
TRACE = 15


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Return by command what a fresh process compiles."""
    folder: Path = tmp_path_factory.mktemp("programs")
    run, found = folder / "run", {}

    def count(name: str, words: str) -> None:
        jax.clear_caches()
        with Programs() as programs:
            main(words.split())
        found[name] = len(programs)

    count("inspect", "inspect")
    count("quantize", f"quantize --calibration-images 64 --held-out-images 128 --out {run}")
    count("evaluate", f"evaluate {run}")
    count("integers", f"evaluate {run} --integers")
    count("inspect run", f"inspect {run}")
    for form in ("qdq", "integer-onnx", "qonnx", "bundle"):
        count(form, f"export {run} --to {form} --out {folder / form}")
    tuning = "--tune-images 64 --tune-seconds 1 --held-out-images 128"
    count("search", f"tune {run} --out {folder / 'searched'} {tuning} --gradient-steps 0")
    count("gradient", f"tune {run} --out {folder / 'descended'} {tuning} --tune-sweeps 0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ggdjax.schemes.names", lambda: ("ggd", "max-abs"))
        count("report", f"report {run}")
    return found


@pytest.mark.parametrize(
    ("command", "most"),
    [
        ("inspect", TRACE),
        ("quantize", TRACE + 23),
        ("evaluate", 1),
        ("integers", 5),
        ("inspect run", 1),
        ("qdq", 1),
        ("integer-onnx", 1),
        ("qonnx", 1),
        ("bundle", 1),
        # Two per feature map: a stretch of the network, and the images repeated for their candidates.
        ("search", 2 * 7 + 7),
        ("gradient", 9),
        # One per scheme, and those that measure and draw.
        ("report", 2 + 13),
    ],
)
def test_programs(compiled: dict[str, int], command: str, most: int) -> None:
    assert compiled[command] <= most
