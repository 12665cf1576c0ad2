"""The shape of the package: light import, imports in one direction, every public name there and documented."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest

import ggdjax

PACKAGE = Path(ggdjax.__file__).parent
HEAVY = {"flax", "matplotlib", "numpyro", "onnx", "optax", "PIL", "scipy", "tensorflow"}

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
    "recipe": {"network", "quantization", "tune", "data", "datapath", "cost"},
    "report": {
        "ggd",
        "steps",
        "schemes",
        "network",
        "quantization",
        "tune",
        "datapath",
        "cost",
        "data",
        "zoo",
        "recipe",
    },
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
    return found - {
        "_citation",
        "_tables",
        "_division",
        "_mapping",
        "_errors",
        "_exported",
        "_fields",
        "_files",
        "_load",
        "_lock",
        "_atomic",
        "_ranking",
    }


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_one_way(package):
    for path in sorted((PACKAGE / package).rglob("*.py")):
        wrong = packages_of(path.read_text(encoding="utf-8")) - MAY_IMPORT[package] - {package}
        assert not wrong, f"{path.relative_to(PACKAGE)} imports {wrong}"


def test_every_package_is_listed():
    packages = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert packages == set(MAY_IMPORT) | {"cli"}


def imports_of(path: Path, modules: dict[str, Path]) -> set[str]:
    """Return the modules among ``modules`` that one imports, anywhere in it, under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= submodules
            # `from package import name` imports the package only where some name is no submodule of it.
            found |= set() if submodules <= set(modules) else {node.module}
    return found & set(modules)


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import one another, directly or not: those that reach themselves."""
    reach = {module: set(found) for module, found in imports.items()}
    for middle, beyond in reach.items():
        for found in reach.values():
            if middle in found:
                found.update(beyond)
    groups = {frozenset(b for b in reach[a] if a in reach[b]) for a in reach if a in reach[a]}
    return sorted(sorted(group) for group in groups)


def test_no_circle_of_imports():
    modules = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        modules[".".join(part for part in parts if part != "__init__")] = path
    assert circles({module: imports_of(path, modules) for module, path in modules.items()}) == []


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_no_public_name_hides_a_module(package):
    folder, value = PACKAGE / package, importlib.import_module(f"ggdjax.{package}")
    submodules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    hidden = [n for n in value.__all__ if n in submodules and not isinstance(getattr(value, n), types.ModuleType)]
    assert not hidden, f"{hidden} name a function or class, and the file that it stands in"


@pytest.mark.parametrize("module", ["ggdjax", *(f"ggdjax.{package}" for package in MAY_IMPORT)])
def test_public_names_exist_and_are_documented(module):
    package = importlib.import_module(module)
    for name in package.__all__:
        value = getattr(package, name)
        if callable(value):
            assert value.__doc__, f"{module}.{name} has no docstring"
