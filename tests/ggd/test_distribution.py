"""The distribution against SciPy and closed forms, in both precisions; gradients; shapes; limits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special as sp
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ggdjax import GeneralizedGamma
from ggdjax._errors import GgdjaxError

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
#: Relative to max(1, |logarithm|).
TOLERANCE = {np.float32: 5e-6, np.float64: 1e-11}
ORDERS = np.array([-0.2, 0.5, 1.0, 2.0, 3.7])


def x64(dtype):
    return jax.enable_x64(dtype is np.float64)


def parameters(dtype):
    """Return 25 triples (a, d, p) and quantiles of them from 1e-6 to 1 − 1e-6, shape (11, 25)."""
    d, p = (v.reshape(-1) for v in np.meshgrid([0.3, 0.8, 1.0, 2.5, 6.0], [0.3, 0.7, 1.0, 2.0, 4.0]))
    a = np.geomspace(0.01, 100.0, 25)
    a, d, p = (v.astype(dtype) for v in (a, d, p))
    level = np.array([1e-6, 1e-3, 0.05, 0.2, 0.4, 0.5, 0.7, 0.9, 0.99, 0.9999, 1 - 1e-6])[:, None]
    return a, d, p, np.maximum(dist(a, d, p).ppf(level), 1e-30).astype(dtype)


def dist(a, d, p):
    a, d, p = (np.asarray(v, float) for v in (a, d, p))
    return scipy.stats.gengamma(a=d / p, c=p, scale=a)


@jax.jit
def evaluate(g, x, q, r):
    """Return everything a distribution answers; x, q (point, batch), r (order, 1, 1)."""
    return {
        "log_prob": g.log_prob(x),
        "prob": g.prob(x),
        "cdf": g.cdf(x),
        "log_cdf": g.log_cdf(x),
        "sf": g.sf(x),
        "log_sf": g.log_sf(x),
        "icdf": g.icdf(q),
        "isf": g.isf(q),
        "moment": g.log_moment(r[:, 0]),
        "upper": g.log_upper_moment(x, r),
        "lower": g.lower_moment(x, r),
        "mean": g.mean,
        "variance": g.variance,
        "mean_log": g.mean_log,
        "mode": g.mode,
        "entropy": g.entropy,
    }


@pytest.fixture(scope="module", params=[np.float32, np.float64], ids=["float32", "float64"])
def case(request):
    dtype = request.param
    a, d, p, x = parameters(dtype)
    q = np.linspace(0.02, 0.98, 11)[:, None].repeat(25, 1).astype(dtype)
    with x64(dtype):
        answers = evaluate(
            GeneralizedGamma(a, d, p), *(jnp.asarray(v) for v in (x, q)), ORDERS[:, None, None].astype(dtype)
        )
    assert all(v.dtype == dtype for v in answers.values())
    wide = [np.asarray(v, float) for v in (a, d, p, x, q)]
    return TOLERANCE[dtype], {name: np.asarray(v, float) for name, v in answers.items()}, wide


def close(value, reference, tolerance):
    error = np.abs(value - reference) / np.maximum(1.0, np.abs(reference))
    assert error.max() < tolerance, error.max()


def test_density_and_tails(case):
    tolerance, got, (a, d, p, x, _) = case
    exact = dist(a, d, p)
    close(got["log_prob"], exact.logpdf(x), tolerance)
    np.testing.assert_allclose(got["prob"], exact.pdf(x), rtol=20 * tolerance)
    for name, reference in (("cdf", exact.cdf(x)), ("sf", exact.sf(x))):
        np.testing.assert_allclose(got[name], reference, rtol=20 * tolerance)
        close(got[f"log_{name}"], np.log(reference), tolerance)


def test_quantiles(case):
    tolerance, got, (a, d, p, _, q) = case
    exact = dist(a, d, p)
    # an error of one rounding in the probability, magnified by 1/d at the lower and 1/p at the upper end
    close(np.log(got["icdf"]), np.log(exact.ppf(q)), 20 * tolerance)
    close(np.log(got["isf"]), np.log(exact.isf(q)), 20 * tolerance)


def test_moments_of_real_order(case):
    tolerance, got, (a, d, p, x, _) = case
    r = ORDERS[:, None]
    total = r * np.log(a) + sp.gammaln((d + r) / p) - sp.gammaln(d / p)
    close(got["moment"], total, tolerance)
    order, u = ((d + r) / p)[:, None], (x / a) ** p
    close(got["upper"], total[:, None] + np.log(sp.gammaincc(order, u)), 5 * tolerance)
    lower = np.exp(total[:, None]) * sp.gammainc(order, u)
    np.testing.assert_allclose(got["lower"], lower, rtol=50 * tolerance, atol=1e-37)


def test_summaries(case):
    tolerance, got, (a, d, p, *_) = case
    exact, k = dist(a, d, p), d / p
    np.testing.assert_allclose(got["mean"], exact.mean(), rtol=10 * tolerance)
    np.testing.assert_allclose(got["variance"], exact.var(), rtol=20 * tolerance)
    close(got["mean_log"], np.log(a) + sp.digamma(k) / p, tolerance)
    np.testing.assert_allclose(got["mode"], a * (np.maximum(d - 1, 0) / p) ** (1 / p), rtol=10 * tolerance)
    close(got["entropy"], np.log(a / p) + sp.gammaln(k) + k + (1 / p - k) * sp.digamma(k), tolerance)


@DTYPES
def test_kl_divergence(dtype):
    a, d, p, _ = parameters(dtype)
    other = [np.roll(v, 7) for v in (a / np.median(a), d, np.minimum(p, 1.5))]
    with x64(dtype):
        f, g = GeneralizedGamma(a, d, p), GeneralizedGamma(*other)
        value = np.asarray(jax.jit(GeneralizedGamma.kl_divergence)(f, g), float)
        itself = np.asarray(jax.jit(GeneralizedGamma.kl_divergence)(f, f), float)
    a, d, p, b, e, q = (np.asarray(v, float) for v in (a, d, p, *other))
    # Bauckhage 2013 (arXiv 1310.3713), eq. (6)
    exact = np.log(p / q) + e * np.log(b) - d * np.log(a) + sp.gammaln(e / q) - sp.gammaln(d / p)
    exact += (sp.digamma(d / p) / p + np.log(a)) * (d - e) - d / p
    exact += np.exp(sp.gammaln((d + q) / p) - sp.gammaln(d / p) + q * np.log(a / b))
    np.testing.assert_allclose(value, exact, rtol=20 * TOLERANCE[dtype], atol=20 * TOLERANCE[dtype])
    assert (itself >= 0).all()
    assert itself.max() < 10 * TOLERANCE[dtype]


@DTYPES
def test_close_to_the_log_normal_boundary(dtype):
    """Shapes to 1e5, where `a` leaves the range of float32 and (a, d, p) say nothing any more."""
    sigma, Q = np.float64(0.8), np.array([0.05, 0.01, 0.0032]).astype(dtype)
    with x64(dtype):
        g = GeneralizedGamma.from_prentice(jnp.asarray(0.3, dtype), jnp.asarray(sigma, dtype), jnp.asarray(Q))
        x = jnp.asarray(np.geomspace(0.05, 30, 21)[:, None], dtype)
        got = {n: np.asarray(getattr(g, n)(x), float) for n in ("log_prob", "log_cdf", "log_sf")}
        mean, log_x = np.asarray(g.mean, float), np.log(np.asarray(x, float))
    # reference in double precision from the same (loc, d, p)
    loc, d, p = (np.asarray(v, float) for v in (g.loc, g.d, g.p))
    k = d / p
    w = p * (log_x - loc)
    u = k * np.exp(w)
    close(got["log_cdf"], np.log(sp.gammainc(k, u)), TOLERANCE[dtype] * 2)
    close(got["log_sf"], np.log(sp.gammaincc(k, u)), TOLERANCE[dtype] * 2)
    close(got["log_prob"], np.log(p) - log_x + k * np.log(u) - u - sp.gammaln(k), max(TOLERANCE[dtype], 1e-9))
    # and the limit itself
    normal = scipy.stats.lognorm(s=sigma, scale=np.exp(0.3))
    limit = np.abs(np.exp(got["log_cdf"]) - normal.cdf(np.exp(log_x))).max(0)
    assert (limit < 0.3 * Q.astype(float)).all()
    np.testing.assert_allclose(mean[-1], normal.mean(), rtol=0.01)


SPECIAL = {
    "exponential": (GeneralizedGamma.exponential(1.7), scipy.stats.expon(scale=1.7)),
    "gamma": (GeneralizedGamma.gamma(2.5, 0.6), scipy.stats.gamma(2.5, scale=0.6)),
    "weibull": (GeneralizedGamma.weibull(1.5, 2.0), scipy.stats.weibull_min(1.5, scale=2.0)),
    "half_normal": (GeneralizedGamma.half_normal(0.7), scipy.stats.halfnorm(scale=0.7)),
    "rayleigh": (GeneralizedGamma.rayleigh(3.0), scipy.stats.rayleigh(scale=3.0)),
    "chi": (GeneralizedGamma.chi(5.0), scipy.stats.chi(5.0)),
}


def test_special_cases():
    x = np.linspace(0.05, 6.0, 40)[:, None].astype(np.float32)
    g = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(g for g, _ in SPECIAL.values()))
    log_prob, cdf = jax.jit(lambda g: (g.log_prob(x), g.cdf(x)))(g)
    for i, (_, exact) in enumerate(SPECIAL.values()):
        close(np.asarray(log_prob[:, i], float), exact.logpdf(x[:, 0].astype(float)), 1e-5)
        close(np.asarray(cdf[:, i], float), exact.cdf(x[:, 0].astype(float)), 1e-6)


def test_conversions():
    a, d, p, _ = parameters(np.float32)
    g = GeneralizedGamma(a, d, p)
    for back in (
        GeneralizedGamma.from_scipy(*g.to_scipy().values()),
        GeneralizedGamma.from_prentice(*g.to_prentice()),
        GeneralizedGamma.from_loc(g.loc, g.d, g.p),
    ):
        for name in ("a", "d", "p"):
            np.testing.assert_allclose(getattr(back, name), getattr(g, name), rtol=2e-5)
    exact = scipy.stats.gengamma(**{name: np.asarray(v, float) for name, v in g.to_scipy().items()})
    np.testing.assert_allclose(exact.mean(), dist(a, d, p).mean(), rtol=1e-4)
    np.testing.assert_allclose(g.a, a, rtol=2e-5)


def test_size_biased():
    g = GeneralizedGamma(jnp.array([0.5, 2.0]), 1.2, 0.7)
    biased, x = g.size_biased(2.0), jnp.array([[0.3], [4.0]])
    np.testing.assert_allclose(biased.a, g.a, rtol=1e-5)
    expected = 2 * jnp.log(x) + g.log_prob(x) - g.log_moment(2.0)[None]
    np.testing.assert_allclose(biased.log_prob(x), expected, rtol=1e-5, atol=1e-5)


def test_edges_of_the_support():
    @jax.jit
    def answers(g, x, q):
        return g.log_prob(x), g.cdf(x), g.sf(x), g.icdf(q), g.isf(q), g.log_moment(-0.5)

    g = GeneralizedGamma(2.0, jnp.array([0.5, 1.0, 2.0]), 1.5)
    x, q = np.array([0.0, -0.0, -1.0, -np.inf, np.inf], np.float32), np.array([0.0, 1.0], np.float32)
    log_prob, cdf, sf, icdf, isf, moment = (np.asarray(v) for v in answers(g, x[:, None], q[:, None]))
    assert (log_prob[:2, 0] == np.inf).all()
    np.testing.assert_allclose(log_prob[:2, 1], dist(2.0, 1.0, 1.5).logpdf(0), rtol=1e-5)
    assert (log_prob[:2, 2] == -np.inf).all()
    assert (log_prob[2:] == -np.inf).all()
    assert (cdf == np.array([0, 0, 0, 0, 1])[:, None]).all()
    assert (sf == np.array([1, 1, 1, 1, 0])[:, None]).all()
    assert (icdf == np.array([0, np.inf])[:, None]).all()
    assert (isf == np.array([np.inf, 0])[:, None]).all()
    assert moment[0] == np.inf
    assert np.isfinite(moment[1:]).all()


def test_samples():
    a, d, p, _ = parameters(np.float32)
    g = GeneralizedGamma(a, d, p)
    x = jax.jit(lambda g: g.sample(jax.random.key(3), (5000,)))(g)
    assert x.shape == (5000, 25)
    exact = dist(a, d, p)
    uniform = exact.cdf(np.asarray(x, float))
    worst = min(scipy.stats.kstest(column, "uniform").pvalue for column in uniform.T)
    assert worst > 1e-3 / 25


def slopes(dtype):
    """Return per parameter the derivatives of every function along its logarithm, and the central differences."""
    a, d, p, x = (jnp.asarray(v[..., ::4]) for v in parameters(dtype))
    x = x[2:-1:2]

    def everything(logarithms):
        a, d, p = jnp.exp(logarithms)
        g, other = GeneralizedGamma(a, d, p), GeneralizedGamma.weibull(0.7, 1.0)
        single = g.entropy, g.log_moment(1.3), g.variance / g.mean**2, other.kl_divergence(g)
        # partial moments and quantiles go through the same two tails (gradients: test_special)
        return jnp.concatenate([*(v[None] for v in single), g.log_prob(x), g.log_sf(x)])

    both = jax.jit(lambda at, direction: jax.jvp(everything, (at,), (direction,)))
    at, found = jnp.log(jnp.stack([a, d, p])), []
    for i in range(3):
        direction = jnp.zeros_like(at).at[i].set(1.0)
        (up, _), (down, _), (_, slope) = (both(at + s * direction, direction) for s in (1e-6, -1e-6, 0.0))
        found.append((np.asarray(slope, float), np.asarray((up - down) / 2e-6, float)))
    return [np.stack(parts) for parts in zip(*found, strict=True)]


def test_gradients_against_differences_and_in_float32():
    with jax.enable_x64(True):
        analytic, difference = slopes(np.float64)
    np.testing.assert_allclose(analytic, difference, rtol=2e-5, atol=2e-5)
    single, _ = slopes(np.float32)
    assert (np.abs(single - analytic) / np.maximum(1.0, np.abs(analytic))).max() < 2e-3


@pytest.mark.parametrize(
    ("shapes", "x"),
    [(((), (), ()), ()), (((3,), (), (2, 1)), (4, 1, 1)), (((2, 3), (3,), ()), (3,)), (((1,), (), ()), (5, 1))],
)
def test_shapes(shapes, x):
    """Arguments broadcast as in numpy, while implicit rank promotion raises."""
    a, d, p = (jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)
    batch = np.broadcast_shapes(*shapes)
    whole = np.broadcast_shapes(batch, x)

    def answers(a, d, p, x):
        g = GeneralizedGamma(a, d, p)
        assert g.batch_shape == batch
        wide = g.log_prob(x), g.cdf(x), g.icdf(x), g.upper_moment(x, 1.0), g.lower_moment(x, 2), g.isf(x)
        return wide, (g.mean, g.variance, g.mode, g.entropy, g.moment(2), g.a, g.k), g.sample(jax.random.key(0), (7,))

    wide, narrow, sample = jax.eval_shape(answers, a, d, p, jax.ShapeDtypeStruct(x, jnp.float32))
    assert {v.shape for v in wide} == {whole}
    assert {v.shape for v in narrow} == {batch}
    assert sample.shape == (7, *batch)


def test_batched_equals_looped_and_mapped():
    a, d, p, x = parameters(np.float32)
    g, x = GeneralizedGamma(a, d, p), jnp.asarray(x)
    one = jax.jit(lambda g, x: (g.log_prob(x), g.log_sf(x)))
    batched, mapped = one(g, x), jax.vmap(one, in_axes=(0, 1))(g, x)
    host, x_host = jax.device_get((g, x))
    looped = [one(host[i], x_host[:, i]) for i in range(25)]
    for field in range(2):
        whole = np.asarray(batched[field]).T
        np.testing.assert_allclose(mapped[field], whole, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(np.stack([v[field] for v in looped]), whole, rtol=1e-5, atol=1e-5)


def test_pytree():
    g = GeneralizedGamma(jnp.array([1.0, 2.0]), 1.5, 0.7)
    leaves, structure = jax.tree.flatten(g)
    assert [leaf.shape for leaf in leaves] == [(2,)] * 3
    assert jax.tree.unflatten(structure, leaves)[1].d == g.d[1]
    assert [str(path[0]) for path, _ in jax.tree_util.tree_leaves_with_path(g)] == [".loc", ".d", ".p"]
    with pytest.raises(AttributeError, match="immutable"):
        g.d = 3.0
    assert "d=" in repr(g)


@pytest.mark.parametrize("bad", [{"a": 0.0}, {"d": -1.0}, {"p": np.nan}, {"p": np.inf}])
def test_wrong_parameters_are_refused(bad):
    parameters = {"a": 1.0, "d": 1.0, "p": 1.0} | bad
    for made in (lambda: GeneralizedGamma(**parameters), jax.jit(lambda: GeneralizedGamma(**parameters))):
        with pytest.raises(GgdjaxError, match=f"`{next(iter(bad))}`"):
            made()


@jax.jit
def _extreme(a, d, p, x, q):
    g = GeneralizedGamma(a, d, p)
    return jnp.stack([g.log_prob(x), g.cdf(x), g.sf(x), g.icdf(q), g.log_upper_moment(x, 1.0), g.entropy])


_positive, _shape = (st.floats(2.0**-n, 2.0**n, width=32) for n in (20, 7))
_any, _level = st.floats(width=32, allow_nan=False), st.floats(0, 1, width=32)


@settings(max_examples=300, deadline=None)
@given(_positive, _shape, _shape, _any, _level)
def test_never_nan(a, d, p, x, q):
    assert not jnp.isnan(_extreme(*(np.float32(v) for v in (a, d, p, x, q)))).any()


@pytest.mark.parametrize("name", ["half_normal", "rayleigh", "exponential", "chi"])
def test_special_cases_refuse_invalid_constants_under_jit(name):
    with pytest.raises(GgdjaxError, match="expected a finite number > 0"):
        jax.jit(lambda x: getattr(GeneralizedGamma, name)(-1.0).log_prob(x))(1.0)
