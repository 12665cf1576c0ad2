"""Equalization and bias correction."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax._errors import GgdjaxError
from ggdjax.network import trace
from ggdjax.tune._bias_correction import correct_biases
from ggdjax.tune._equalization import equalize, pairs


def _conv(x, kernel, groups=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


@pytest.fixture(scope="module")
def chain():
    """Dense, grouped and depthwise layers, channels of very different ranges, one dead; ReLU6 before the last."""
    rng = np.random.default_rng(0)
    spread = np.float32(10.0) ** rng.uniform(-2, 2, 8).astype(np.float32)
    spread[3] = 0.0
    k1 = rng.normal(size=(3, 3, 2, 8)).astype(np.float32) * spread
    k2 = rng.normal(size=(3, 3, 1, 8)).astype(np.float32)
    k3 = rng.normal(size=(3, 3, 4, 6)).astype(np.float32)
    k4, k5 = rng.normal(size=(1, 1, 6, 5)).astype(np.float32), rng.normal(size=(1, 1, 5, 4)).astype(np.float32)
    b1 = rng.normal(size=8).astype(np.float32)

    def function(x):
        x = jax.nn.relu(_conv(x, k1) + b1[None, None, None, :])
        x = jax.nn.relu(_conv(x, k2, 8))
        x = jax.lax.reduce_window(_conv(x, k3, 2), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = jnp.clip(_conv(x, k4), 0.0, 6.0)
        return _conv(x, k5)

    return trace(function, jax.ShapeDtypeStruct((1, 8, 8, 2), jnp.float32))


def test_equalization_computes_the_same(chain):
    x = np.random.default_rng(1).normal(size=(4, 8, 8, 2)).astype(np.float32)
    before, after = np.asarray(chain(x)), np.asarray(equalize(chain)(x))
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def test_equalization_joins_what_commutes_with_a_scale_and_makes_ranges_equal(chain):
    net = equalize(chain)
    found = pairs(net.graph)
    assert len(found) == 3  # the pair across the ReLU6 is none
    for first, second in found[:1]:
        r1 = np.abs(net.params[first.param("kernel")]).max((0, 1, 2))
        r2 = np.abs(net.params[second.param("kernel")]).max((0, 1, 2))
        live = r1 > 0
        assert live.sum() == 7
        np.testing.assert_allclose(r1[live], r2[live], rtol=1e-2)


def test_bias_correction_takes_the_mean_error(coarse, train):
    images, _ = train
    corrected = correct_biases(coarse, images, batch_size=100)
    real = np.asarray(coarse.network(images)).mean(0)
    before, after = (np.abs(np.asarray(q(images)).mean(0) - real).max() for q in (coarse, corrected))
    # What is left is the rounding of a 16-bit bias.
    assert after < 1e-3 * max(before, 1.0)
    assert before > 0.05
    name = coarse.network.graph.quantizable[-1].name
    assert corrected.quantizers.biases[name].bits == 16
    assert corrected.record.stages[-1].name == "bias_correction"


def test_bias_correction_tells_what_is_wrong(coarse, train):
    with pytest.raises(GgdjaxError, match="`images` is empty"):
        correct_biases(coarse, train[0][:0])
    with pytest.raises(GgdjaxError, match="`batch_size` must be at least 1"):
        correct_biases(coarse, train[0], batch_size=0)
