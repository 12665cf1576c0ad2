"""The documentation: examples in docstrings run as they stand, and nothing public is without its page."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from experiments.store import read_rows
from ggdjax.cli import main

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.md"))
PACKAGES = [name for name in gd.__all__ if isinstance(getattr(gd, name), ModuleType)]
#: What every example may use without importing it; the reference says so.
NAMES = {"gd": gd, "jax": jax, "jnp": jnp, "np": np}


def _examples(module_name: str) -> dict[str, doctest.DocTest]:
    """Return the examples of the module's public names and of their methods."""
    module = importlib.import_module(module_name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [
        example
        for name in module.__all__
        if callable(value := getattr(module, name))
        for example in finder.find(value, f"{module_name}.{name}", module=False, globs=NAMES)
    ]
    return {example.name: example for example in found if example.examples}


@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.parametrize("package", PACKAGES)
def test_examples_run(package, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for example in _examples(f"ggdjax.{package}").values():
        runner.run(example)
    assert runner.failures == 0, capsys.readouterr().out
    assert runner.tries > 0


def test_every_everyday_name_has_an_example():
    everyday = {f"ggdjax.{name}" for name in gd.__all__ if name not in [*PACKAGES, "GgdjaxError"]}
    assert everyday <= set(_examples("ggdjax"))


def test_every_package_is_in_the_reference():
    # The directive `package` takes the names from `__all__`, and building the pages fails for any that is missing.
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.rst"))
    assert set(re.findall(r"\.\. package:: ([\w.]+)", pages)) == {
        "ggdjax",
        *(f"ggdjax.{package}" for package in PACKAGES),
    }


def test_the_check_builds_the_pages_after_the_tests():
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8").split("\n")
    assert steps.index("make test") < steps.index("make docs")
    assert "-m sphinx --quiet --fail-on-warning" in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_in_the_pages_and_ends_in_an_assertion(path):
    cells = re.findall(r"```{code-cell}.*?\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert re.search(r"^assert ", cells[-1], flags=re.MULTILINE)
    assert f"notebooks/{path.stem}\n" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


def test_figures_of_other_tools_are_those_on_record():
    page = (ROOT / "docs" / "instead.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!ggdjax)[A-Z].*?\| (?:tensor|channel) \|(.*)\|$", page, flags=re.MULTILINE)
    (record,) = (ROOT / "experiments" / "results" / "peers").glob("other_tools_*.csv")
    assert record.name in page
    known = {line for line in record.read_text(encoding="utf-8").splitlines() if line.startswith("resnet20,")}
    for row in rows:
        for widths, figure in zip(("8/8", "6/6", "4/4"), row.split("|"), strict=True):
            top1 = f"0.{figure.strip().replace('.', '')}"
            assert not figure.strip() or any(f",{widths},{top1}," in line for line in known), (widths, figure)
    assert rows
    tuned = read_rows(ROOT / "experiments" / "results" / "gradient")
    (ours,) = re.findall(r"^\| ggdjax, tuned.*?\| tensor \|(.*)\|$", page, flags=re.MULTILINE)
    for bits, figure in zip(("8/8", "6/6", "4/4"), ours.split("|"), strict=True):
        wanted = ("resnet20", "gradient", bits)
        found = [row for row in tuned if (row["network"], row["method"], row["widths"]) == wanted]
        assert [f"{100 * row['top1']:.2f}" for row in found] == [figure.strip()]


SKILL = (ROOT / "SKILL.md").read_text(encoding="utf-8")


def test_the_code_for_assistants_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", SKILL, re.DOTALL)
    exec(compile(code, "SKILL.md", "exec"), {})
    assert {path.name for path in tmp_path.iterdir()} == {"net.safetensors", "net.onnx"}


@pytest.mark.parametrize("command", ["inspect", "quantize", "evaluate", "export", "report"])
def test_the_commands_for_assistants_exist(command, capsys):
    (lines,) = re.findall(r"```\n(ggdjax inspect.*?)```", SKILL, re.DOTALL)
    options = re.findall(r"--[a-z-]+", " ".join(re.findall(rf"^ggdjax {command} [^#\n]*", lines, re.MULTILINE)))
    with pytest.raises(SystemExit, match=r"^0$"):
        main([command, "--help"])
    usage = capsys.readouterr().out
    assert all(option in usage for option in options)
