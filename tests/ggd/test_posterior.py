"""The posterior of a fit: coverage of the truth, width against n, images that differ, degenerate data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax._errors import GgdjaxError
from ggdjax.ggd import GeneralizedGamma, Histogram, fit, sample_posterior
from ggdjax.steps import closed_form_step

pytestmark = pytest.mark.usefixtures("optimized_chains")

TRUTH = GeneralizedGamma(2.0, 1.5, 1.3)
#: Data sets in one batch, values in each, splits of the images.
SETS, VALUES, SPLITS = 20, 4000, 16


def step(tail):
    return closed_form_step(tail, bits=8)


def width(interval):
    return np.asarray(interval.upper - interval.lower)


@pytest.fixture(scope="module")
def histograms():
    """Of n and of 4n independent values, batch shape (2 SETS,)."""
    x = jax.jit(lambda g: g.sample(jax.random.key(0), (SETS, 5 * VALUES)))(TRUTH)
    few, many = (Histogram.from_samples(part, axis=-1) for part in (x[:, :VALUES], x[:, VALUES:]))
    return jax.tree.map(lambda a, b: np.concatenate([a, b]), few, many)


@pytest.fixture(scope="module", params=[0, 2], ids=["order0", "order2"])
def sampled(request, histograms):
    posterior = sample_posterior(histograms, jax.random.key(1), order=request.param)
    return request.param, posterior, fit(histograms, order=request.param)


def test_chain(sampled):
    _, posterior, _ = sampled
    assert posterior.tail.batch_shape == (500, 2 * SETS)
    assert posterior.divergences <= 5
    assert posterior.effective_draws.min() > 100
    assert np.isfinite(np.stack(jax.tree.leaves(posterior.tail))).all()


def test_intervals_cover_the_truth(sampled):
    order, posterior, _ = sampled
    tail_step, true_step = posterior.interval(step), step(TRUTH)
    covered = {
        "step": (tail_step.lower < true_step) & (true_step < tail_step.upper),
        "p": _covers(posterior.interval(lambda t: t.distribution.p), TRUTH.p),
        "d": _covers(posterior.interval(lambda t: t.distribution.d - t.order), TRUTH.d),
    }
    for name, inside in covered.items():
        # nominal 0.9; 40 sets: standard error 0.05. Weights x² leave few values in the tail: a little less.
        assert float(inside.mean()) > (0.77 if order == 0 else 0.7), name
        assert float(inside.mean()) < 1.0, name


def _covers(interval, value):
    return (interval.lower < value) & (value < interval.upper)


def test_width_shrinks_with_the_root_of_the_number_of_values(sampled):
    order, posterior, _ = sampled
    wide = width(posterior.interval(step))
    assert (1.7 if order == 0 else 1.4) < np.median(wide[:SETS]) / np.median(wide[SETS:]) < 2.4


def test_spread_agrees_with_standard_errors(sampled):
    _, posterior, result = sampled
    for name in ("d", "p"):
        drawn = np.asarray(getattr(posterior.tail.distribution, name)).std(0)[SETS:]
        ratio = drawn / np.asarray(getattr(result.standard_errors, name))[SETS:]
        assert 0.8 < np.median(ratio) < 1.3


def test_median_is_the_fit(sampled):
    _, posterior, result = sampled
    interval = posterior.interval(step)
    off = np.abs(np.asarray(interval.median - step(result.tail))) / width(interval)
    assert np.median(off) < 0.1


def test_effective_count(sampled):
    order, posterior, _ = sampled
    share = np.asarray(posterior.effective_count)[SETS:] / (4 * VALUES)
    if order == 0:
        assert share.min() > 0.85
        assert share.max() <= 1.0
    else:
        assert 0.05 < np.median(share) < 0.5  # weights x² make some values count for many


@pytest.fixture(scope="module")
def images():
    """Values that share a factor within an image: batch shape (SPLITS, 2 SETS), 4 images of 250 values in a split."""

    @jax.jit
    def make(key):
        keys = jax.random.split(key)
        factor = jnp.exp(0.3 * jax.random.normal(keys[0], (SPLITS, 2 * SETS, 4, 1)))
        return (factor * TRUTH.sample(keys[1], (SPLITS, 2 * SETS, 4, 250))).reshape(SPLITS, 2 * SETS, 1000)

    return Histogram.from_samples(make(jax.random.key(5)), axis=-1)


def test_splits_measure_what_other_images_would_give(images):
    """The interval is as wide as the steps from other images scatter; counting every value as independent is not."""
    naive = sample_posterior(images.merge(0), jax.random.key(2), order=0)
    honest = sample_posterior(images, jax.random.key(2), order=0, split_axis=0)
    steps = np.asarray(step(fit(images.merge(0), order=0).tail))
    scatter = 2 * 1.645 * steps.std(ddof=1)
    assert 0.7 < np.median(width(honest.interval(step))) / scatter < 1.4
    assert np.median(width(naive.interval(step))) / scatter < 0.7
    assert (honest.effective_count < naive.effective_count).mean() > 0.9


def test_design_effect_divides_the_number_of_values(images):
    naive = sample_posterior(images.merge(0), jax.random.key(2), order=0)
    wide = sample_posterior(images.merge(0), jax.random.key(2), order=0, design_effect=16.0)
    np.testing.assert_allclose(wide.effective_count, naive.effective_count / 16, rtol=0.01)
    assert 3.0 < np.median(width(wide.interval(step)) / width(naive.interval(step))) < 5.0
    for broken in ({"design_effect": 0.5}, {"design_effect": np.nan}, {"design_effect": 2.0, "split_axis": 0}):
        with pytest.raises(GgdjaxError, match="expected at least 1, and 1 with `split_axis`"):
            sample_posterior(images, jax.random.key(2), **broken)


@pytest.fixture(scope="module")
def odd(histograms):
    """Four odd tensors in the place of the first four: same shapes, no new compilation."""
    x = np.zeros((4, 100), np.float32)
    x[1], x[2, :2] = 3.0, [1.0, 2.0]
    x[3] = np.exp(np.random.default_rng(0).normal(size=100) * 2)
    return jax.tree.map(lambda a, b: np.concatenate([a, b[4:]]), Histogram.from_samples(x, axis=-1), histograms)


def test_degenerate_tensors_stay_finite(odd):
    posterior = sample_posterior(odd, jax.random.key(0))
    assert np.isfinite(np.stack(jax.tree.leaves(posterior.tail))).all()
    assert (posterior.effective_count[:3] == 0).all()
    assert (posterior.effective_count[3:] > 0).all()
    assert np.isfinite(np.stack(posterior.interval(step))).all()


def test_units_and_repeatability(histograms, sampled):
    order, posterior, _ = sampled
    again = sample_posterior(histograms, jax.random.key(1), order=order)
    assert (again.tail.distribution.loc == posterior.tail.distribution.loc).all()
    factor = np.float32(2.0**-60)
    counts = np.roll(np.asarray(histograms.counts), -60 * 128, axis=-1)
    minimum, maximum = (v * factor for v in (histograms.minimum, histograms.maximum))
    small = Histogram(counts=counts, zeros=histograms.zeros, minimum=minimum, maximum=maximum)
    scaled = sample_posterior(small, jax.random.key(1), order=order)
    before, after = (width(p.interval(step)) for p in (posterior, scaled))
    np.testing.assert_allclose(after / factor, before, rtol=0.2)


def test_wrong_arguments(histograms):
    with pytest.raises(GgdjaxError, match="`split_axis`"):
        sample_posterior(histograms, jax.random.key(0), split_axis=3)
    with pytest.raises(GgdjaxError, match="`draws`"):
        sample_posterior(histograms, jax.random.key(0), draws=0)
    with pytest.raises(GgdjaxError, match="`side`"):
        sample_posterior(histograms, jax.random.key(0), side="both")
    with pytest.raises(GgdjaxError, match="`order`"):
        sample_posterior(histograms, jax.random.key(0), order=np.ones(3))
