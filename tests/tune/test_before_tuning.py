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
    assert len(found) == 4  # the ReLU6 before the last is one limit per channel
    for first, second in found[:1]:
        r1 = np.abs(net.params[first.param("kernel")]).max((0, 1, 2))
        r2 = np.abs(net.params[second.param("kernel")]).max((0, 1, 2))
        live = r1 > 0
        assert live.sum() == 7
        np.testing.assert_allclose(r1[live], r2[live], rtol=1e-2)


@pytest.fixture(scope="module")
def limited():
    """Three dense layers with a ReLU6 and a lower limit of -2 between them, channels of different ranges; images."""
    rng = np.random.default_rng(0)
    k1 = (rng.normal(size=(4, 8)) * 10.0 ** rng.uniform(-1, 1, 8)).astype(np.float32)
    k2, k3 = rng.normal(size=(8, 8)).astype(np.float32), rng.normal(size=(8, 3)).astype(np.float32)
    x = rng.normal(size=(256, 4)).astype(np.float32)
    net = trace(lambda v: jnp.clip(jnp.clip(v @ k1 + 0.3, 0.0, 6.0) @ k2, -2.0, None) @ k3, x[:1])
    return net, equalize(net), x


def test_limits_are_scaled_along_exactly(limited):
    net, equalized, x = limited
    assert [node.op for node in net.graph.nodes] == ["dense", "clip", "dense", "clip", "dense"]
    assert [node.op for node in equalized.graph.nodes] == ["dense", "relu", "minimum", "dense", "maximum", "dense"]
    wanted = np.asarray(net(x))
    np.testing.assert_allclose(equalized(x), wanted, atol=1e-6 * np.abs(wanted).max())
    # A limit c of channel i is c / s_i, where the first layer's channel is divided by s_i.
    (first, *_), (_, _, least, *_) = net.graph.quantizable, equalized.graph.nodes
    scale = np.asarray(net.params[first.param("kernel")] / equalized.params[first.param("kernel")])
    np.testing.assert_allclose(scale, np.broadcast_to(scale[:1], scale.shape), rtol=1e-5)
    np.testing.assert_allclose(equalized.params[least.param("constant")][0], 6.0 / scale[0], rtol=1e-5)
    assert np.ptp(scale[0]) > 0.5
    # Limits are reached, on both sides of them.
    hidden = np.maximum(x @ np.asarray(net.params[first.param("kernel")]) + 0.3, 0)
    assert 0.05 < np.mean(hidden > 6) < 0.95


def test_limits_per_channel_are_the_same_in_integers(limited):
    _, equalized, x = limited
    config = gd.QuantConfig(weight_bits=5, activation_bits=6, scheme="max-abs")
    q = gd.quantize(equalized, gd.calibrate(equalized, [x]), config)
    np.testing.assert_allclose(gd.datapath.compile(q).run(x).logits, q(x), atol=1e-5)


def test_networks_without_pairs_stay_as_they_are():
    net = trace(lambda v: jnp.clip(v @ jnp.eye(3), 0.0, 6.0), jnp.zeros((1, 3)))
    assert [node.op for node in equalize(net).graph.nodes] == ["dense", "clip"]


def test_bias_correction_is_one_walk_in_which_layers_see_their_predecessors_corrected():
    """Layer after layer: each has no mean error on what the corrected ones before it give."""
    rng = np.random.default_rng(3)
    x, k1, k2 = (rng.normal(size=size).astype(np.float32) for size in ((96, 6), (6, 8), (8, 3)))
    net = trace(lambda v: jax.nn.relu(v @ k1 + 0.5) @ k2 + 0.1, x[:1])
    config = gd.QuantConfig(weight_bits=3, activation_bits=4, bias_bits=16, scheme="max-abs")
    q = gd.quantize(net, gd.calibrate(net, [x]), config)
    told = []
    corrected = correct_biases(q, x, batch_size=20, progress=lambda *done: told.append(done))
    assert told == [(1, 2), (2, 2)]
    first = corrected.graph.quantizable[0]
    hidden = corrected.quantizers.activations[first.inputs[0]](x) @ corrected.quantizers.weights[first.name](k1)
    hidden = np.asarray(hidden) + np.asarray(corrected.quantizers.bias(first)(corrected.params[first.param("bias")]))
    np.testing.assert_allclose(hidden.mean(0), (x @ k1 + 0.5).mean(0), atol=1e-3)
    np.testing.assert_allclose(np.asarray(corrected(x)).mean(0), np.asarray(net(x)).mean(0), atol=2e-3)
    few = correct_biases(q, x, memory_bytes=1)  # tensors in files
    for key in q.params:
        np.testing.assert_allclose(few.params[key], corrected.params[key], atol=1e-6)
    with pytest.raises(GgdjaxError, match="`batch_size` must be at least 1"):
        correct_biases(q, x, batch_size=0)


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
