"""Free steps for weights against a dense search in float64."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from ggdjax import steps
from ggdjax._errors import GgdjaxError

BITS = 4


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    heavy = rng.standard_t(3, size=4000)
    kinds = [rng.normal(size=4000) * 0.02, rng.laplace(size=4000) * 50, heavy, np.abs(heavy), -np.abs(heavy)]
    return np.stack(kinds).astype(np.float32)


def squared_error(w: np.ndarray, step: float, bits: int) -> float:
    q = np.clip(np.round(w.astype(np.float64) / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return float(np.sum((w - step * q) ** 2))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_search_finds_the_least_error(rows, bits):
    found = np.asarray(steps.weight_step(rows, bits, axis=1), np.float64)
    for row, step in zip(rows, found, strict=True):
        candidates = np.abs(row).max() / (2 ** (bits - 1) - 1) * np.exp2(np.linspace(-8, 0.5, 1500))
        assert squared_error(row, step, bits) <= 1.001 * min(squared_error(row, s, bits) for s in candidates)


def test_free_steps_are_no_worse_than_powers_of_two_and_maxima(rows):
    frac_bits = np.asarray(steps.best_fractional_length(rows, BITS, axis=1).frac_bits)
    free, largest, fitted = (np.asarray(steps.weight_step(rows, BITS, m, axis=1)) for m in ("mse", "max", "ggd"))
    np.testing.assert_allclose(largest, np.abs(rows).max(1) / 7, rtol=1e-6)
    for i, row in enumerate(rows):
        least = squared_error(row, free[i], BITS)
        assert least <= 1.001 * squared_error(row, 2.0 ** -frac_bits[i], BITS)
        assert least <= 1.001 * squared_error(row, largest[i], BITS)
        # The fit is one of |w| with 2^(b−1) levels on each side, so one-signed rows lose the most.
        assert squared_error(row, fitted[i], BITS) <= 1.15 * least


@pytest.mark.parametrize("method", ["mse", "max", "ggd"])
def test_degenerate_rows_get_a_usable_step(rows, method):
    w = np.zeros_like(rows)
    w[1, :3] = 2.0, np.nan, np.inf
    w[2] = 1e-37
    w[3] = 1e37
    step = np.asarray(jax.jit(lambda x: steps.weight_step(x, BITS, method, axis=1))(w))
    assert np.isfinite(step).all()
    assert (step > 0).all()
    assert step[0] == 0.125


def test_arguments_out_of_range_are_named(rows):
    with pytest.raises(GgdjaxError, match="did you mean `mse`"):
        steps.weight_step(rows, 8, "msee")
    with pytest.raises(GgdjaxError, match="`bits` is 17"):
        steps.weight_step(rows, 17, "ggd")
