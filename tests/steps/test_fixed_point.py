"""Fractional lengths against brute force in float64, over every integer from −126 to 126."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax import steps
from ggdjax._errors import GgdjaxError
from ggdjax.steps import FixedPointCode
from ggdjax.steps._host_search import fractional_lengths

WIDTHS = (2, 3, 4, 5, 8, 12, 16, 24, 25, 32)


def groups() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    n = 2000
    outlier = rng.normal(size=n) * 1e-3
    outlier[7] = 1.0
    tiny_with_peak = np.full(n, 1e-6)
    tiny_with_peak[0] = 0.7
    return {
        "gauss": rng.normal(size=n),
        "laplace": rng.laplace(size=n) * 0.03,
        "heavy": rng.standard_t(2, size=n) * 100,
        "one outlier": outlier,
        "tiny with a peak": tiny_with_peak,
        "ones": np.ones(n),
        "minus ones": -np.ones(n),
        "halves": rng.choice([0.5, -0.25, 0.125], size=n),
        "just below one": np.full(n, 0.999),
        "positive": rng.uniform(0.3, 1.0, size=n),
        "huge": rng.normal(size=n) * 1e30,
        "small": rng.normal(size=n) * 1e-20,
    }


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.stack(list(groups().values())).astype(np.float32)


def rounded(w: np.ndarray, frac_bits: int, bits: int) -> np.ndarray:
    q = np.clip(np.round(np.ldexp(w.astype(np.float64), frac_bits)), -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
    return np.ldexp(q, -frac_bits)


def squared_error(w: np.ndarray, frac_bits: int, bits: int) -> float:
    return float(np.sum((w.astype(np.float64) - rounded(w, frac_bits, bits)) ** 2))


@pytest.mark.parametrize("bits", WIDTHS)
def test_it_is_the_global_minimum(rows, bits):
    found = steps.best_fractional_length(rows, bits, axis=1)
    for row, frac_bits, sqnr, code in zip(rows, found.frac_bits, found.sqnr_db, found.code, strict=True):
        errors = {f: squared_error(row, f, bits) for f in range(-126, 127)}
        own, energy = errors[int(frac_bits)], np.sum(row.astype(np.float64) ** 2)
        # Float32 sums may take either of two candidates whose errors agree to six digits.
        assert own <= min(errors.values()) * (1 + 1e-5) + 1e-14 * energy
        assert int(code) == FixedPointCode.OK
        if own > 1e-14 * energy:
            np.testing.assert_allclose(float(sqnr), 10 * np.log10(energy / own), atol=1e-3)
        else:
            assert float(sqnr) > 120


def test_it_clips_where_that_pays(rows):
    kept = list(groups()).index("one outlier")
    best = steps.best_fractional_length(rows, 3, axis=1).frac_bits
    fits = steps.max_fractional_length(rows, 3, axis=1)
    assert int(best[kept]) <= int(fits[kept])  # one value of 1 outweighs 2000 of 0.001
    many = np.append(np.random.default_rng(1).normal(size=100_000) * 0.05, 1.0).astype(np.float32)
    assert int(steps.best_fractional_length(many, 3).frac_bits) >= int(steps.max_fractional_length(many, 3)) + 2


def test_the_baseline_is_the_finest_whose_range_holds_the_peak():
    peaks = np.array([1.0, 0.999, 1.001, 7.3, 0.06, 3e-30, 2e30], np.float32)
    found = np.asarray(steps.max_fractional_length(peaks[:, None], 8, axis=1))
    np.testing.assert_array_equal(found, 7 - np.ceil(np.log2(peaks)).astype(int))


def test_zeros_and_their_number_do_not_matter(rows):
    padded = np.pad(rows, ((0, 0), (300, 1500)))
    one, other = (steps.best_fractional_length(w, 6, axis=1) for w in (rows, padded))
    np.testing.assert_array_equal(one.frac_bits, other.frac_bits)
    np.testing.assert_allclose(one.sqnr_db, other.sqnr_db, rtol=1e-6)


def test_axes_widths_and_tracing_agree():
    rng = np.random.default_rng(2)
    kernel = rng.normal(size=(3, 3, 8, 5)).astype(np.float32) * np.array([1, 2, 9, 0.1, 30], np.float32)
    widths = np.array([3, 4, 5, 8, 16])
    together = steps.best_fractional_length(kernel, widths, axis=(0, 1, 2))
    jitted = jax.jit(lambda w, b: steps.best_fractional_length(w, b, axis=(0, 1, -2)))(kernel, widths)
    mapped = jax.vmap(steps.best_fractional_length, in_axes=(-1, 0))(jnp.asarray(kernel), jnp.asarray(widths))
    for channel, bits in enumerate(widths):
        alone = steps.best_fractional_length(kernel[..., channel], bits)
        assert alone.frac_bits.shape == ()
        for batched in (together, jitted, mapped):
            assert int(batched.frac_bits[channel]) == int(alone.frac_bits)


@pytest.mark.parametrize("bits", [2, 8, 16, 25, 32])
def test_codes_and_values_are_exact(rows, bits):
    frac_bits = steps.best_fractional_length(rows, bits, axis=1).frac_bits
    q, w_hat = steps.quantize_fixed_point(rows, frac_bits[:, None], bits)
    assert q.dtype == jnp.int32
    for i, row in enumerate(rows):
        expected = rounded(row, int(frac_bits[i]), bits)
        np.testing.assert_array_equal(np.ldexp(np.asarray(q[i], np.float64), -int(frac_bits[i])), expected)
        np.testing.assert_array_equal(w_hat[i], expected.astype(np.float32))


def test_codes_saturate_and_round_half_to_even():
    w = np.array([0.5, 1.5, 2.5, -0.5, 1e9, -1e9, np.inf, -np.inf, np.nan, 3e38], np.float32)
    q, w_hat = steps.quantize_fixed_point(w, 0, 4)
    np.testing.assert_array_equal(q, [0, 2, 2, 0, 7, -8, 7, -8, 0, 7])
    np.testing.assert_array_equal(w_hat, q)
    q32, _ = steps.quantize_fixed_point(w, 0, 32)
    np.testing.assert_array_equal(q32[4:9], [10**9, -(10**9), 2**31 - 1, -(2**31), 0])
    by_channel, _ = steps.quantize_fixed_point(np.ones((2, 3)), np.array([0, 1, 2]), 4)
    np.testing.assert_array_equal(by_channel, [[1, 2, 4]] * 2)


def test_degenerate_values_get_a_code_and_a_usable_length():
    w = np.zeros((4, 6), np.float32)
    w[1, :2] = 0.5, np.nan
    w[2, :3] = np.inf, -np.inf, np.nan
    w[3] = 2e-38
    found = steps.best_fractional_length(w, 8, axis=1)
    codes = [FixedPointCode.ALL_ZERO, FixedPointCode.NONFINITE, FixedPointCode.ALL_ZERO, FixedPointCode.AT_BOUND]
    np.testing.assert_array_equal(found.code, codes)
    np.testing.assert_array_equal(found.frac_bits, [7, 6, 7, 126])
    assert not np.isnan(np.asarray(found.sqnr_db)).any()
    assert all(code.message for code in FixedPointCode)


def test_extreme_magnitudes_stay_finite():
    w = np.array([[1e-30, -3e-31, 2e-30], [1e30, 2e30, -5e29], [3e38, 1e38, 1.0]], np.float32)
    found = steps.best_fractional_length(w, 8, axis=1)
    _, w_hat = steps.quantize_fixed_point(w, found.frac_bits[:, None], 8)
    assert np.isfinite(np.asarray(w_hat)).all()
    assert (np.asarray(found.sqnr_db) > 35).all()


def test_powers_of_two_are_exact():
    exponent = np.arange(-126, 128)
    np.testing.assert_array_equal(steps.power_of_two(jnp.asarray(exponent)), np.ldexp(np.float32(1), exponent))


def test_arguments_out_of_range_are_named():
    w = np.ones((2, 3), np.float32)
    with pytest.raises(GgdjaxError, match=r"`bits` is 1; expected integers from 2 to 32"):
        steps.best_fractional_length(w, 1)
    with pytest.raises(GgdjaxError, match=r"`bits` is 7.5"):
        steps.max_fractional_length(w, 7.5)
    with pytest.raises(GgdjaxError, match=r"`bits` has shape \(3,\)"):
        steps.best_fractional_length(w, np.array([2, 3, 4]), axis=1)
    with pytest.raises(GgdjaxError, match=r"`axis` is 2"):
        steps.best_fractional_length(w, 8, axis=2)
    with pytest.raises(GgdjaxError, match=r"`w` has shape \(0,\)"):
        steps.best_fractional_length(np.ones(0), 8)
    with pytest.raises(GgdjaxError, match=r"`frac_bits` is 127"):
        steps.quantize_fixed_point(w, 127, 8)


@pytest.mark.parametrize("bits", WIDTHS)
def test_numpy_finds_the_same_lengths(bits: int) -> None:
    scale = np.logspace(-37, 36, 24, base=10.0)[:, None]
    scaled = np.random.default_rng(5).standard_t(3, size=(24, 300)) * scale
    special = np.zeros((5, 300))
    special[1, 3], special[2, :2], special[3], special[4, 4] = np.inf, (np.nan, 0.3), 1e-42, -0.5
    x = np.concatenate([np.stack([row[:300] for row in groups().values()]), scaled, special]).astype(np.float32)
    expected = steps.best_fractional_length(x, bits, axis=1).frac_bits
    np.testing.assert_array_equal(fractional_lengths(x, bits), expected)
