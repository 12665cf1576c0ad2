"""Each backend counts in its own way; all give the same integers."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax.ggd import Counter, _counting


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """More than two blocks of a rectified tensor with whatever else float32 holds."""
    x = np.maximum(np.random.default_rng(0).normal(size=2 * 8192 + 777), 0).astype(np.float32)
    x[:6], x[100:200] = [np.nan, np.inf, -np.inf, -0.0, 1e-40, -1e-40], -x[100:200]
    return x


WAYS = {"gpu": _counting._add_beside_zeros, "tpu": _counting._add_by_products}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [1, 777, 8192, 17_000])
@pytest.mark.parametrize("share", [None, 0.0, 0.6])
def test_the_ways_of_accelerators_count_what_a_cpu_counts(way, size, share, values):
    x = jnp.asarray(values[:size])
    count = None if share is None else jnp.int32(share * size)
    start = Counter.empty().add(values[::-1])
    here = start.add(x, count)
    function = WAYS[way] if count is None else partial(_counting._first, WAYS[way])
    there = jax.jit(function)(start, x, *(() if count is None else (count,)))
    for own, other in zip(here.read(), there.read(), strict=True):
        np.testing.assert_array_equal(own, other)
    assert int(here.read()[0].sum() + here.read()[1]) == len(values) + (size if count is None else int(count))
