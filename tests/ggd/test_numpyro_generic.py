"""NumPyro's generic tests of a distribution (test_distributions.py of its repository), on ours.

Names and tolerances are theirs, unless a comment says otherwise. Shapes are asked for without computing, and numbers
are computed for the elements of all cases at once: most of the time is compiling.
"""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from jax import lax, random
from numpy.testing import assert_allclose
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.batch_util import promote_batch_shape, vmap_over

from ggdjax.ggd import GeneralizedGammaDistribution

NAMES = ("a", "d", "p")
CASES = {
    "scalar": (2.0, 1.5, 0.8),
    "vector": (np.array([0.5, 1.0, 2.0], np.float32), 3.0, 2.0),
    "arrays": (np.array([1.0, 3.0], np.float32), np.array([2.0, 1.0], np.float32), np.array([1.0, 0.7], np.float32)),
    "matrix": (1.0, np.array([[0.7], [2.5]], np.float32), np.array([0.6, 1.0, 3.0], np.float32)),
}
every_case = pytest.mark.parametrize("params", CASES.values(), ids=CASES)
every_prepend_shape = pytest.mark.parametrize("prepend_shape", [(), (2,), (2, 3)], ids=str)


@pytest.fixture(autouse=True, scope="module")
def _numpyro_promotes():
    """NumPyro relies on implicit promotion."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def scipy_of(a, d, p):
    a, d, p = (np.asarray(v, float) for v in (a, d, p))
    return scipy.stats.gengamma(a=d / p, c=p, scale=a)


def within_bounds(constraint, size, key=None):
    """NumPyro's `gen_values_within_bounds`, of a lower bound."""
    key = random.key(11) if key is None else key
    return jnp.exp(random.normal(key, size)) + constraint.lower_bound + 1e-6


def outside_bounds(constraint, size, key=None):
    """NumPyro's `gen_values_outside_bounds`, of a lower bound."""
    key = random.key(11) if key is None else key
    return constraint.lower_bound - jnp.exp(random.normal(key, size))


def shape_of(function, *arguments):
    return jax.eval_shape(function, *arguments).shape


@jax.jit
def log_prob(params, value):
    return GeneralizedGammaDistribution(*params).log_prob(value)


#: The elements of all cases, one beside the other.
ELEMENTS = tuple(
    np.concatenate(values).astype(np.float32)
    for values in zip(*(map(np.ravel, np.broadcast_arrays(*params)) for params in CASES.values()), strict=True)
)
DRAWS = 50_000


@jax.jit
def _evaluate(params, x, q):
    d = GeneralizedGammaDistribution(*params)
    icdf = d.icdf(q)

    def mean_of_draws(params):
        draws = GeneralizedGammaDistribution(*params).sample(random.key(0), (DRAWS,))
        return draws.mean(0).sum(), draws

    slope, draws = jax.grad(mean_of_draws, has_aux=True)(params)
    return {
        "log_prob": d.log_prob(x),
        "cdf": d.cdf(x),
        "icdf": icdf,
        "cdf of icdf": d.cdf(icdf),
        "log_prob of icdf": d.log_prob(icdf),
        "icdf of cdf": d.icdf(d.cdf(x)),
        "slope of cdf": jax.grad(lambda x: d.cdf(x).sum())(x),
        "slope of icdf": jax.grad(lambda q: d.icdf(q).sum())(q),
        "slope of log_prob": jax.grad(lambda params: log_prob(params, x[0]).sum())(params),
        "draws": draws,
        "slope of mean of draws": slope,
        "slope of mean": jax.grad(lambda params: GeneralizedGammaDistribution(*params).mean.sum())(params),
        "mean": d.mean,
        "variance": d.variance,
        "entropy": d.entropy(),
    }


@pytest.fixture(scope="module")
def samples():
    return within_bounds(constraints.positive, (100, ELEMENTS[0].size))


@pytest.fixture(scope="module")
def quantiles():
    return random.uniform(random.key(1), (100, ELEMENTS[0].size))


@pytest.fixture(scope="module")
def answers(samples, quantiles):
    return jax.device_get(_evaluate(ELEMENTS, samples, quantiles))


@pytest.fixture(scope="module")
def reference():
    return scipy_of(*ELEMENTS)


@every_case
@every_prepend_shape
def test_dist_shape(params, prepend_shape):
    d = GeneralizedGammaDistribution(*params)
    expected = prepend_shape + d.batch_shape + d.event_shape
    assert d.event_shape == ()
    assert shape_of(lambda: d.sample(random.key(0), sample_shape=prepend_shape)) == expected
    assert np.shape(scipy_of(*params).rvs(size=expected)) == expected
    assert shape_of(lambda: d.mean) == shape_of(lambda: d.variance) == shape_of(d.entropy) == d.batch_shape


@every_case
def test_infer_shapes(params):
    inferred = GeneralizedGammaDistribution.infer_shapes(*map(np.shape, params))
    d = GeneralizedGammaDistribution(*params)
    assert inferred == (d.batch_shape, d.event_shape)


@every_case
def test_has_rsample(params):
    d = GeneralizedGammaDistribution(*params)
    masked, independent = d.mask(False), d.expand_by([2]).to_event(1)
    transformed = dist.TransformedDistribution(d, biject_to(constraints.real))
    for derived in (masked, independent, transformed):
        assert derived.has_rsample
        assert shape_of(lambda derived=derived: derived.rsample(random.key(0))) == derived.shape()
    assert set(d.arg_constraints) == set(d.reparametrized_params) == set(NAMES)
    assert not d.is_discrete


def test_args_attributes():
    assert tuple(inspect.signature(GeneralizedGammaDistribution).parameters)[: len(NAMES)] == tuple(NAMES)
    for constraint in GeneralizedGammaDistribution.arg_constraints.values():
        assert (constraint.event_dim, constraint.is_discrete) == (0, False)


def test_pathwise_gradient(answers):
    """In place of their `test_sample_gradient`, as for all that they make of gamma draws, which are rejected or not."""
    for actual, expected in zip(answers["slope of mean of draws"], answers["slope of mean"], strict=True):
        # with a twentieth of their draws, hence not within 0.005
        assert_allclose(actual, expected, rtol=0.05, atol=0.02)


def test_jit_log_likelihood(samples, answers):
    expected = GeneralizedGammaDistribution(*(p[0] for p in ELEMENTS)).log_prob(samples[:, 0])
    assert_allclose(answers["log_prob"][:, 0], expected, atol=2e-5, rtol=2e-5)


@every_case
@pytest.mark.parametrize("prepend_shape", [(), (2, 3)], ids=str)
def test_log_prob(params, prepend_shape):
    shape = prepend_shape + np.broadcast_shapes(*map(np.shape, params))
    samples = within_bounds(constraints.positive, shape)
    value = log_prob(params, samples)
    assert value.shape == shape
    assert_allclose(value, scipy_of(*params).logpdf(samples), atol=1e-5, rtol=1e-5)


def test_log_prob_normalizes(reference):
    ends = (f(np.log(reference.ppf(q))) for f, q in ((np.min, 1e-9), (np.max, 1 - 1e-9)))
    u = np.linspace(*ends, 8001).astype(np.float32)[:, None]
    density = np.exp(np.asarray(log_prob(ELEMENTS, np.exp(u)), float) + u)
    assert_allclose(np.trapezoid(density, u, axis=0), 1.0, rtol=1e-4)


def test_entropy_scipy(answers, reference):
    assert_allclose(answers["entropy"], reference.entropy(), rtol=1e-5, atol=1e-5)


def test_cdf_and_icdf(samples, quantiles, answers, reference):
    # their rtol of distributions that go through the incomplete gamma function
    assert_allclose(answers["slope of cdf"], np.exp(answers["log_prob"]), atol=1e-5, rtol=2e-3)
    assert_allclose(answers["slope of icdf"], np.exp(-answers["log_prob of icdf"]), atol=1e-5, rtol=2e-3)
    assert_allclose(answers["cdf of icdf"], quantiles, atol=1e-5, rtol=1e-5)
    # float32 tells few probabilities close to 1 from each other
    told = answers["cdf"] < 1 - 1e-4
    assert_allclose(answers["icdf of cdf"][told], np.asarray(samples)[told], atol=1e-5, rtol=2e-3)
    assert_allclose(answers["cdf"], reference.cdf(samples), atol=1e-5, rtol=1e-5)
    assert_allclose(answers["icdf"], reference.ppf(quantiles), atol=1e-4, rtol=1e-4)


@every_case
def test_independent_shape(params):
    d = GeneralizedGammaDistribution(*params)
    for i in range(len(d.batch_shape) + 1):
        independent = dist.Independent(d, reinterpreted_batch_ndims=i)
        boundary = len(d.batch_shape) - i
        assert independent.batch_shape == d.batch_shape[:boundary]
        assert independent.event_shape == d.batch_shape[boundary:]
        value = jax.eval_shape(lambda independent=independent: independent.sample(random.key(0)))
        assert shape_of(independent.log_prob, value) == d.batch_shape[:boundary]


def test_log_prob_gradient(samples, answers):
    value, eps = samples[0], 1e-3
    for i, actual in enumerate(answers["slope of log_prob"]):
        below, above = ([p + sign * eps * (j == i) for j, p in enumerate(ELEMENTS)] for sign in (-1, 1))
        expected = (log_prob(above, value) - log_prob(below, value)) / (2 * eps)
        assert actual.shape == ELEMENTS[i].shape
        assert_allclose(actual, expected, rtol=0.05, atol=0.01)


def test_mean_var(answers, reference):
    draws = answers["draws"].astype(float)
    assert (draws > 0).all()
    assert_allclose(answers["mean"], reference.mean(), rtol=1e-5)
    assert_allclose(answers["variance"], reference.var(), rtol=1e-4)
    assert_allclose(draws.mean(0), answers["mean"], rtol=0.05, atol=1e-2)
    assert_allclose(draws.std(0), np.sqrt(answers["variance"]), rtol=0.05, atol=1e-2)


@every_case
@pytest.mark.parametrize("prepend_shape", [(), (2, 3)], ids=str)
def test_distribution_constraints(params, prepend_shape):
    keys = random.split(random.key(1), 3)
    shapes = [np.shape(p) for p in params]
    limits = [GeneralizedGammaDistribution.arg_constraints[name] for name in NAMES]
    valid = [within_bounds(*args) for args in zip(limits, shapes, keys, strict=True)]
    outside = [outside_bounds(*args) for args in zip(limits, shapes, keys, strict=True)]

    with numpyro.validation_enabled(False):
        assert GeneralizedGammaDistribution(*outside)
    with pytest.raises(ValueError, match="invalid a parameter"):
        GeneralizedGammaDistribution(*outside, validate_args=True)
    for i, name in enumerate(NAMES):
        one = [o if j == i else v for j, (o, v) in enumerate(zip(outside, valid, strict=True))]
        for made in (one, jax.device_get(one), jax.tree.map(lambda v: v.tolist(), jax.device_get(one))):
            with pytest.raises(ValueError, match=f"invalid {name} parameter"):
                jax.jit(lambda made=made: GeneralizedGammaDistribution(*made, validate_args=True))()

    d = GeneralizedGammaDistribution(*valid, validate_args=True)
    for name, constraint in d.arg_constraints.items():
        assert constraint(getattr(d, name)).all()
    size = prepend_shape + d.batch_shape
    samples = within_bounds(d.support, size)
    assert_allclose(log_prob(valid, samples), scipy_of(*valid).logpdf(samples), atol=1e-5, rtol=1e-5)
    valid, bad = jax.device_get((valid, outside_bounds(d.support, size)))
    with pytest.warns(UserWarning, match="Out-of-support"):
        jax.eval_shape(lambda: GeneralizedGammaDistribution(*valid, validate_args=True).log_prob(bad))


@pytest.mark.parametrize("transform", [jax.jit, jax.grad, lambda f: lambda x: jax.vmap(f)(jnp.full(2, x))])
def test_omnistaging_invalid_param(transform):
    """A parameter that is a tracer does not hide the others."""

    def f(x):
        return GeneralizedGammaDistribution(x, -np.ones(2), 1.0, validate_args=True).log_prob(1.0).sum()

    with pytest.raises(ValueError, match="got invalid d parameter"):
        transform(f)(1.0)


def test_omnistaging_invalid_sample():
    def f(x):
        return GeneralizedGammaDistribution(x, np.ones(2), 1.0, validate_args=True).log_prob(-1.0)

    with pytest.warns(UserWarning, match="Out-of-support"):
        jax.eval_shape(f, 1.0)


def test_explicit_validate_args():
    GeneralizedGammaDistribution(1.0, 1.0, 1.0, validate_args=False).validate_args()
    d = GeneralizedGammaDistribution(1.0, -1.0, 1.0, validate_args=False)
    with pytest.raises(ValueError, match="got invalid d parameter"):
        d.validate_args()
    jitted = jax.jit(lambda d, strict: d.validate_args(strict), static_argnames=["strict"])
    jitted(d, strict=False)
    with pytest.raises(RuntimeError, match="Cannot validate arguments"):
        jitted(d, strict=True)
    assert set(d.get_args()) == set(NAMES)


@every_case
@pytest.mark.parametrize("prepend_shape", [(), (2, 3)], ids=str)
@pytest.mark.parametrize("sample_shape", [(), (4,)], ids=str)
def test_expand(params, prepend_shape, sample_shape):
    d = GeneralizedGammaDistribution(*params)
    shape = prepend_shape + d.batch_shape
    expanded = d.expand(shape)
    assert expanded.batch_shape == shape
    samples = jax.eval_shape(lambda: expanded.sample(random.key(0), sample_shape))
    assert samples.shape == sample_shape + shape
    assert shape_of(expanded.log_prob, samples) == sample_shape + shape
    assert expanded.expand((3, *shape)).batch_shape == (3, *shape)
    if prepend_shape:
        with pytest.raises(ValueError, match="Cannot broadcast distribution of shape"):
            expanded.expand((3, *d.batch_shape))


@pytest.mark.parametrize(
    ("base_shape", "event_dim", "sample_shape"),
    [((2, 1, 5), 1, (300,)), ((3, 1), 0, (300, 1, 7))],
    ids=str,
)
def test_expand_shuffle_regression(base_shape, event_dim, sample_shape):
    expand_shape = (2, 3, 5)
    # a large p: all draws are close to their mean
    a = 10 * (1.0 + random.uniform(random.key(0), base_shape))
    base = GeneralizedGammaDistribution(a, 40.0, 40.0).to_event(event_dim)
    expanded = base.expand(expand_shape[: len(expand_shape) - event_dim])
    drawn = jax.jit(lambda: expanded.sample(random.key(1), sample_shape))()
    mean = scipy_of(a, 40.0, 40.0).mean()
    expected = np.broadcast_to(mean, sample_shape[1:] + expanded.shape())
    assert_allclose(drawn.mean(0), expected, rtol=0.02)


@pytest.mark.parametrize(
    ("batch_shape", "mask_shape"), [((), ()), ((2,), ()), ((), (2,)), ((4, 2), (1, 2)), ((2,), (4, 2))]
)
@pytest.mark.parametrize("event_shape", [(), (3,)], ids=str)
def test_mask(batch_shape, mask_shape, event_shape):
    d = GeneralizedGammaDistribution(1.0, 2.0, 0.7).expand(batch_shape + event_shape).to_event(len(event_shape))
    mask = dist.Bernoulli(0.5).sample(random.key(0), mask_shape)
    mask = bool(mask) if mask_shape == () else mask
    actual = jax.jit(lambda x: d.mask(mask).log_prob(x))(within_bounds(constraints.positive, batch_shape + event_shape))
    assert_allclose(actual != 0, jnp.broadcast_to(mask, lax.broadcast_shapes(batch_shape, mask_shape)))


@pytest.mark.parametrize("event_shape", [(), (4,), (2, 4)], ids=str)
def test_mask_grad(event_shape):
    @jax.jit
    @jax.value_and_grad
    def f(x):
        base = GeneralizedGammaDistribution(jnp.exp(x), jnp.ones(event_shape), 0.7).to_event()
        mask = jnp.all(jnp.isfinite(data), tuple(-i - 1 for i in range(len(event_shape))))
        value = base.mask(mask).log_prob(data)
        assert value.shape == data.shape[: data.ndim - len(event_shape)]
        return value.sum()

    data = np.array([[0.4, np.nan, 0.2, np.nan], [0.5, 0.5, 0.5, 0.5]], np.float32)
    assert np.isfinite(f(1.0)).all()


@every_case
def test_dist_pytree(params):
    def f(_):
        return GeneralizedGammaDistribution(*params)

    lax.map(f, np.ones(3, np.float32))
    expected, actual = f(0), jax.jit(f)(0)
    for name in NAMES:
        assert_allclose(getattr(actual, name), getattr(expected, name), atol=1e-7)
    assert actual.batch_shape == expected.batch_shape
    value = within_bounds(expected.support, expected.batch_shape)
    assert_allclose(*(jax.jit(lambda d: d.log_prob(value))(d) for d in (actual, expected)), rtol=1e-5)
    # `scan` compares the structure of what goes in with that of what comes out
    lax.scan(lambda *_: (f(0), None), expected, jnp.arange(7))


@pytest.mark.parametrize(("method", "argument"), [("to_event", 1), ("mask", False), ("expand", [5])])
def test_special_dist_pytree(method, argument):
    def f(_):
        return getattr(GeneralizedGammaDistribution(np.ones(1, np.float32), 2.0, 1.0), method)(argument)

    jax.jit(f)(0)
    lax.map(f, np.ones(3, np.float32))


@pytest.mark.parametrize("shape", [(), (2,), (2, 2)], ids=str)
def test_expand_no_unnecessary_batch_shape_expansion(shape):
    def made(a):
        return GeneralizedGammaDistribution(a, a, a).expand([10, 3, *shape])

    a = jnp.ones(shape)
    d = made(a)
    again = type(d).tree_unflatten(*d.tree_flatten()[::-1])
    for other in (again, jax.jit(made)(a)):
        assert isinstance(other, dist.ExpandedDistribution)
        assert (other.batch_shape, other.base_dist.batch_shape) == (d.batch_shape, d.base_dist.batch_shape)
        assert_allclose(other.base_dist.a, d.base_dist.a)
    mapped = jax.vmap(made)(jnp.ones((5, *shape)))
    assert mapped.base_dist.a.shape == (5, *shape)


@every_case
@pytest.mark.parametrize("mapped", [*NAMES, "all"])
def test_vmap_dist(params, mapped):
    d = GeneralizedGammaDistribution(*params)
    own = NAMES if mapped == "all" else (mapped,)
    axes = [0 if name in own else None for name in NAMES]
    pairs = [(axes, 0)]
    if mapped != "all":
        pairs.append((axes, vmap_over(d, **{mapped: 0})))
        if (rank := np.ndim(params[NAMES.index(mapped)])) > 0:
            last = [rank if name in own else None for name in NAMES]
            pairs.append((last, vmap_over(d, **{mapped: np.ndim(getattr(d, mapped))})))

    def equal(x, y):
        return jnp.all(jnp.stack([jnp.all(u == v) for u, v in zip(*map(jax.tree.leaves, (x, y)), strict=True)]))

    for in_axes, out_axes in pairs:
        batched = [p if axis is None else np.expand_dims(p, axis) for p, axis in zip(params, in_axes, strict=True)]
        made = jax.vmap(GeneralizedGammaDistribution, in_axes=in_axes, out_axes=out_axes)(*batched)
        assert jax.vmap(equal, in_axes=(out_axes, None))(made, d).all()
        samples = jax.eval_shape(jax.vmap(lambda d: d.sample(random.key(0)), in_axes=(out_axes,)), made)
        assert samples.shape == (1, *d.batch_shape)


def test_vmap_validate_args():
    for validate in (True, False):
        mapped = jax.vmap(lambda a, v=validate: GeneralizedGammaDistribution(a, 1.0, 1.0, validate_args=v))(jnp.ones(2))
        assert mapped._validate_args is validate


def test_promote_batch_shape_shares_data_and_preserves_input():
    d = jax.vmap(lambda a: GeneralizedGammaDistribution(a, 1.0, 1.0))(jnp.ones((2, 3)))
    assert d.batch_shape == (3,)
    promoted = promote_batch_shape(d)
    assert promoted.batch_shape == (2, 3)
    assert promoted.a is d.a
    assert d.batch_shape == (3,)


def test_promote_batch_shape_expanded_preserves_input():
    d = jax.vmap(lambda a: GeneralizedGammaDistribution(a, 1.0, 1.0).expand((4, 3)))(jnp.ones((2, 3)))
    assert d.batch_shape == (4, 3)
    promoted = promote_batch_shape(d)
    assert promoted.batch_shape == (2, 4, 3)
    assert shape_of(promoted.log_prob, jnp.ones((2, 4, 3))) == (2, 4, 3)
    assert (d.batch_shape, d.base_dist.batch_shape) == ((4, 3), (3,))


@pytest.mark.parametrize("batch_shape", [(), (4,), (2, 3)], ids=str)
def test_kl_independent_and_expanded(batch_shape):
    @jax.jit
    def divergences():
        one, other = GeneralizedGammaDistribution(1.5, 2.0, 0.9), GeneralizedGammaDistribution(1.0, 1.5, 1.1)
        p, q = (d.expand((*batch_shape, 2)) for d in (one, other))
        return (
            dist.kl_divergence(p.to_event(1), q.to_event(1)),
            dist.kl_divergence(other.expand((*batch_shape, 2)), one),
            one.ggd.kl_divergence(other.ggd),
            other.ggd.kl_divergence(one.ggd),
        )

    independent, expanded, forward, backward = divergences()
    assert_allclose(independent, np.full(batch_shape, 2 * forward), rtol=1e-5)
    assert_allclose(expanded, np.full((*batch_shape, 2), backward), rtol=1e-5)


def test_distribution_repr():
    result = repr(GeneralizedGammaDistribution(jnp.ones(5), 1.0, 1.0).expand([3, 4, 5]).to_event(1))
    assert "batch shape (3, 4)" in result
    assert "event shape (5,)" in result
