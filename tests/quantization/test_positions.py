"""Which positions of a feature map are counted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax.quantization._positions import extremes, run_length, spread_positions


@pytest.mark.parametrize(
    ("shape", "values", "run"),
    [
        ((2, 8, 8, 4), 64, 4),  # 16 positions of 64
        ((2, 8, 8, 4), 65, 2),  # 32: 16 would be one value short
        ((2, 8, 8, 4), 1, 64),
        ((2, 8, 8, 4), 257, 1),
        ((2, 8, 8, 4), None, 1),
        ((2, 7, 7, 1), 8, 1),  # 49 has the divisors 7 and 49
        ((2, 7, 7, 1), 7, 7),
        ((2, 100), 1, 1),  # no positions
        ((2, 13, 16), 16, 13),
    ],
)
def test_run_is_the_longest_divisor_that_leaves_enough(shape, values, run):
    assert run_length(shape, values) == run


def test_one_position_of_each_run_and_all_of_them_in_turn():
    images, positions, run = 200, 12, 4
    x = jnp.tile(jnp.arange(positions, dtype=jnp.float32).reshape(1, 3, 4, 1), (images, 1, 1, 2))
    found = np.asarray(spread_positions(x, run, jnp.arange(images)))
    assert found.shape == (images, 3, 2)
    np.testing.assert_array_equal(found[..., 0], found[..., 1])
    np.testing.assert_array_equal(found[..., 0] // run, np.tile([0, 1, 2], (images, 1)))
    # Every position about as often as others: 50 times of 200, within five standard deviations.
    times = np.bincount(found[..., 0].astype(int).reshape(-1), minlength=positions)
    assert np.abs(times - images / run).max() < 5 * np.sqrt(images / run)
    # It is the number of an image that tells, wherever the image stands.
    np.testing.assert_array_equal(spread_positions(x[7:9], run, jnp.array([7, 8])), found[7:9])


def test_extremes_of_any_rank():
    x = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float32)
    assert [float(v) for v in extremes(jnp.asarray(x))] == [x.min(), x.max()]
    assert [float(v) for v in extremes(jnp.float32(2.5))] == [2.5, 2.5]
    for size in (3, 5000):  # XLA's fast minimum of many rows leaves NaN out
        x = np.zeros((size, 8), np.float32)
        x[2, 3] = np.nan
        assert all(np.isnan(jax.jit(extremes)(x)))
