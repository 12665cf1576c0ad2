"""Strict by default: warnings are errors, ranks and dtypes never change silently."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

# Workers, and the programs that tests start, share what XLA has compiled: most of the suite's time is compiling. Read
# when jax is imported; the first process makes the folder and removes it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="ggdjax-tests-")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# A test runs a program a few times at most, on little data: what LLVM gains by optimizing never pays for its time.
# Fusion emitters double what is left, and a worker of a core gains nothing by compiling in pieces side by side; an
# unknown flag ends the process, so that only a version that was tried gets them.
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    if version("jaxlib").startswith("0.10."):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

import jax
import pytest
from jaxtyping import install_import_hook

# The hook takes a name; what is imported before it is not checked.
import tests.shapes

install_import_hook("ggdjax", f"{tests.shapes.__name__}.checked")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

#: Real networks and images live outside the repository: beside it, or where this variable points.
DATA_VARIABLE = "GGDJAX_DATA"


#: Linux lets a process map 65,530 pieces of memory; each program that XLA compiles for a CPU takes several, and a
#: worker that reaches the limit crashes.
MOST_MAPS = 15_000


def pytest_collection_finish() -> None:
    """Leave what lives for the whole run out of garbage collections: tracing starts many."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True, scope="module")
def few_compiled_programs():
    """Drop what is compiled before it fills the process: the folder above brings most of it back at once."""
    yield
    maps = Path("/proc/self/maps")
    if maps.is_file() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module")
def quickly_compiled():
    """Compile without optimizations, and trace what this platform runs alone: each program runs once."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    with pytest.MonkeyPatch.context() as patch:
        if jax.default_backend() == "cpu":
            patch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, **_others: cpu(*args))
        yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()  # others may lower the same functions for other platforms


@pytest.fixture(scope="module")
def optimized_chains():
    """Compile the chains of posteriors as for users: hundreds of steps in a loop run for longer than that takes."""
    from ggdjax.ggd import _posterior

    options = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
    whole = jax.jit(_posterior._sample.__wrapped__, static_argnames=("draws", "warmup"), compiler_options=options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_posterior, "_sample", whole)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real networks and images, or skip with the reason."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get(DATA_VARIABLE, beside))
    if not (folder / "models" / "models.json").is_file():
        pytest.skip(f"real networks and images not found in {folder} (set {DATA_VARIABLE} to their folder)")
    return folder
