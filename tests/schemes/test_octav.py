from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from ggdjax import schemes


def modelled_error(s: float, x: np.ndarray, levels: int) -> float:
    """Sakr et al. 2022, eq. 5, on samples."""
    size = np.abs(x[x != 0]).astype(np.float64)
    return s**2 / (12 * levels**2) * np.mean(size <= s) + np.sum((size[size > s] - s) ** 2) / len(size)


@pytest.mark.parametrize("bits", [2, 4, 8, 12])
@pytest.mark.parametrize("signed", [False, True])
def test_the_recursion_finds_the_clip_of_least_modelled_error(bits, signed):
    rng = np.random.default_rng(bits)
    x = rng.gamma(0.7, size=200_000) ** 1.3
    x = (x * rng.choice([-1, 1], x.size) if signed else np.where(rng.random(x.size) < 0.5, 0, x)).astype(np.float32)
    levels = 2 ** (bits - signed)
    clip = float(schemes.choose("octav", x, bits).step) * levels
    bounds = (0.5 * clip, min(2 * clip, np.abs(x).max()))
    found = optimize.minimize_scalar(modelled_error, bounds=bounds, args=(x, levels), method="bounded")
    assert modelled_error(clip, x, levels) <= found.fun * (1 + 2e-3)


def test_it_has_converged_at_sixteen_bits():
    x = np.random.default_rng(1).exponential(size=1_000_000).astype(np.float32)
    levels = 2**16
    s = float(schemes.choose("octav", x, 16).step) * levels
    again = x[x > s].sum(dtype=np.float64) / (np.sum(x <= s) / (12.0 * levels**2) + np.sum(x > s))
    np.testing.assert_allclose(again, s, rtol=1e-3)
