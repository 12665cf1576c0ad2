"""How benchmarks take times."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax


def seconds(function: Callable[[], object], repeats: int = 3) -> float:
    """Return the least time of ``repeats`` runs, after one that compiles."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return min(times)
