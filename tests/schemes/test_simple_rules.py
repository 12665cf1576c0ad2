"""Schemes that read one or two numbers off the tensor, against NumPy on the samples."""

from __future__ import annotations

import numpy as np
import pytest
from scheme_samples import quantize

from ggdjax import schemes
from ggdjax.ggd._histogram import Histogram
from ggdjax.schemes._magnitudes import magnitudes


@pytest.fixture(scope="module")
def laplace() -> np.ndarray:
    return np.random.default_rng(3).laplace(0.3, 1.0, size=200_000).astype(np.float32)


def test_max_abs_puts_the_peak_on_the_top_code(laplace):
    peak = np.abs(laplace).max()
    np.testing.assert_allclose(schemes.choose("max-abs", laplace, 8).step, peak / 127, rtol=1e-6)
    np.testing.assert_allclose(
        schemes.choose("max-abs", np.abs(laplace), 8).step, np.abs(laplace).max() / 255, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("peak", "bits", "signed", "frac_bits"),
    [
        (1.0, 8, False, 8),
        (1.001, 8, False, 7),
        (0.999, 8, False, 8),
        (7.3, 8, False, 5),
        (7.3, 8, True, 4),
        (0.06, 4, False, 8),
    ],
)
def test_dynamic_fixed_point_is_the_finest_power_of_two_without_overflow(peak, bits, signed, frac_bits):
    x = np.array([0.01, peak], np.float32)
    assert float(schemes.choose("dynamic-fixed-point", x, bits, signed).step) == 2.0**-frac_bits


@pytest.mark.parametrize("percentage", [99.9, 99.99, 99.999])
def test_percentiles_agree_with_numpy(laplace, percentage):
    x = np.maximum(laplace, 0)
    expected = np.percentile(x, percentage)
    chosen = schemes.choose(f"percentile-{percentage}", x, 8)
    np.testing.assert_allclose(chosen.highest, expected, rtol=1 / 128)
    two_sided = schemes.choose(f"percentile-{percentage}", laplace, 8)
    np.testing.assert_allclose(two_sided.highest, np.percentile(np.abs(laplace), percentage), rtol=1 / 128)


def test_a_percentile_of_mostly_zeros_falls_back():
    x = np.append(np.zeros(10_000_0), [1.0, 2.0]).astype(np.float32)
    chosen = schemes.choose("percentile-99.9", x, 8)
    assert int(chosen.code) == schemes.ChoiceCode.FALLBACK
    np.testing.assert_allclose(chosen.highest, 2.0)


def test_affine_spans_minimum_to_maximum_and_keeps_zero(laplace):
    x = np.clip(laplace, -1.0, 3.0)
    chosen = schemes.choose("affine-min-max", x, 8)
    np.testing.assert_allclose(chosen.step, 4.0 / 255, rtol=1e-6)
    assert int(chosen.zero_point) == -64  # −128 + round(1 / step)
    assert quantize(np.zeros(1), chosen)[0] == 0.0
    assert np.abs(quantize(x, chosen) - x).max() <= 1.01 * float(chosen.step)


def test_affine_of_one_sided_tensors_is_max_abs(laplace):
    x = np.abs(laplace)
    for bits in (3, 8):
        affine, plain = (schemes.choose(name, x, bits) for name in ("affine-min-max", "max-abs"))
        np.testing.assert_allclose(affine.step, plain.step, rtol=1e-6)
        assert int(affine.zero_point) == 0


def test_moments_of_the_histogram_are_those_of_the_samples(laplace):
    h = Histogram.stack([Histogram.from_samples(laplace), Histogram.from_samples(np.maximum(laplace, 0) * 1e30)])
    size = magnitudes(h)
    for index, x in enumerate((laplace, np.maximum(laplace, 0))):
        nonzero = np.abs(x[x != 0]).astype(np.float64) / np.abs(x).max()
        np.testing.assert_allclose(size.mean[index], nonzero.mean(), rtol=1e-4)
        np.testing.assert_allclose(size.mean_square[index], (nonzero**2).mean(), rtol=1e-4)
        np.testing.assert_allclose(size.nonzero_fraction[index], len(nonzero) / len(x), rtol=1e-6)
        np.testing.assert_allclose(size.weight[index].sum(), 1.0, rtol=1e-6)
        np.testing.assert_allclose(size.positive[index].sum(), np.mean(x[x != 0] > 0), rtol=1e-5)
