"""The vectorised divergence against a plain transcription of the algorithm, bin by bin in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax import schemes
from ggdjax.ggd._histogram import Histogram
from ggdjax.schemes._kl_divergence import FIRST, LINEAR_BINS, divergences, linear_histogram
from ggdjax.schemes._magnitudes import magnitudes


def plain_divergence(mass: np.ndarray, groups: int, kept: int) -> float:
    """KL(P ‖ Q) for a clip after ``kept`` bins, by the definition."""
    p = mass[:kept].astype(np.float64)
    group = np.arange(kept) * groups // kept
    filled = p > 0
    sums = np.bincount(group, weights=p, minlength=groups)
    sizes = np.bincount(group, weights=filled, minlength=groups)
    q = np.where(filled, (sums / np.maximum(sizes, 1))[group], 0.0)
    p[-1] += mass[kept:].astype(np.float64).sum()
    if not filled[-1]:
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))


@pytest.fixture(scope="module")
def mass() -> np.ndarray:
    x = np.random.default_rng(11).laplace(size=300_000)
    counts = np.histogram(np.abs(x), LINEAR_BINS)[0]  # far out many bins are empty
    return (counts / counts.sum()).astype(np.float32)


@pytest.mark.parametrize("groups", [4, 16, 100, 256, 2048])
def test_divergences_agree_with_the_definition(mass, groups):
    found = np.asarray(divergences(jnp.asarray(mass), jnp.int32(groups)))
    assert np.isinf(found[: max(groups, FIRST) - 1]).all()
    for kept in (FIRST, 300, 777, 1000, 1500, 2000, LINEAR_BINS):
        if kept >= groups:
            expected = plain_divergence(mass, groups, kept)
            np.testing.assert_allclose(found[kept - 1], expected, rtol=1e-4, atol=3e-6)


def test_the_chosen_clip_has_the_least_divergence(mass):
    x = np.random.default_rng(12).laplace(size=300_000).astype(np.float32)
    histogram = Histogram.stack([Histogram.from_samples(np.abs(x))])
    size = magnitudes(histogram)
    rebuilt = np.asarray(linear_histogram(size))[0].astype(np.float64)
    rebuilt[0] = rebuilt[1]
    for bits in (4, 8):
        kept = round(float(schemes.choose("kl", histogram, bits).highest[0]) / float(size.peak[0]) * LINEAR_BINS)
        all_divergences = [plain_divergence(rebuilt, 2**bits, i) for i in range(max(FIRST, 2**bits), LINEAR_BINS + 1)]
        assert plain_divergence(rebuilt, 2**bits, kept) <= min(all_divergences) + 3e-6


def test_linear_bins_hold_what_they_should():
    x = np.abs(np.random.default_rng(13).normal(size=300_000)).astype(np.float32)
    size = magnitudes(Histogram.stack([Histogram.from_samples(x)]))
    rebuilt = np.asarray(linear_histogram(size))[0]
    counted = np.histogram(x, LINEAR_BINS, (0, x.max()))[0] / len(x)
    np.testing.assert_allclose(rebuilt.sum(), 1.0, rtol=1e-6)
    for edge in (100, 500, 1000, 1500):
        np.testing.assert_allclose(rebuilt[edge:].sum(), counted[edge:].sum(), rtol=0.02, atol=1e-6)


def test_above_the_bins_nothing_is_clipped():
    x = np.random.default_rng(14).laplace(size=10_000).astype(np.float32)
    for bits in (12, 16):
        np.testing.assert_allclose(
            schemes.choose("kl", np.abs(x), bits).step, schemes.choose("max-abs", np.abs(x), bits).step, rtol=1e-6
        )


def test_groups_may_be_traced(mass):
    jitted = jax.jit(divergences)
    np.testing.assert_allclose(jitted(mass, 16), divergences(jnp.asarray(mass), jnp.int32(16)), rtol=1e-6)
