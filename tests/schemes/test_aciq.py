from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special, stats

from ggdjax import schemes
from ggdjax.ggd._histogram import Histogram
from ggdjax.schemes._aciq import _moments_about_mean, gauss_clip, laplace_clip
from ggdjax.schemes._magnitudes import magnitudes

BITS = np.arange(1, 18)


def error(clip: float, bits: int, density) -> float:
    """The expected error as the paper has it: overload of both tails, uniform rounding."""
    overload = density.expect(lambda x: (x - clip) ** 2, lb=clip, ub=clip + 40)
    return 2 * overload + clip**2 / (3 * 4.0**bits)


def test_laplace_clip_is_the_lambert_function():
    expected = special.lambertw(3 * 4.0**BITS).real
    np.testing.assert_allclose(laplace_clip(jnp.asarray(BITS, jnp.float32)), expected, rtol=3e-7)


def test_gauss_clip_solves_its_equation():
    def residual(z: float, bits: int) -> float:
        return 2 * (stats.norm.pdf(z) - z * stats.norm.sf(z)) - z / (3 * 4.0**bits)

    expected = [optimize.brentq(residual, 0.1, 9.0, args=(bits,), xtol=1e-13) for bits in BITS]
    np.testing.assert_allclose(gauss_clip(jnp.asarray(BITS, jnp.float32)), expected, rtol=2e-6)


def test_published_values_and_the_misprinted_one():
    clips = np.asarray(laplace_clip(jnp.array([2.0, 3.0, 4.0])))
    np.testing.assert_allclose(clips, [2.83, 3.89, 5.03], atol=0.008)  # printed truncated, not rounded
    np.testing.assert_allclose(gauss_clip(jnp.array([2.0, 3.0, 4.0])), [1.71, 2.15, 2.55], atol=0.01)
    assert error(2.83, 2, stats.laplace) < error(2.33, 2, stats.laplace)


@pytest.mark.parametrize(
    ("solve", "density"), [(laplace_clip, stats.laplace), (gauss_clip, stats.norm)], ids=["laplace", "gauss"]
)
def test_the_clip_minimizes_the_paper_s_error(solve, density):
    for bits in (2, 4, 6):
        clip = float(solve(jnp.float32(bits)))
        found = optimize.minimize_scalar(error, bracket=(0.8 * clip, clip, 1.2 * clip), args=(bits, density), tol=1e-8)
        np.testing.assert_allclose(clip, found.x, rtol=2e-3)


def test_scale_is_measured_as_documented():
    x = np.random.default_rng(5).laplace(0.4, 1.0, size=100_000).astype(np.float32)
    for sample in (x, -x, np.maximum(x, 0), -np.maximum(x, 0)):
        size = magnitudes(Histogram.stack([Histogram.from_samples(sample)]))
        peak = np.abs(sample).max()
        mean, deviation, sigma = (float(value[0]) * peak for value in _moments_about_mean(size))
        np.testing.assert_allclose(mean, abs(sample.mean(dtype=np.float64)), rtol=1e-4)
        np.testing.assert_allclose(deviation, np.abs(sample - sample.mean(dtype=np.float64)).mean(), rtol=1e-4)
        np.testing.assert_allclose(sigma, sample.std(dtype=np.float64), rtol=1e-4)


def test_forms_differ_in_scale_and_bits():
    x = np.random.default_rng(6).laplace(size=400_000).astype(np.float32)
    rectified = np.maximum(x, 0)
    b = np.abs(rectified - rectified.mean()).mean()
    four, five = (float(laplace_clip(jnp.float32(bits))) for bits in (4, 5))
    expected = {
        "aciq-laplace": rectified.mean() + four * b,
        "aciq-laplace-relu": rectified.mean() + five * b,
        "aciq-laplace-half": five * x[x > 0].mean(),
    }
    for name, clip in expected.items():
        np.testing.assert_allclose(schemes.choose(name, rectified, 4).highest, clip, rtol=1e-3)
    # For the source of the derivation itself, the half form is the one that finds its scale again.
    np.testing.assert_allclose(
        schemes.choose("aciq-laplace-half", rectified, 4).step * 15,
        schemes.choose("aciq-laplace-half", x, 5).step * 15,
        rtol=1e-2,
    )
