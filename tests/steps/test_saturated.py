"""The step of saturated tensors: close to the best of all steps, never worse than ignoring either part."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax.ggd import Histogram, empirical_distortion, fit, split_saturation
from ggdjax.steps import closed_form_step, saturated_step

BITS = np.asarray([3, 4, 5, 6, 8])
#: Limits in units of the mean of exponential values that are cut off there: 22 to 0.02 % of the mass lie at the limit.
LIMITS = np.asarray([1.5, 3.0, 5.0, 8.5])


@pytest.fixture(scope="module")
def cut():
    """Return histograms of values cut off, the body's steps ``[tensor, bits]`` and the errors of any steps."""
    x = np.random.default_rng(0).exponential(size=200_000).astype(np.float32)
    histogram = Histogram.from_samples(np.minimum(x, LIMITS[:, None].astype(np.float32)), axis=-1)
    rest, saturation = split_saturation(histogram)
    body = closed_form_step(jax.tree.map(lambda leaf: leaf[:, None], fit(rest).tail), BITS[None])
    levels = 2.0 ** np.broadcast_to(BITS, (LIMITS.size, BITS.size)).astype(np.float32)

    def error(steps):
        top = np.broadcast_to(levels[..., None] - 1.0, steps.shape)
        return np.asarray(empirical_distortion(histogram, steps, top))

    return body, levels, saturation, error


def test_step_is_close_to_the_best(cut):
    body, levels, saturation, error = cut
    limit, weight = saturation.limit[:, None], saturation.weight[:, None]
    assert np.all(np.asarray(weight) > 0)
    step = np.asarray(saturated_step(body, levels, limit, weight))
    full = np.asarray(limit) / (levels - 1.0)
    grid = full[..., None] * np.geomspace(0.25, 1.1, 120)
    loss = error(step[..., None])[..., 0] / error(grid).min(-1)
    assert loss.max() < 1.06, loss
    assert np.all(step <= full)
    # Neither the body's own step nor full range is better anywhere by more than rounding's own ripple.
    naive = np.stack([np.minimum(np.asarray(body), full), full], axis=-1)
    assert np.all(error(step[..., None]) <= 1.05 * error(naive))
    ours, theirs = error(step[..., None])[..., 0].mean(0), error(naive).mean(0).min(-1)
    assert np.all(ours[:-1] < theirs[:-1])
    # At 8 bits all steps are the full range itself, to the last bit or nearly so.
    assert ours[-1] <= theirs[-1] * (1 + 1e-6)


def test_no_point_mass_leaves_the_step_alone():
    step = jnp.asarray([0.1, 0.3])
    np.testing.assert_array_equal(saturated_step(step, 16.0, jnp.asarray([1.0, 1.0]), jnp.zeros(2)), step)


def test_gradients_are_those_of_the_root():
    arguments = (0.09, 32.0, 6.0, 1e-3)
    gradient = jax.grad(lambda a: saturated_step(*a))(tuple(map(jnp.float32, arguments)))
    with jax.enable_x64(True):
        for i, slope in enumerate(gradient):
            moved = [[v * (1 + sign * 1e-4 * (j == i)) for j, v in enumerate(arguments)] for sign in (-1, 1)]
            low, high = (float(saturated_step(*(jnp.float64(v) for v in values))) for values in moved)
            np.testing.assert_allclose(float(slope), (high - low) / (2e-4 * arguments[i]), rtol=2e-3)


@pytest.mark.parametrize("weight", [1e-4, 1e-3, 0.05, 0.4, 0.9])
@pytest.mark.parametrize("bits", [2, 4, 6, 8, 12])
def test_rounding_does_not_throw_the_root_away(weight, bits):
    """The root lies within float32's rounding of the kink at full range, where Newton's step may come out beyond it."""
    levels, limits = 2.0**bits, np.linspace(0.9, 1.1, 1001)
    body = 1.0 / (levels - 0.5)
    step = np.asarray(saturated_step(*map(jnp.float32, (body, levels)), jnp.asarray(limits, jnp.float32), weight))
    noise = (1 - weight) / (12 * (levels - 0.5) * (levels - 1))
    low, high = np.ones_like(limits), np.full_like(limits, 2.0)
    for _ in range(60):
        middle = (low + high) / 2
        beyond = np.maximum(limits - middle * (levels - 1) / (levels - 0.5), 0.0)
        rises = noise * (np.exp(-4 * (middle - 1)) - middle) + weight * beyond > 0
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    np.testing.assert_allclose(step, np.minimum(body * low, limits / (levels - 1)), rtol=2e-6)
