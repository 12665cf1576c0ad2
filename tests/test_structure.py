"""The shape of the package: light import, imports in one direction, every public name there and documented."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import ggdjax

PACKAGE = Path(ggdjax.__file__).parent
HEAVY = {"flax", "matplotlib", "numpyro", "onnx", "optax", "optimistix", "PIL", "scipy", "sklearn", "tensorflow"}

#: Package -> the packages it may import: the order in which data flow through them.
MAY_IMPORT = {
    "ggd": set(),
    "steps": {"ggd"},
    "schemes": {"ggd", "steps"},
    "network": set(),
    "data": set(),
    "quantization": {"ggd", "steps", "schemes", "network"},
    "tune": {"ggd", "steps", "schemes", "network", "quantization"},
    "datapath": {"network", "quantization", "schemes", "steps"},
    "export": {"network", "quantization", "datapath"},
    "cost": {"network", "quantization", "datapath"},
    "zoo": {"network", "data"},
    "report": {"ggd", "steps", "schemes", "network", "quantization", "tune", "datapath", "cost", "data", "zoo"},
}


def imported_by(code: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has loaded after ``code``."""
    listing = f"{code}\nimport sys; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_is_light():
    everyday = "import ggdjax as gd; gd.GeneralizedGamma, gd.Histogram, gd.fit, gd.closed_form_step, gd.optimal_step"
    assert not imported_by("import ggdjax") & (HEAVY | {"jax"})
    assert not imported_by(everyday) & HEAVY


def packages_of(source: str) -> set[str]:
    """Return the packages of ggdjax that a module imports, anywhere in it but under TYPE_CHECKING."""
    found = set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module != "ggdjax" else [f"ggdjax.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name and name.startswith("ggdjax.")}
    return found - {"_errors", "_fields", "_files", "_lock", "_whole"}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_one_way(package):
    for path in sorted((PACKAGE / package).rglob("*.py")):
        wrong = packages_of(path.read_text(encoding="utf-8")) - MAY_IMPORT[package] - {package}
        assert not wrong, f"{path.relative_to(PACKAGE)} imports {wrong}"


def test_every_package_is_listed():
    packages = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert packages == set(MAY_IMPORT) | {"cli"}


@pytest.mark.parametrize("module", ["ggdjax", *(f"ggdjax.{package}" for package in MAY_IMPORT)])
def test_public_names_exist_and_are_documented(module):
    package = importlib.import_module(module)
    for name in package.__all__:
        value = getattr(package, name)
        if callable(value):
            assert value.__doc__, f"{module}.{name} has no docstring"
