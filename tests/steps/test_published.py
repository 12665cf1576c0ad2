"""Steps against numbers that others published, and against 40-digit arithmetic (`golden_steps.json`)."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax.ggd import GeneralizedGamma, SymmetricGeneralizedGamma, TailWeighted
from ggdjax.steps import closed_form_step, optimal_step, predict, solve, support_step

GOLDEN = json.loads(Path(__file__).with_name("golden_steps.json").read_text())


def golden(name, dtype):
    return np.array([row[name] for row in GOLDEN], dtype)


def source(dtype):
    return GeneralizedGamma(*(jnp.asarray(golden(name, dtype)) for name in ("a", "d", "p")))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-4), (np.float64, 1e-5)])
def test_golden_steps(dtype, tolerance):
    with jax.enable_x64(dtype is np.float64):
        result = solve(source(dtype), golden("bits", np.int32), method="optimal")
        assert (np.asarray(result.code) == 0).all()
        np.testing.assert_allclose(result.step, golden("opt_step", np.float64), rtol=tolerance)
        np.testing.assert_allclose(result.distortion.total, golden("opt_mse", np.float64), rtol=10 * tolerance)
        np.testing.assert_allclose(result.sqnr_db, golden("opt_sqnr_db", np.float64), atol=50 * tolerance)


# Gaussian and Laplace by Max (1960) and Paez & Glisson (1972), gamma (d = 1/2, p = 1) by the latter; unit variance.
PUBLISHED = {
    "gauss": ((2**0.5, 1.0, 2.0), (0.9957, 0.5860, 0.3352, 0.1881), (0.1188, 0.03744, 0.01154, 0.003495)),
    "laplace": ((2**-0.5, 1.0, 1.0), (1.0874, 0.7309, 0.4610, 0.2800), (0.1963, 0.07175, 0.02535, 0.00871)),
    "gamma": (((4 / 3) ** 0.5, 0.5, 1.0), (1.0660, 0.7957, 0.5400, 0.3459), (0.3200, 0.1323, 0.0501, 0.0178)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_mid_rise_tables(name):
    (a, d, p), steps, errors = PUBLISHED[name]
    # N levels in all: N/2 on each side of zero.
    result = solve(GeneralizedGamma(a, d, p), levels=np.array([2.0, 4.0, 8.0, 16.0]), method="optimal", rule="mid_rise")
    np.testing.assert_allclose(result.step, steps, atol=1.01e-4)
    last_digit = [10.0 ** -len(str(e).split(".")[1]) for e in errors]
    assert (np.abs(np.asarray(result.distortion.total) - errors) <= 1.01 * np.array(last_digit)).all()


# Bits -> median and largest loss in dB of the corrected closed form against the optimum, over this grid.
LOSSES = {3: (0.073, 0.18), 4: (0.028, 0.060), 6: (0.0030, 0.0095), 8: (0.0003, 0.0030)}


def test_losses_of_the_closed_form():
    d, p = (v.ravel().astype(np.float32) for v in np.meshgrid([0.8, 1, 1.5, 2, 3], [0.6, 0.8, 1, 1.5, 2, 3]))
    g = GeneralizedGamma(jnp.ones(d.size), jnp.asarray(d), jnp.asarray(p))
    bits = np.array(list(LOSSES))[:, None]
    best = predict(g, optimal_step(g, bits), bits).sqnr_db
    for step in (closed_form_step(g, bits), support_step(g, bits)):
        loss = np.asarray(best - predict(g, step, bits).sqnr_db)
        for row, (median, largest) in zip(loss, LOSSES.values(), strict=True):
            assert np.median(row) <= 1.05 * median + 1e-4
            assert row.max() <= 1.05 * largest + 1e-4
            assert row.min() > -1e-3


def test_a_symmetric_source_is_its_magnitude():
    one = optimal_step(GeneralizedGamma(1.0, 1.0, 2.0), 8, signed=True)
    two = optimal_step(SymmetricGeneralizedGamma(magnitude=GeneralizedGamma(1.0, 1.0, 2.0)), 8, signed=True)
    np.testing.assert_allclose(one, two, rtol=1e-6)


# The corrected closed form lies a few hundredths beside the root of its equation; its gradient is that of the root.
@pytest.mark.parametrize(("step", "tolerance"), [(closed_form_step, 0.03), (support_step, 2e-3), (optimal_step, 2e-3)])
def test_gradients_by_finite_differences(step, tolerance):
    with jax.enable_x64(True):

        def log_step(v):
            return jnp.log(step(GeneralizedGamma(jnp.exp(v[0]), jnp.exp(v[1]), jnp.exp(v[2])), levels=jnp.exp(v[3])))

        point = jnp.log(jnp.array([2.0, 1.3, 0.9, 40.0]))
        exact, h = jax.grad(log_step)(point), 1e-5
        moves = h * jnp.eye(4)
        numeric = [(log_step(point + m) - log_step(point - m)) / (2 * h) for m in moves]
        np.testing.assert_allclose(exact, jnp.stack(numeric), rtol=tolerance, atol=1e-5)


def test_scales_and_batches():
    g = GeneralizedGamma(jnp.array([1e-20, 1.0, 1e20], jnp.float32), 1.2, 0.8)
    steps = np.asarray(closed_form_step(g, np.array([8, 4])[:, None]), np.float64)
    np.testing.assert_allclose(steps / np.array([1e-20, 1.0, 1e20]), np.tile(steps[:, 1:2], 3), rtol=1e-4)
    alone = closed_form_step(GeneralizedGamma(1.0, 1.2, 0.8), 4)
    np.testing.assert_allclose(alone, steps[1, 1], rtol=1e-5)


def test_closed_form_where_the_tail_is_lighter_than_the_fitted_shape():
    """A sharp fit whose measured moment leaves little in the tail: few levels end well below the scale."""
    d, p, order, lower = (v.ravel() for v in np.meshgrid([0.8, 3.0], [8.0, 20.0, 50.0], [0.0, 4.0], [0.0, 1.0, 3.0]))
    shape = (d + order).astype(np.float32)
    g = GeneralizedGamma(np.ones_like(shape), shape, p.astype(np.float32))
    exact = GeneralizedGamma(np.ones_like(shape), d.astype(np.float32), p.astype(np.float32))
    moment = exact.log_moment(order.astype(np.float32)) - lower.astype(np.float32)
    tail = TailWeighted(distribution=g, order=order.astype(np.float32), log_moment=moment)
    bits = np.array([8, 6, 4])[:, None]
    ratio = np.asarray(closed_form_step(tail, bits)) / np.asarray(support_step(tail, bits))
    assert (np.abs(ratio - 1.0) < np.array([0.004, 0.015, 0.04])[:, None]).all()
