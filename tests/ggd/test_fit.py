from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ggdjax._errors import GgdjaxError
from ggdjax.ggd import FitCode, GeneralizedGamma, Histogram, fit, fit_sides, order_for_bits
from ggdjax.ggd._weighted_fit import fit_weighted

SHAPES = [(0.3, 2.0), (1.0, 1.0), (1.0, 2.0), (2.0, 0.7), (3.0, 3.0), (0.7, 0.5), (2.5, 1.3), (4.0, 0.9)]
SIZE = 40_000


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    scale = np.geomspace(1e-6, 1e6, len(SHAPES))
    rows = [a * rng.gamma(d / p, size=SIZE) ** (1 / p) for a, (d, p) in zip(scale, SHAPES, strict=True)]
    return np.maximum(np.stack(rows), 1e-30).astype(np.float32)


@pytest.fixture(scope="module")
def histograms(samples):
    return Histogram.from_samples(samples, axis=-1)


@pytest.fixture(scope="module")
def plain(samples):
    return fit(samples, order=0)


def test_recovers_parameters_within_their_standard_errors(plain):
    d, p = np.array(SHAPES).T
    errors = plain.standard_errors
    assert (np.asarray(plain.code) == FitCode.CONVERGED).all()
    assert (np.abs(np.asarray(plain.distribution.d) - d) < 4 * np.asarray(errors.d)).all()
    assert (np.abs(np.asarray(plain.distribution.p) - p) < 4 * np.asarray(errors.p)).all()
    a = np.geomspace(1e-6, 1e6, len(SHAPES))
    assert (np.abs(np.asarray(plain.distribution.a) - a) < 4 * np.asarray(errors.a)).all()


def test_standard_errors_are_the_spread_of_repeated_fits():
    rng = np.random.default_rng(3)
    repeated = fit((rng.gamma(2.0, size=(200, 5000)) ** (1 / 1.5)).astype(np.float32), order=0)
    for name in ("d", "p"):
        spread = np.asarray(getattr(repeated.distribution, name)).std()
        stated = np.median(np.asarray(getattr(repeated.standard_errors, name)))
        assert 0.8 < stated / spread < 1.25


def test_likelihood_is_not_below_scipys(samples, plain):
    for i in (1, 3, 6):
        x = samples[i].astype(np.float64)
        shape, power, _, scale = scipy.stats.gengamma.fit(x, floc=0)
        theirs = scipy.stats.gengamma(shape, power, scale=scale).logpdf(x).mean()
        assert float(plain.log_likelihood[i]) > theirs - 1e-5 * max(1.0, abs(theirs))


@pytest.mark.parametrize("order", [0, 2])
def test_histograms_give_the_fit_of_the_samples(samples, histograms, order):
    a, b = fit(samples, order=order), fit(histograms, order=order)
    for name in ("d", "p"):
        left, right = (np.asarray(getattr(r.tail.distribution, name)) for r in (a, b))
        np.testing.assert_allclose(left, right, rtol=5e-3, err_msg=name)
    for share in (0.1, 0.9, 0.999):
        left, right = (np.asarray(r.tail.distribution.icdf(jnp.float32(share))) for r in (a, b))
        np.testing.assert_allclose(left, right, rtol=3e-3)


def test_tail_weighting_keeps_the_family(samples, plain):
    """The size-biased density of a generalized gamma distribution is one: the fit comes back to the same parameters."""
    weighted = fit(samples, order=2)
    np.testing.assert_allclose(weighted.distribution.p, plain.distribution.p, rtol=0.15)
    x = np.geomspace(0.3, 2.0, 5).astype(np.float32)
    one = jax.tree.map(lambda leaf: leaf[2], weighted.tail)
    exact = GeneralizedGamma(1.0, 1.0, 2.0)
    scale = np.geomspace(1e-6, 1e6, len(SHAPES))[2]
    log_density = np.asarray(one.log_density(jnp.asarray(x * np.float32(scale)))) + np.log(scale)
    np.testing.assert_allclose(log_density, exact.log_prob(jnp.asarray(x)), atol=0.08)


def test_batched_equals_looped(histograms):
    together = fit(histograms, order=2)
    for i in (0, 4):
        # Rounding decides which Newton step is the last that counts.
        alone = replace(fit(histograms[i], order=2), iterations=together.iterations[i])
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(jax.tree.map(lambda v: v[i], together)), strict=True):  # noqa: B023
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_float64_agrees(samples):
    some = samples[:4]
    single = fit(some, order=2)
    with jax.enable_x64(True):
        double = fit(some.astype(np.float64), order=2)
    for name in ("d", "p"):
        left, right = np.asarray(getattr(single.distribution, name)), np.asarray(getattr(double.distribution, name))
        np.testing.assert_allclose(left, right, rtol=2e-3)


def test_every_result_code_has_finite_parameters():
    rng = np.random.default_rng(5)
    n = 5000
    rows = {
        FitCode.CONVERGED: rng.gamma(2.0, size=n),
        FitCode.LOG_NORMAL_BOUNDARY: np.exp(rng.gamma(1.0, size=n)),
        FitCode.UPPER_BOUNDARY: np.linspace(1e-3, 1.0, n) ** 0.5,
        FitCode.CONSTANT: np.full(n, 3.0),
        FitCode.ALL_ZERO: np.zeros(n),
        FitCode.TOO_FEW: np.repeat([1.0, 2.0], n // 2),
    }
    result = fit(np.stack(list(rows.values())).astype(np.float32), order=0)
    assert result.code.tolist() == [int(code) for code in rows]
    assert len(set(result.messages())) == len(rows)
    for leaf in jax.tree.leaves((result.distribution, result.tail, result.log_likelihood)):
        assert np.isfinite(leaf).all()


def test_what_is_not_finite_is_left_out(samples):
    x = samples[1].copy()
    dirty = np.concatenate([x, np.array([np.inf, -np.inf, np.nan, 0.0], np.float32)])
    np.testing.assert_allclose(fit(dirty, side="positive").distribution.d, fit(x).distribution.d, rtol=1e-3)


def test_half_precision_and_integers_are_fitted_in_float32():
    x = np.random.default_rng(7).gamma(2.0, size=2000).astype(np.float16)
    for given in (x, jnp.asarray(np.round(100 * x), jnp.int32)):
        result, wide = fit(given), fit(np.asarray(given, np.float32))
        assert result.distribution.p.dtype == jnp.float32
        np.testing.assert_array_equal(result.distribution.p, wide.distribution.p)


def test_two_sides(samples):
    rng = np.random.default_rng(9)
    x = np.concatenate([samples[1, :10_000] / samples[1].std(), -3 * samples[2, :5_000] / samples[2].std()])
    x = np.concatenate([x, np.zeros(5_000)]).astype(np.float32)
    hurdle = fit_sides(Histogram.from_samples(rng.permutation(x)), order=0)
    np.testing.assert_allclose(hurdle.weight, [0.5, 0.25], rtol=1e-5)
    np.testing.assert_allclose(hurdle.zero_probability, 0.25, rtol=1e-5)
    np.testing.assert_allclose(hurdle.tail.distribution.p, [1.0, 2.0], rtol=0.1)


def test_gradients_in_samples_and_weights_by_finite_differences():
    rng = np.random.default_rng(11)
    with jax.enable_x64(True):
        log_x = jnp.asarray(np.log(rng.gamma(2.0, size=400)))
        log_x = log_x - log_x.max()
        weight = jnp.asarray(rng.random(400) + 0.5)

        def parameters(shift, tilt):
            result = fit_weighted(log_x * (1.0 + shift), weight * jnp.exp(tilt * log_x), 2.0)
            g = result.tail.distribution
            return jnp.stack([g.loc, jnp.log(g.d), jnp.log(g.p)])

        for argument in (0, 1):
            exact = jax.jacobian(parameters, argument)(0.0, 0.0)
            h = 1e-4
            ends = [parameters(*((s, 0.0) if argument == 0 else (0.0, s))) for s in (h, -h)]
            np.testing.assert_allclose(exact, (ends[0] - ends[1]) / (2 * h), rtol=2e-3, atol=1e-5)


def test_the_order_for_a_width_is_half_of_it(histograms):
    orders = order_for_bits(np.array([8, 5])[:, None])
    np.testing.assert_array_equal(orders, [[4.0], [2.5]])
    np.testing.assert_array_equal(fit(histograms, order=orders[0]).order, np.full(len(SHAPES), 4.0))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"order": -1}, "order"),
        ({"side": "left"}, "side"),
        ({"order": np.zeros((2, 2))}, "order"),
        ({"order": np.zeros(3)}, "order"),
        ({"data": 3.0}, "data"),
    ],
)
def test_refusals(samples, arguments, named):
    with pytest.raises(GgdjaxError, match=f"`{named}`"):
        fit(**({"data": samples[:2]} | arguments))


def test_ten_thousand_odd_tensors_without_a_nan():
    """Denormal, huge, constant, single, mixed magnitudes: 100 calls of 100 tensors of 16 values."""
    rng = np.random.default_rng(13)
    tiny, huge = np.float32(1e-45), np.float32(3.4e38)
    for _ in range(100):
        exponent = rng.uniform(-45, 38, (100, 1)) + rng.uniform(0, rng.choice([0.0, 1.0, 40.0], (100, 1)), (100, 16))
        x = np.clip(10.0**exponent, tiny, huge).astype(np.float32)
        x *= rng.choice([1.0, -1.0, 0.0], x.shape, p=[0.8, 0.1, 0.1]).astype(np.float32)
        x[rng.random(100) < 0.1] = rng.choice([0.0, 1.0, float(huge), float(tiny)])
        x[rng.random(100) < 0.1, 1:] = 0.0
        result = fit(Histogram.from_samples(x, axis=-1), order=rng.integers(0, 5, 100).astype(np.float32))
        for leaf in jax.tree.leaves((result.tail, result.distribution.loc, result.distribution.d, result.code)):
            assert np.isfinite(leaf).all()
        assert not np.isnan(np.asarray(result.log_likelihood)).any()
