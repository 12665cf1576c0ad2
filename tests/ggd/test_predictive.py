"""The predictive histogram of few images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax._errors import GgdjaxError
from ggdjax.ggd import Histogram

SIZE = 20_000
ROWS = ("exponential", "two-sided", "saturated", "constant", "zeros")


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    rows = [
        rng.exponential(size=SIZE),
        np.where(rng.random(SIZE) < 0.5, 1.0, -0.5) * rng.exponential(size=SIZE),
        np.clip(rng.normal(scale=4.0, size=SIZE), 0.0, 6.0),
        np.full(SIZE, 2.0),
        np.zeros(SIZE),
    ]
    return np.stack(rows).astype(np.float32)


@pytest.fixture(scope="module")
def counted(samples):
    return Histogram.from_samples(samples, axis=-1)


def _above(histogram: Histogram, row: int, threshold: float) -> float:
    edges = (np.arange(1 << 15, dtype=np.uint32) << 16).view(np.float32)[: 255 << 7]
    return float(np.asarray(histogram.counts[row])[: 255 << 7][edges >= threshold].sum())


def test_it_is_the_mixture_over_random_scales(samples, counted):
    one = counted.predictive(1)
    z = np.linspace(-4.0, 4.0, 41)
    weight, scale = np.exp(-0.5 * z * z) / np.exp(-0.5 * z * z).sum(), np.exp(z * 0.2 * np.sqrt(2.0))
    for threshold in (0.25, 1.0, 4.0, 8.0, 12.0):
        moved = sum(w * np.sum(samples[0] * s >= threshold) for w, s in zip(weight, scale, strict=True))
        wanted = 0.5 * (np.sum(samples[0] >= threshold) + moved)
        assert abs(_above(one, 0, threshold) - wanted) < 0.01 * wanted + 0.05
    np.testing.assert_allclose(one.count, counted.count, rtol=1e-5)
    np.testing.assert_allclose(one.zeros, counted.zeros)
    np.testing.assert_allclose(one.negative_fraction, counted.negative_fraction, rtol=1e-4)


def test_many_images_change_nothing_and_few_widen(counted):
    energy = np.asarray(counted.power_sum(2), np.float64)
    few, many = (np.asarray(counted.predictive(n).power_sum(2), np.float64) for n in (1, 10**6))
    np.testing.assert_allclose(many, energy, rtol=1e-4)
    assert (few[:2] > 1.05 * energy[:2]).all()


def test_mass_stays_at_a_limit_and_a_point_mass_does_not_move(samples, counted):
    one = counted.predictive(1, limits=(np.full(5, -3.0), np.full(5, 9.0)))
    # A limit below what was seen is none.
    np.testing.assert_allclose(one.maximum, [*np.maximum(9.0, samples[:2].max(1)), 6.0, 2.0, 0.0])
    assert float(one.maximum[2]) == 6.0
    assert _above(one, 2, 6.01) == 0
    assert _above(one, 2, 5.97) >= np.sum(samples[2] == 6.0)
    np.testing.assert_array_equal(one.counts[3], counted.counts[3])
    np.testing.assert_array_equal(one.counts[4], counted.counts[4])


def test_jit_and_a_number_of_images_per_tensor(counted):
    images = np.array([1, 2, 4, 8, 16])
    together = jax.jit(lambda h, n: h.predictive(n))(counted, jnp.asarray(images))
    for row in (0, 2):
        alone = counted[row].predictive(int(images[row]))
        np.testing.assert_allclose(together.counts[row], alone.counts, rtol=1e-4, atol=0.05)


def test_the_ends_of_float32():
    x = np.random.default_rng(1).exponential(size=(2, 1000)) * np.array([[1e-39], [1e37]])
    found = Histogram.from_samples(x.astype(np.float32), axis=-1).predictive(2)
    assert np.isfinite(np.asarray(found.counts)).all()
    assert np.isfinite(np.asarray(found.maximum)).all()
    np.testing.assert_allclose(found.count, 1000, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"images": 0}, "images"),
        ({"images": np.ones(3)}, "images"),
        ({"images": 1, "spread": 0.0}, "spread"),
        ({"images": 1, "spread": 1.0}, "spread"),
        ({"images": 1, "limits": (np.zeros(2), 1.0)}, "limits"),
    ],
)
def test_refusals(counted, arguments, named):
    with pytest.raises(GgdjaxError, match=f"`{named}"):
        counted.predictive(**arguments)
