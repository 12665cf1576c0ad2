"""Equalization and bias correction."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
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


def _sqnr_db(wanted, got):
    wanted, got = np.asarray(wanted, np.float64), np.asarray(got, np.float64)
    return 10 * np.log10(np.square(wanted).sum() / np.square(wanted - got).sum())


def _dead(name):
    """Return two kernels (in, out), biases and inputs of a chain in which a few channels are dead or nearly so."""
    rng = np.random.default_rng(7)
    k1, k2 = rng.normal(size=(24, 16)) / 5, rng.normal(size=(16, 8)) / 4
    bias, x = np.full(16, 0.5), rng.normal(size=(64, 24))
    changes = {
        "weights of 1e-10": lambda: k1.__setitem__((slice(None), 3), 1e-10 * k1[:, 3]),
        "weights of 1e-4": lambda: k1.__setitem__((slice(None), 3), 1e-4 * k1[:, 3]),
        "no weights": lambda: k1.__setitem__((slice(None), 3), 0.0),
        "nothing reads it": lambda: k2.__setitem__(3, 0.0),
        "hardly read": lambda: k2.__setitem__(3, 1e-10 * k2[3]),
        "read by 1e-4": lambda: k2.__setitem__(3, 1e-4 * k2[3]),
        "large bias": lambda: (bias.__setitem__(3, 30.0), k1.__setitem__((slice(None), 3), 1e-3 * k1[:, 3])),
        "large negative bias": lambda: bias.__setitem__(slice(0, 4), -40.0),
        "dead and the next one ten times smaller": lambda: (
            k1.__setitem__((slice(None), 3), 0.0),
            k2.__imul__(0.01),
        ),
        "all of the first": lambda: k1.__imul__(0.0),
        "first of 1e-10": lambda: k1.__imul__(1e-10),
        "second of 1e-6, one channel dead": lambda: (k2.__imul__(1e-6), k1.__setitem__((slice(None), 3), 1e-10)),
        "half of them": lambda: k1.__setitem__((slice(None), slice(0, 8)), 1e-9 * k1[:, :8]),
    }
    changes[name]()
    return tuple(np.asarray(v, np.float32) for v in (k1, k2, bias, x))


@pytest.mark.parametrize(
    "name",
    [
        "weights of 1e-10",
        "weights of 1e-4",
        "no weights",
        "nothing reads it",
        "hardly read",
        "read by 1e-4",
        "large bias",
        "large negative bias",
        "dead and the next one ten times smaller",
        "all of the first",
        "first of 1e-10",
        "second of 1e-6, one channel dead",
        "half of them",
    ],
)
@pytest.mark.parametrize("depthwise", [False, True])
def test_equalization_costs_no_accuracy_where_channels_are_dead(name, depthwise):
    k1, k2, bias, x = _dead(name)
    k3 = np.random.default_rng(8).normal(size=(16, 4)).astype(np.float32)

    def function(v):
        v = jax.nn.relu(v @ k1 + bias[None])
        if depthwise:
            v = jax.nn.relu(_conv(v.reshape(-1, 1, 1, 16), jnp.asarray(k2.mean(1))[None, None, None], 16))
            return v.reshape(-1, 16) @ k3
        return v @ k2

    net = trace(function, jnp.zeros((1, 24)))
    wanted, equalized = np.asarray(net(x)), equalize(net)
    np.testing.assert_allclose(equalized(x), wanted, atol=2e-5 * np.abs(wanted).max())

    def distance(n):
        return _sqnr_db(wanted, gd.quantize(n, gd.calibrate(n, [x]), gd.QuantConfig(scheme="mse-search"))(x))

    assert distance(equalized) > distance(net) - 3


def test_bias_correction_takes_the_mean_error(coarse, train):
    images, _ = train
    config = replace(coarse.record.config, bias_bits=16)
    coarse = gd.quantize(coarse.float_network, coarse.record.calibration, config)
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
