"""Weights first: steps chosen again from what the rounded weights compute."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import ggdjax as gd
from ggdjax import GgdjaxError
from ggdjax.network import run
from ggdjax.quantization import FakeQuant, Quantizers

BATCHES = [np.random.default_rng(seed).uniform(0, 1, (16, 8, 8, 1)).astype(np.float32) for seed in range(3)]


@pytest.fixture(scope="module")
def net():
    return gd.trace(gd.zoo.digits_net(), np.zeros((1, 8, 8, 1), np.float32))


@pytest.fixture(scope="module")
def calibration(net):
    return gd.calibrate(net, BATCHES, per_channel=True)


@pytest.fixture(scope="module")
def q(net, calibration):
    return gd.quantize(
        net, calibration, gd.QuantConfig(weight_bits=3, activation_bits=5, bias_bits=6, scheme="max-abs")
    )


@pytest.fixture(scope="module")
def again(q):
    return gd.recalibrate(q, BATCHES)


def test_the_rounded_network_computes_with_rounded_weights_and_real_feature_maps(q):
    weights = Quantizers(weights=q.quantizers.weights, biases=q.quantizers.biases)
    expected = jax.jit(lambda x: run(q.graph, q.params, x, FakeQuant(weights)))(BATCHES[0])
    np.testing.assert_allclose(q.rounded_network(BATCHES[0]), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(q.rounded_network(BATCHES[0]) - q.network(BATCHES[0])).max() > 0.1


def test_steps_are_those_of_a_calibration_of_the_rounded_network(q, again):
    wanted = gd.quantize(q.rounded_network, gd.calibrate(q.rounded_network, BATCHES), q.record.config)
    ratios = again.record.stages[-1].figures["step_ratio"]
    for name, quantizer in again.quantizers.activations.items():
        new, old = (np.asarray(of[name].step) for of in (wanted.quantizers.activations, q.quantizers.activations))
        assert quantizer.step == new
        assert quantizer.bits == 5
        np.testing.assert_allclose(ratios[name], new / old)
    first, *others = ratios.values()
    assert first == 1.0  # the images are the same
    assert all(ratio != 1.0 for ratio in others), ratios


def test_only_steps_of_feature_maps_change(q, again):
    assert again.params == q.params
    for kind in ("weights", "biases"):
        jax.tree.map(np.testing.assert_array_equal, getattr(again.quantizers, kind), getattr(q.quantizers, kind))


def test_the_record(q, again, tmp_path):
    record = again.record
    assert [(stage.name, stage.images) for stage in record.stages] == [("quantize", 48), ("recalibrate", 48)]
    assert record.calibration.images == 48
    assert record.float_network is q.record.float_network
    for name, choice in record.choices.items():
        np.testing.assert_allclose(choice.step, again.quantizers.activations[name].step, rtol=2e-3)
    again.save(tmp_path / "net.safetensors")
    loaded = gd.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(loaded(BATCHES[0]), again(BATCHES[0]))
    assert loaded.record.stages == record.stages


def test_steps_per_channel(net, calibration):
    config = gd.QuantConfig(weight_bits=3, scheme="max-abs", activations_per="channel")
    again = gd.recalibrate(gd.quantize(net, calibration, config), BATCHES)
    assert again.record.calibration.channels.keys() == again.quantizers.activations.keys()
    assert all(np.ndim(quantizer.step) == 1 for quantizer in again.quantizers.activations.values())


def test_what_stays_in_float_stays_in_float(q):
    name = next(iter(q.quantizers.activations))
    rest = {key: value for key, value in q.quantizers.activations.items() if key != name}
    partly = q.changed(
        gd.quantization.Stage(name="partly"),
        quantizers=gd.quantization.Quantizers(
            activations=rest, weights=q.quantizers.weights, biases=q.quantizers.biases
        ),
    )
    assert gd.recalibrate(partly, BATCHES).quantizers.activations.keys() == rest.keys()


def test_without_a_record(q):
    bare = jax.tree.map(lambda leaf: leaf, q)
    with pytest.raises(GgdjaxError, match="no record"):
        gd.recalibrate(bare, BATCHES)
