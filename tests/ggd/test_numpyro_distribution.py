"""The conventions that NumPyro's own tests ask of every distribution, and its use in models."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from numpyro.distributions.batch_util import promote_batch_shape, vmap_over
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, init_to_median
from numpyro.infer.autoguide import AutoLaplaceApproximation
from numpyro.infer.util import log_density

from ggdjax.ggd import GeneralizedGamma, GeneralizedGammaDistribution

SHAPES = [
    (2.0, 1.5, 0.8),
    (np.array([0.5, 1.0, 2.0], np.float32), 3.0, 2.0),
    (1.0, np.array([[0.7], [2.5]], np.float32), np.array([0.6, 1.0, 3.0], np.float32)),
]
PARAMETERS = SHAPES[2]
BATCH = (2, 3)
DRAWS = 20_000
KEY = jax.random.key(0)


@pytest.fixture(autouse=True, scope="module")
def _numpyro_promotes():
    """NumPyro's own inference code relies on implicit promotion."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@jax.jit
def evaluate(d, x, q):
    """Return everything that a distribution answers, in one compiled call."""
    return {
        "log_prob": d.log_prob(x),
        "cdf": d.cdf(x),
        "icdf": d.icdf(q),
        "mean": d.mean,
        "variance": d.variance,
        "mode": d.mode,
        "entropy": d.entropy(),
        "slope": jax.grad(lambda v: d.cdf(v).sum())(x),
    }


@pytest.fixture(scope="module")
def distribution():
    return GeneralizedGammaDistribution(*PARAMETERS)


@pytest.fixture(scope="module")
def draws(distribution):
    return jax.jit(lambda d: d.sample(KEY, (DRAWS,)))(distribution)


@pytest.fixture(scope="module")
def answers(distribution, draws):
    q = np.linspace(0.01, 0.99, 50, dtype=np.float32)[:, None, None]
    return evaluate(distribution, draws[:50], jnp.asarray(q))


@pytest.fixture(scope="module")
def reference():
    a, d, p = (np.asarray(v, float) for v in PARAMETERS)
    return scipy.stats.gengamma(a=d / p, c=p, scale=a)


@pytest.mark.parametrize("parameters", SHAPES, ids=["scalar", "vector", "matrix"])
@pytest.mark.parametrize("sample_shape", [(), (2,), (2, 3)])
def test_shapes(parameters, sample_shape):
    d = GeneralizedGammaDistribution(*parameters)
    expected = sample_shape + d.batch_shape + d.event_shape
    assert d.batch_shape == np.broadcast_shapes(*(np.shape(v) for v in parameters))
    assert d.event_shape == ()
    x = jax.eval_shape(lambda: d.sample(KEY, sample_shape))
    assert x.shape == expected == d.shape(sample_shape)
    answers = jax.eval_shape(evaluate, d, x, x)
    assert {answers[name].shape for name in ("log_prob", "cdf", "icdf", "slope")} == {expected}
    assert {answers[name].shape for name in ("mean", "variance", "mode", "entropy")} == {d.batch_shape}


def test_against_scipy(answers, draws, reference):
    x = np.asarray(draws[:50], float)
    np.testing.assert_allclose(answers["log_prob"], reference.logpdf(x), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(answers["cdf"], reference.cdf(x), rtol=1e-5, atol=1e-6)
    q = np.linspace(0.01, 0.99, 50)[:, None, None]
    np.testing.assert_allclose(answers["icdf"], reference.ppf(q), rtol=2e-5)
    np.testing.assert_allclose(answers["mean"], reference.mean(), rtol=1e-5)
    np.testing.assert_allclose(answers["variance"], reference.var(), rtol=2e-5)
    np.testing.assert_allclose(answers["entropy"], reference.entropy(), rtol=1e-5, atol=2e-6)
    # the density is the slope of the distribution function
    np.testing.assert_allclose(answers["slope"], reference.pdf(x), rtol=1e-4, atol=1e-6)


def test_samples(draws, distribution, answers):
    assert isinstance(draws, jax.Array)
    assert distribution.support(draws).all()
    np.testing.assert_allclose(draws.mean(0), answers["mean"], rtol=0.06)
    np.testing.assert_allclose(draws.var(0), answers["variance"], rtol=0.3)
    a, d, p = (np.broadcast_to(np.asarray(v, float), BATCH) for v in PARAMETERS)
    for index in np.ndindex(BATCH):
        dist = scipy.stats.gengamma(a=d[index] / p[index], c=p[index], scale=a[index])
        assert scipy.stats.kstest(np.asarray(draws[(slice(0, 2000), *index)], float), dist.cdf).pvalue > 1e-3


def test_gradients():
    """Of the log-density against differences; of the samples by implicit reparametrization, −(∂F/∂θ)/f."""
    with jax.enable_x64(True):
        values = tuple(jnp.broadcast_to(jnp.asarray(v, jnp.float64), BATCH) for v in PARAMETERS)
        x = jnp.linspace(0.1, 4.0, 6).reshape(BATCH)

        @jax.jit
        def slopes(values, directions):
            def at(x):
                return jax.jvp(lambda *v: GeneralizedGammaDistribution(*v).log_prob(x), values, directions)[1]

            draw = jax.jvp(lambda *v: GeneralizedGammaDistribution(*v).rsample(KEY), values, directions)
            moved = jax.jvp(lambda *v: GeneralizedGammaDistribution(*v).cdf(draw[0]), values, directions)[1]
            density = jnp.exp(GeneralizedGammaDistribution(*values).log_prob(draw[0]))
            return at(x), draw[1], -moved / density

        log_prob = jax.jit(lambda values: GeneralizedGammaDistribution(*values).log_prob(x))
        for i in range(3):
            directions = tuple(v * (j == i) for j, v in enumerate(values))
            up, down = (tuple(v + s * 1e-6 * t for v, t in zip(values, directions, strict=True)) for s in (1.0, -1.0))
            gradient, of_sample, implicit = slopes(values, directions)
            np.testing.assert_allclose(gradient, (log_prob(up) - log_prob(down)) / 2e-6, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(of_sample, implicit, rtol=1e-6, atol=1e-8)


def test_constraints_and_validation():
    d = GeneralizedGammaDistribution(*PARAMETERS, validate_args=True)
    assert d.has_rsample
    assert set(d.arg_constraints) == {"a", "d", "p"}
    for name, constraint in d.arg_constraints.items():
        assert constraint(getattr(d, name)).all()
        bad = dict(zip("adp", PARAMETERS, strict=True)) | {name: -1.0}
        with pytest.raises(ValueError, match=f"invalid {name} parameter"):
            GeneralizedGammaDistribution(**bad, validate_args=True)
        GeneralizedGammaDistribution(**bad, validate_args=False)
    with pytest.warns(UserWarning, match="Out-of-support"):
        outside = d.log_prob(jnp.full(BATCH, -1.0))
    assert (outside == -jnp.inf).all()


def test_expand_mask_and_event(distribution, draws):
    x = draws[:4]
    density = distribution.log_prob(x)
    wider = distribution.expand((4, *BATCH))
    assert wider.batch_shape == (4, *BATCH)
    assert jax.eval_shape(lambda: wider.sample(KEY, (5,))).shape == (5, 4, *BATCH)
    np.testing.assert_allclose(wider.log_prob(x), density)
    np.testing.assert_allclose(wider.mean, jnp.broadcast_to(distribution.mean, wider.batch_shape))
    np.testing.assert_allclose(wider.to_event(1).log_prob(x), density.sum(-1), rtol=1e-5, atol=1e-5)
    assert (wider.mask(False).log_prob(x) == 0).all()


def test_pytree_and_jit(distribution, draws, answers):
    leaves, structure = jax.tree.flatten(distribution)
    again = jax.tree.unflatten(structure, leaves)
    assert isinstance(again, GeneralizedGammaDistribution)
    assert again.batch_shape == BATCH
    made = jax.jit(lambda: GeneralizedGammaDistribution(*PARAMETERS))()
    for other in (again, made):
        np.testing.assert_allclose(other.log_prob(draws[:50]), answers["log_prob"], rtol=2e-5, atol=2e-6)


def test_vmap(distribution, draws, answers):
    whole = GeneralizedGammaDistribution(*(jnp.broadcast_to(v, BATCH) for v in PARAMETERS))
    axes = vmap_over(whole, a=0, d=0, p=0)
    mapped = jax.vmap(lambda g, v: g.log_prob(v), in_axes=(axes, 1), out_axes=1)(whole, draws[:50])
    np.testing.assert_allclose(mapped, answers["log_prob"], rtol=2e-5, atol=2e-6)
    built = jax.vmap(lambda a: GeneralizedGammaDistribution(a, 1.5, 1.0))(jnp.array([1.0, 2.0]))
    assert promote_batch_shape(built).batch_shape == (2,)
    assert built.mean.shape == (2,)


def test_kl_divergence(distribution, draws):
    other = GeneralizedGammaDistribution(1.5, 1.0, 1.2)
    expected = distribution.ggd.kl_divergence(other.ggd)
    np.testing.assert_allclose(dist.kl_divergence(distribution, other), expected)
    np.testing.assert_allclose(dist.kl_divergence(distribution, other.expand(BATCH)), expected)
    estimate = (distribution.log_prob(draws) - other.log_prob(draws)).mean(0)
    np.testing.assert_allclose(estimate, expected, rtol=0.1, atol=0.02)


def test_to_and_from_ggd():
    g = GeneralizedGamma(jnp.array([0.5, 3.0]), 1.2, 0.9)
    back = GeneralizedGammaDistribution.of(g).ggd
    for a, b in zip(jax.tree.leaves(g), jax.tree.leaves(back), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


TRUTH = {"a": 1.5, "d": 2.0, "p": 1.2}


def model(x):
    prior = dist.LogNormal(0.0, 1.0)
    parameters = {name: numpyro.sample(name, prior) for name in TRUTH}
    with numpyro.plate("values", x.shape[0]):
        numpyro.sample("x", GeneralizedGammaDistribution(**parameters), obs=x)


@pytest.fixture(scope="module")
def data():
    return GeneralizedGammaDistribution(**TRUTH).sample(jax.random.key(1), (2000,))


def test_model_density(data):
    log_joint, _ = log_density(model, (data,), {}, TRUTH)
    expected = dist.LogNormal(0.0, 1.0).log_prob(jnp.array(list(TRUTH.values()))).sum()
    expected = expected + GeneralizedGammaDistribution(**TRUTH).log_prob(data).sum()
    np.testing.assert_allclose(log_joint, expected, rtol=1e-5)


def test_nuts_covers_the_truth(data):
    kernel = NUTS(model, init_strategy=init_to_median)
    sampler = MCMC(kernel, num_warmup=200, num_samples=200, progress_bar=False)
    sampler.run(jax.random.key(2), data)
    for name, truth in TRUTH.items():
        low, high = np.quantile(sampler.get_samples()[name], [0.005, 0.995])
        assert low < truth < high


def test_svi_finds_the_mode(data):
    guide = AutoLaplaceApproximation(model, init_loc_fn=init_to_median())
    svi = SVI(model, guide, numpyro.optim.Adam(0.02), Trace_ELBO())
    result = svi.run(jax.random.key(3), 1000, data, progress_bar=False)
    fitted = GeneralizedGammaDistribution(**guide.median(result.params))
    np.testing.assert_allclose(fitted.mean, data.mean(), rtol=0.01)
