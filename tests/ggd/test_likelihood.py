from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax._errors import GgdjaxError
from ggdjax.ggd import Histogram, fit, fit_likelihood


@pytest.fixture(scope="module")
def histograms():
    rng = np.random.default_rng(0)
    shapes = [(1.0, 1.0), (2.0, 2.0), (0.7, 0.8), (3.0, 1.5)]
    x = np.stack([a * rng.gamma(d / p, size=40_000) ** (1 / p) for a, (d, p) in zip([1, 1e-4, 1e4, 3], shapes)])  # noqa: B905
    return Histogram.from_samples(x.astype(np.float32), axis=-1)


@pytest.mark.parametrize("order", [0, 2])
def test_agrees_with_the_profile(histograms, order):
    direct, profile = fit_likelihood(histograms, order), fit(histograms, order=order)
    assert np.asarray(direct.converged).all()
    np.testing.assert_allclose(direct.loss, -np.asarray(profile.log_likelihood), atol=2e-4)
    for share in (0.1, 0.9, 0.999):
        left, right = (np.asarray(r.tail.distribution.icdf(jnp.float32(share))) for r in (direct, profile))
        np.testing.assert_allclose(left, right, rtol=0.01)
    np.testing.assert_allclose(direct.tail.log_moment, profile.tail.log_moment, rtol=1e-4, atol=1e-4)


def test_a_penalty_moves_the_fit(histograms):
    def near_exponential(g):
        return 3.0 * jnp.square(jnp.log(g.p))

    moved = fit_likelihood(histograms, penalty=near_exponential)
    np.testing.assert_allclose(moved.distribution.p, 1.0, atol=0.1)


def test_refusals():
    with pytest.raises(GgdjaxError, match="`order`"):
        fit_likelihood(np.ones(5, np.float32), -1)
    with pytest.raises(GgdjaxError, match="`data`"):
        fit_likelihood(np.ones((0,), np.float32))
    with pytest.raises(GgdjaxError, match="`side`"):
        fit_likelihood(np.ones(5, np.int32), side="left")
