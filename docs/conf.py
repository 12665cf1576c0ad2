"""Configuration of Sphinx. `make docs` runs every example in the pages and fails on any warning."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import ggdjax

HERE = Path(__file__).parent
BUILD = HERE / "_build"
sys.path.append(str(HERE / "_ext"))

project = "ggdjax"
author = "the ggdjax developers"
copyright = "2026, the ggdjax developers"
release = version = ggdjax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "packages", "file_tree", "run_time"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

html_theme = "furo"
html_title = f"ggdjax {release}"

# Python names in docstrings stand in single backticks.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"ArrayLike": "ArrayLike", "Source": "ggdjax.steps.Source"}
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype = False

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3


def _sources() -> str:
    """Return a digest of the package: what a page printed is kept only as long as the package stays the same."""
    digest = hashlib.sha256()
    for path in sorted((HERE.parent / "ggdjax").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


nb_execution_mode = "cache"
nb_execution_cache_path = str(BUILD / "executed" / _sources())
nb_execution_in_temp = True
nb_execution_raise_on_error = False  # a warning, which fails the build after all pages have run
nb_execution_timeout = 600
nb_merge_streams = True
nb_ipywidgets_js = {}  # sliders need a live kernel; the pages show figures

# Read by the kernels that run the pages: compiled programs are shared, plots have one look.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(BUILD / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# One guide runs the experiments of the repository, which are not installed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
# What runs once on a few images need not be optimized; compiling is most of the time.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
os.environ["MATPLOTLIBRC"] = str(HERE / "matplotlibrc")
