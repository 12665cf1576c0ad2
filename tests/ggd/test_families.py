"""Other families and goodness of fit on histograms, against SciPy on the samples themselves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as ss

from ggdjax._errors import GgdjaxError
from ggdjax.ggd import (
    FAMILIES,
    Histogram,
    LogNormal,
    Lomax,
    compare_families,
    fit_family,
    goodness_of_fit,
    quantile_pairs,
)

N = 100_000
#: One distribution per family, in the order of FAMILIES.
DISTRIBUTIONS = {
    "half-normal": ss.halfnorm(scale=2.0),
    "exponential": ss.expon(scale=0.3),
    "gamma": ss.gamma(2.5, scale=10.0),
    "weibull": ss.weibull_min(0.7, scale=3.0),
    "log-normal": ss.lognorm(0.8, scale=2.7),
    "generalized-normal": ss.gengamma(a=1 / 0.8, c=0.8, scale=2.0),
    "pareto": ss.lomax(3.0, scale=5.0),
    "ggd": ss.gengamma(a=3 / 0.7, c=0.7, scale=0.1),
}
NAMES = list(DISTRIBUTIONS)


@pytest.fixture(scope="module")
def samples():
    return np.stack([dist.rvs(N, random_state=i) for i, dist in enumerate(DISTRIBUTIONS.values())]).astype(np.float32)


@pytest.fixture(scope="module")
def histogram(samples):
    """The distributions, then a constant, all zeros, and one value: same shapes for one compilation."""
    odd = np.zeros((3, N), np.float32)
    odd[0], odd[2, 0] = 1.5, 3.0
    return Histogram.from_samples(np.concatenate([samples, odd]), axis=-1)


@pytest.fixture(scope="module")
def comparison(histogram):
    return compare_families(histogram)


def fitted(comparison, name):
    return comparison.fitted[NAMES.index(name)]


def frozen(distribution, index):
    """Return the SciPy distribution of one fitted tensor."""
    leaves = {k: float(v[index]) for k, v in vars(distribution).items()} if hasattr(distribution, "__dict__") else {}
    if isinstance(distribution, LogNormal):
        return ss.lognorm(leaves["sigma"], scale=np.exp(leaves["loc"]))
    if isinstance(distribution, Lomax):
        return ss.lomax(leaves["alpha"], scale=np.exp(leaves["loc"]))
    return ss.gengamma(**{k: float(v[index]) for k, v in distribution.to_scipy().items()})


def test_parameters_against_scipy(comparison, samples):
    """Maximum likelihood on the bins' centres moves parameters by less than 2e-4 of themselves."""
    wide = samples.astype(float)

    def of(name):
        return (
            fitted(comparison, name).distribution[NAMES.index(name)] if name not in ("log-normal", "pareto") else None
        )

    close = dict(rtol=3e-4)
    np.testing.assert_allclose(of("half-normal").a, np.sqrt(2 * (wide[0] ** 2).mean()), **close)
    np.testing.assert_allclose(of("exponential").a, wide[1].mean(), **close)
    k, _, scale = ss.gamma.fit(wide[2], floc=0)
    np.testing.assert_allclose([of("gamma").d, of("gamma").a], [k, scale], **close)
    p, _, scale = ss.weibull_min.fit(wide[3], floc=0)
    np.testing.assert_allclose([of("weibull").p, of("weibull").d, of("weibull").a], [p, p, scale], **close)
    log_normal = fitted(comparison, "log-normal").distribution
    np.testing.assert_allclose(log_normal.loc[4], np.log(wide[4]).mean(), **close)
    np.testing.assert_allclose(log_normal.sigma[4], np.log(wide[4]).std(), **close)
    lomax = fitted(comparison, "pareto").distribution
    alpha, _, scale = ss.lomax.fit(wide[6], floc=0)
    np.testing.assert_allclose([lomax.alpha[6], np.exp(lomax.loc[6])], [alpha, scale], rtol=3e-3)
    np.testing.assert_allclose([of("ggd").d, of("ggd").p], [3, 0.7], rtol=0.1)
    # no neighbour does better than the generalized normal
    best = of("generalized-normal")
    levels = [
        ss.gengamma(a=1 / p, c=p, scale=a).logpdf(wide[5]).mean()
        for p in float(best.p) * np.array([1.0, 0.99, 1.01])
        for a in [(p * (wide[5] ** p).mean()) ** (1 / p)]
    ]
    assert np.argmax(levels) == 0


@pytest.mark.parametrize("index", range(8))
def test_distances_against_the_samples(comparison, samples, index):
    """The distributions fitted to one tensor, evaluated on its samples by SciPy and textbook formulas."""
    x = np.sort(samples[index].astype(float))
    i = np.arange(1, N + 1)
    for f, name in enumerate(NAMES):
        distribution = comparison.fitted[f].distribution
        if name == "ggd" and not isinstance(distribution, Lomax) and float(distribution.p[index]) < 0.06:
            continue  # the log-normal boundary: its scale is beyond double precision for SciPy
        dist, got = frozen(distribution, index), jax.tree.map(lambda v, f=f: float(v[f, index]), comparison.goodness)
        log_cdf, log_sf = dist.logcdf(x), dist.logsf(x)
        exact = ss.ks_1samp(x, dist.cdf).statistic
        assert exact - 3e-4 < got.kolmogorov_smirnov < exact + 2e-5
        anderson = -1 - ((2 * i - 1) / N * (log_cdf + log_sf[::-1])).sum() / N
        if np.isfinite(anderson):  # infinite where SciPy's tails underflow
            np.testing.assert_allclose(got.anderson_darling, anderson, rtol=2e-3, atol=2e-7)
        log_likelihood, k = dist.logpdf(x).mean(), FAMILIES[name].parameters
        np.testing.assert_allclose(comparison.fitted[f].log_likelihood[index], log_likelihood, rtol=2e-4, atol=1e-4)
        np.testing.assert_allclose(got.aic, 2 * k / N - 2 * log_likelihood, rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(got.bic, k * np.log(N) / N - 2 * log_likelihood, rtol=2e-4, atol=2e-4)


def test_kl_estimates_the_divergence(comparison):
    """KL between two known distributions, plus the mean that chance adds: (occupied bins − 1)/2n."""
    dist, other = DISTRIBUTIONS["gamma"], frozen(fitted(comparison, "exponential").distribution, 2)
    x = np.linspace(dist.ppf(1e-9), dist.ppf(1 - 1e-9), 400_001)
    exact = np.trapezoid(dist.pdf(x) * (dist.logpdf(x) - other.logpdf(x)), x)
    by_chance = float(comparison.goodness.kl[NAMES.index("gamma"), 2])
    assert 0.002 < by_chance < 0.01
    np.testing.assert_allclose(comparison.goodness.kl[NAMES.index("exponential"), 2] - by_chance, exact, rtol=0.01)
    assert (comparison.goodness.kl > -1e-5).all()


def test_the_true_family_wins(comparison):
    # beyond the statistic's own chance: a larger family may win KS on a sample of its special case
    assert NAMES == list(FAMILIES) == list(comparison.families)
    assert (comparison.best("bic")[:8] == jnp.arange(8)).all()
    assert sum(comparison.wins("bic").values()) == 10  # the empty tensor is not counted
    # the GGD holds its special cases: never a lower likelihood
    likelihood = np.stack([f.log_likelihood for f in comparison.fitted])
    inside = [NAMES.index(n) for n in ("half-normal", "exponential", "gamma", "weibull", "generalized-normal")]
    assert (likelihood[-1, :8] >= likelihood[inside, :8].max(0) - 1e-5).all()


def test_degenerate_tensors_stay_finite(comparison):
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(comparison))
    for one in comparison.fitted:
        assert one.count[8:].tolist() == [N, 0, 1]


def test_units_do_not_matter(histogram, comparison):
    """Scaled by 2⁻⁹⁰ (an exact shift of the bins), every distance is the same and AIC moves by the logarithm."""
    power = -90
    counts = np.roll(np.asarray(histogram.counts), power * 128, axis=-1)
    scale = np.float32(2.0**power)
    small = Histogram(
        counts=counts, zeros=histogram.zeros, minimum=histogram.minimum * scale, maximum=histogram.maximum * scale
    )
    other = compare_families(small)
    for field in ("kolmogorov_smirnov", "anderson_darling", "kl"):
        a, b = (np.asarray(getattr(c.goodness, field))[:, :8] for c in (comparison, other))
        np.testing.assert_allclose(b, a, rtol=2e-3, atol=3e-5)
    shift = (other.goodness.aic - comparison.goodness.aic)[:, :8]
    np.testing.assert_allclose(shift, 2 * power * np.log(2), rtol=1e-4)


def test_quantiles(histogram, comparison, samples):
    levels = np.array([0.001, 0.1, 0.5, 0.9, 0.999])
    one = fitted(comparison, "ggd")
    pairs = quantile_pairs(histogram, one, levels)
    np.testing.assert_allclose(pairs.data[:, :8], np.quantile(samples, levels, axis=1), rtol=2e-2)
    np.testing.assert_allclose(pairs.data[1:, :8], np.quantile(samples, levels[1:], axis=1), rtol=7e-3)
    for index in (0, 2, 7):
        np.testing.assert_allclose(pairs.model[:, index], frozen(one.distribution, index).ppf(levels), rtol=1e-4)
    other = quantile_pairs(histogram, fitted(comparison, "pareto"), levels)
    np.testing.assert_allclose(
        other.model[:, 6], frozen(fitted(comparison, "pareto").distribution, 6).ppf(levels), rtol=1e-4
    )
    normal = quantile_pairs(histogram, fitted(comparison, "log-normal"), levels)
    np.testing.assert_allclose(
        normal.model[:, 4], frozen(fitted(comparison, "log-normal").distribution, 4).ppf(levels), rtol=1e-4
    )


def test_batched_equals_single(histogram, comparison):
    name = "weibull"
    alone = fit_family(histogram[3], name)
    whole = fitted(comparison, name)
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b[3], rtol=1e-5)
    evaluated = goodness_of_fit(histogram[3], alone)
    for field in ("kolmogorov_smirnov", "anderson_darling", "bic"):
        expected = getattr(comparison.goodness, field)[NAMES.index(name), 3]
        np.testing.assert_allclose(getattr(evaluated, field), expected, rtol=1e-4, atol=1e-7)


def test_sides():
    x = np.concatenate(
        [DISTRIBUTIONS["exponential"].rvs(20_000, random_state=0), -DISTRIBUTIONS["gamma"].rvs(10_000, random_state=1)]
    )
    histogram = Histogram.from_samples(x.astype(np.float32))
    positive, negative = (fit_family(histogram, "exponential", side=s) for s in ("positive", "negative"))
    assert (int(positive.count), int(negative.count)) == (20_000, 10_000)
    np.testing.assert_allclose(positive.distribution.mean, 0.3, rtol=0.05)
    np.testing.assert_allclose(negative.distribution.mean, 25.0, rtol=0.05)


def test_wrong_names(histogram, comparison):
    with pytest.raises(GgdjaxError, match="did you mean `weibull`"):
        fit_family(histogram, "weibul")
    with pytest.raises(GgdjaxError, match="`families`"):
        compare_families(histogram, ("ggd", "cauchy"))
    with pytest.raises(GgdjaxError, match="`criterion`"):
        comparison.best("r2")
    with pytest.raises(GgdjaxError, match="`levels`"):
        quantile_pairs(histogram, comparison.fitted[0], [0.0, 0.5])


FAMILIES_ALONE = {
    "log-normal": (LogNormal(loc=jnp.array([0.5]), sigma=jnp.array([0.7])), ss.lognorm(0.7, scale=np.exp(0.5))),
    "pareto": (Lomax(loc=jnp.array([-0.5]), alpha=jnp.array([2.5])), ss.lomax(2.5, scale=np.exp(-0.5))),
}


@pytest.mark.parametrize("name", FAMILIES_ALONE)
def test_rival_laws_against_scipy(name):
    dist, exact = FAMILIES_ALONE[name]
    x = np.geomspace(1e-3, 300, 41)[:, None].astype(np.float32)
    wide = x.astype(float)
    np.testing.assert_allclose(dist.log_prob(x), exact.logpdf(wide), rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(dist.log_cdf(x), exact.logcdf(wide), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(dist.log_sf(x), exact.logsf(wide), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(dist.cdf(x) + dist.sf(x), np.ones_like(x), rtol=1e-6)
    q = np.array([[0.0], [1e-3], [0.5], [0.999], [1.0]], np.float32)
    np.testing.assert_allclose(dist.icdf(q), exact.ppf(q.astype(float)), rtol=2e-4)
    edges = jnp.array([[-1.0], [0.0], [jnp.inf]])
    assert dist.cdf(edges)[:, 0].tolist() == [0, 0, 1]
    assert dist.sf(edges)[:, 0].tolist() == [1, 1, 0]
    assert (dist.log_prob(edges) == -jnp.inf).all()
    assert dist.batch_shape == (1,)
