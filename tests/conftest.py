"""Strict by default: warnings are errors, ranks and dtypes never change silently."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

#: Real networks and images live outside the repository: beside it, or where this variable points.
DATA_VARIABLE = "GGDJAX_DATA"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real networks and images, or skip with the reason."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get(DATA_VARIABLE, beside))
    if not (folder / "models" / "models.json").is_file():
        pytest.skip(f"real networks and images not found in {folder} (set {DATA_VARIABLE} to their folder)")
    return folder
