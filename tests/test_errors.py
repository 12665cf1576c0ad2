"""The error matrix: each wrong input gives one line that says what was given, what was expected and what to do.

Its cases are in `tests/errors`, a list in each file. A case is (name, what to run, what the line must say, what is
prepared); what is run is a command line or a function of the `World`. Nothing may be left half written: the folder
`place`, which the outputs go to, must be as it was.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ggdjax._errors import GgdjaxError
from tests.errors.data import DATA
from tests.errors.environment import ENVIRONMENT
from tests.errors.files import FILES
from tests.errors.kept import KEPT
from tests.errors.networks import NETWORKS
from tests.errors.numbers import NUMBERS
from tests.errors.options import OPTIONS
from tests.errors.world import Case, Q, World, shell, words

CASES = [*FILES, *DATA, *OPTIONS, *NUMBERS, *NETWORKS, *KEPT, *ENVIRONMENT]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def cased(world, tmp_path, monkeypatch):
    """The world with empty folders for one case."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    world.given, world.place = tmp_path / "given", tmp_path / "place"
    world.given.mkdir()
    world.place.mkdir()
    return world


def tree(root: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in root.rglob("*")}


def message(w: World, case: Case, capsys) -> str:
    """Run a case; return what a user reads."""
    if isinstance(case.run, str):
        with pytest.raises(SystemExit) as stop:
            shell(w, case.run)
        assert stop.value.code == 2
        return capsys.readouterr().err.removesuffix("\n")
    with pytest.raises((GgdjaxError, SystemExit)) as stop:
        case.run(w)
    if isinstance(stop.value, GgdjaxError):
        return str(stop.value)
    assert stop.value.code == 2
    return capsys.readouterr().err.removesuffix("\n")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_wrong_input_gives_one_clear_line(case, cased, capsys):
    if case.given is not None:
        case.given(cased)
    capsys.readouterr()
    before = tree(cased.place)
    line = message(cased, case, capsys)
    assert "\n" not in line
    assert [part for part in case.says.split(" | ") if part not in line] == [], line
    assert tree(cased.place) == before


def test_the_matrix_is_as_large_as_promised():
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.says.count(" | ") >= 1 for case in CASES)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("quantize {given}/gone.onnx --data {images} --size 8 --out {place}/run", "gone.onnx"),
        (Q + " --activation-bits 17", "`--activation-bits` must be an integer number of bits from 2 to 16, got 17"),
        ("tune {given}/gone --out {place}/run", "no result.json"),
        ("quantize --weight-bit 8", "ggdjax quantize --help"),
        ("report {given}", "no result.json"),
    ],
)
def test_as_a_program(line, says, cased):
    """A new interpreter: status 2, one line on standard error, nothing on standard output."""
    command = [sys.executable, "-c", "from ggdjax.cli import main; main()", *words(cased, line)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ggdjax: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert tree(cased.place) == {}
