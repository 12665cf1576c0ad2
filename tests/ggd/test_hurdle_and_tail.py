"""Symmetric, tail-weighted and hurdle forms: exact where the family holds, consistent with their own integrals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from ggdjax.ggd import GeneralizedGamma, Hurdle, SymmetricGeneralizedGamma, TailWeighted
from ggdjax.ggd._tail import as_tail

SYMMETRIC = {
    "normal": (SymmetricGeneralizedGamma.normal(1.3), scipy.stats.norm(scale=1.3)),
    "laplace": (SymmetricGeneralizedGamma.laplace(0.6), scipy.stats.laplace(scale=0.6)),
    "generalized": (SymmetricGeneralizedGamma.generalized_normal(2.0, 0.8), scipy.stats.gennorm(0.8, scale=2.0)),
}


def test_symmetric_against_scipy():
    x, q = np.linspace(-5, 5, 41, dtype=np.float32), np.linspace(0.01, 0.99, 25, dtype=np.float32)
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(s for s, _ in SYMMETRIC.values()))
    answers = jax.jit(lambda s: (s.log_prob(x[:, None]), s.cdf(x[:, None]), s.icdf(q[:, None]), s.variance))(together)
    log_prob, cdf, icdf, variance = (np.asarray(v, float) for v in answers)
    assert together.batch_shape == (3,)
    for i, (_, exact) in enumerate(SYMMETRIC.values()):
        inside = x != 0
        np.testing.assert_allclose(log_prob[inside, i], exact.logpdf(x[inside]), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(log_prob[~inside, i], exact.logpdf(0.0), rtol=1e-5)
        np.testing.assert_allclose(cdf[:, i], exact.cdf(x), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(icdf[:, i], exact.ppf(q), rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(variance[i], exact.var(), rtol=1e-5)


def test_symmetric_samples():
    s, exact = SYMMETRIC["generalized"]
    x = np.asarray(jax.jit(lambda s: s.sample(jax.random.key(0), (4000,)))(s), float)
    assert scipy.stats.kstest(x, exact.cdf).pvalue > 1e-3
    assert s.icdf(jnp.array([0.0, 1.0])).tolist() == [-np.inf, np.inf]


GGD = GeneralizedGamma(
    np.array([0.5, 2.0], np.float32), np.array([0.8, 2.5], np.float32), np.array([0.7, 1.8], np.float32)
)


@pytest.fixture(scope="module")
def tail_answers():
    @jax.jit
    def answers(g, order, x, r):
        tail = TailWeighted(distribution=g.size_biased(order), order=order, log_moment=g.log_moment(order))
        mine = tail.log_density(x), tail.log_upper_moment(x, r)
        return (*mine, g.log_prob(x), g.log_upper_moment(x, r), tail.as_ggd())

    x = jnp.geomspace(1e-3, 30.0, 25)[:, None, None, None]
    r = jnp.array([-1.5, 0.0, 1.0, 2.0])[:, None, None]
    return answers(GGD, jnp.array([[0.0], [1.0], [2.0], [4.0]]), x, r)


def test_tail_weighted_is_exact_within_the_family(tail_answers):
    density, upper, exact_density, exact_upper, _ = tail_answers
    np.testing.assert_allclose(density, jnp.broadcast_to(exact_density, density.shape), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(upper, jnp.broadcast_to(exact_upper, upper.shape), rtol=2e-5, atol=5e-5)


def test_tail_weighted_brought_back(tail_answers):
    back = tail_answers[-1]
    for name in ("d", "p", "loc"):
        np.testing.assert_allclose(
            getattr(back, name), jnp.broadcast_to(getattr(GGD, name), (4, 2)), rtol=1e-4, atol=1e-5
        )


def test_tail_of_a_plain_distribution():
    tail = as_tail(GGD)
    assert as_tail(tail) is tail
    assert tail.batch_shape == (2,)
    assert tail[0].batch_shape == ()
    x = jnp.array([[0.3], [2.0]])
    np.testing.assert_allclose(tail.log_density(x), GGD.log_prob(x), rtol=1e-6)
    np.testing.assert_allclose(tail.upper_moment(x, 1.0), GGD.upper_moment(x, 1.0), rtol=1e-5)
    assert (tail.log_density(jnp.array([[0.0], [-1.0], [jnp.inf]])) == -jnp.inf).all()


def test_shape_of_a_brought_back_fit_stays_positive():
    narrow = TailWeighted(
        distribution=GeneralizedGamma(1.0, 1.5, 1.0), order=jnp.float32(2.0), log_moment=jnp.float32(0.0)
    )
    assert narrow.as_ggd().d > 0


@pytest.fixture(scope="module")
def hurdle():
    tail = jax.tree.map(lambda leaf: leaf[None], as_tail(GGD))
    return Hurdle(zero_probability=jnp.array([0.3]), weight=jnp.array([[0.5, 0.2]]), tail=tail)


def test_hurdle_mass(hurdle):
    x = np.concatenate([-np.geomspace(1e-6, 60, 3000)[::-1], np.geomspace(1e-6, 60, 3000)]).astype(np.float32)
    density, cdf, at_zero = jax.jit(lambda h: (h.density(x[:, None]), h.cdf(x[:, None]), h.cdf(0.0)))(hurdle)
    density, cdf = np.asarray(density[:, 0], float), np.asarray(cdf[:, 0], float)
    halves = [
        scipy.integrate.trapezoid(density[s] * np.abs(x[s]), np.log(np.abs(x[s])))
        for s in (slice(3000, None), slice(2999, None, -1))
    ]
    np.testing.assert_allclose(halves, [0.5, 0.2], rtol=2e-3)
    np.testing.assert_allclose(at_zero, 0.5, atol=1e-6)
    # the jump at zero is the point mass
    np.testing.assert_allclose(cdf[3000] - cdf[2999], 0.3, atol=1e-3)
    assert (np.diff(cdf) >= -1e-6).all()
    np.testing.assert_allclose(cdf[[0, -1]], [0, 1], atol=1e-5)
    dist = scipy.stats.gengamma(a=0.8 / 0.7, c=0.7, scale=0.5)
    np.testing.assert_allclose(1 - cdf[3000:], 0.5 * dist.sf(x[3000:]), atol=1e-5)


def test_hurdle_moments_and_samples(hurdle):
    mean, second, x = jax.jit(lambda h: (h.mean, h.moment(2.0), h.sample(jax.random.key(1), (200_000,))))(hurdle)
    assert x.shape == (200_000, 1)
    x = np.asarray(x[:, 0], float)
    np.testing.assert_allclose([(x == 0).mean(), (x > 0).mean()], [0.3, 0.5], atol=0.005)
    exact = [scipy.stats.gengamma(a=0.8 / 0.7, c=0.7, scale=0.5), scipy.stats.gengamma(a=2.5 / 1.8, c=1.8, scale=2.0)]
    np.testing.assert_allclose(mean, [0.5 * exact[0].mean() - 0.2 * exact[1].mean()], rtol=1e-5)
    np.testing.assert_allclose(second, [0.5 * exact[0].moment(2) + 0.2 * exact[1].moment(2)], rtol=1e-5)
    np.testing.assert_allclose(x.mean(), mean[0], atol=0.01)
    np.testing.assert_allclose((x**2).mean(), second[0], rtol=0.03)


def test_one_sided_and_symmetric_hurdles():
    one = Hurdle.one_sided(GGD, jnp.array([0.6, 0.0]))
    assert one.batch_shape == (2,)
    np.testing.assert_allclose(one.weight, [[0.4, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(one.mean, jnp.array([0.4, 1.0]) * GGD.mean, rtol=1e-6)
    assert (one.density(-1.0) == 0).all()
    both = Hurdle.symmetric(SYMMETRIC["laplace"][0], 0.2)
    np.testing.assert_allclose(both.weight, [0.4, 0.4])
    np.testing.assert_allclose(
        both.density(jnp.array([-1.0, 1.0])), 0.8 * scipy.stats.laplace(scale=0.6).pdf([1, 1]), rtol=1e-5
    )
    np.testing.assert_allclose(both.mean, 0.0, atol=1e-7)
