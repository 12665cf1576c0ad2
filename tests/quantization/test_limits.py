"""Limits that the graph and the range of pixels prove, and what they do to the steps of few images."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax._errors import GgdjaxError
from ggdjax.quantization._limits import proven_limits
from tests.small_onnx import write_images


def _last(function, *shape) -> tuple[float, float]:
    net = gd.trace(function, jnp.zeros((1, *shape)))
    return proven_limits(net)[net.graph.outputs[0]]


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda x: jnp.clip(x, 0.0, 6.0), (0.0, 6.0)),
        (jax.nn.relu, (0.0, np.inf)),
        (jax.nn.sigmoid, (0.0, 1.0)),
        (lambda x: jnp.clip(x, 1.0, 2.0) + jnp.tanh(x), (0.0, 3.0)),
        (lambda x: jnp.concatenate([jnp.clip(x, 1.0, 2.0), jax.nn.softmax(x)], axis=-1), (0.0, 2.0)),
        (lambda x: jnp.pad(jnp.clip(x, 1.0, 2.0), ((0, 0), (1, 1), (0, 0), (0, 0))), (0.0, 2.0)),
        (lambda x: jnp.mean(jnp.clip(x, 1.0, 2.0), axis=(1, 2)).reshape(-1, 3), (1.0, 2.0)),
        (lambda x: 3.0 * jax.nn.sigmoid(x), (-np.inf, np.inf)),
        (lambda x: jnp.minimum(jax.nn.relu(x), jnp.array([[[[1.0, 6.0, 2.0]]]])), (0.0, 6.0)),
        (lambda x: jnp.maximum(jnp.tanh(x), jnp.array([[[[0.5, 0.0, 0.25]]]])), (0.0, 1.0)),
        (lambda x: jax.nn.sigmoid(x) * x, (-np.inf, np.inf)),
    ],
)
def test_limits_are_proven_where_they_hold(function, wanted):
    low, high = _last(function, 4, 4, 3)
    np.testing.assert_allclose((low, high), wanted)
    x = 10.0 * jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    y = np.asarray(function(x))
    assert low <= y.min()
    assert y.max() <= high


@pytest.fixture(scope="module")
def calibrated():
    key, other = jax.random.split(jax.random.key(0))
    w = jax.random.normal(key, (8, 8))
    net = gd.trace(lambda x: jnp.clip(x @ w, 0.0, 6.0) @ w, jnp.zeros((1, 8)))
    x = jax.random.normal(other, (2, 8))
    return net, gd.calibrate(net, [x])


def test_calibration_knows_its_limits_and_its_inputs(calibrated, tmp_path):
    _, calibration = calibrated
    first, second = calibration.names
    assert calibration.inputs == (first,)
    assert calibration.limits == {second: (0.0, 6.0)}
    calibration.save(tmp_path / "calibration.safetensors")
    loaded = gd.load(tmp_path / "calibration.safetensors")
    assert (loaded.inputs, dict(loaded.limits)) == (calibration.inputs, calibration.limits)
    found = calibration.predictive().histograms
    assert float(found.maximum[0]) > float(calibration.histograms.maximum[0])
    assert float(found.maximum[1]) == 6.0


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_range_of_pixels_limits_the_input(layout, tmp_path):
    """Whatever the order of axes: of files with channels first, the feature map is behind a transpose."""
    first = layout == "NCHW"
    kernel = jnp.ones((1, 1, 3, 4))

    def function(x):
        x = jnp.moveaxis(x, 1, 3) if first else x
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y.mean((1, 2)) @ jnp.ones((4, 2))

    net = gd.trace(function, jnp.zeros((1, 3, 8, 8) if first else (1, 8, 8, 3)))
    rule = gd.data.Preprocessing(size=8, layout=layout, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.5))
    low, high = (0.0 - 0.4) / 0.2, (1.0 - 0.4) / 0.2
    assert rule.pixel_range == pytest.approx((low, high))
    images = gd.data.open_images(write_images(tmp_path / "images"), rule)
    batches = [x for x, _ in images.batches(np.arange(2), 2)]
    known, unknown = gd.calibrate(net, batches, preprocessing=rule), gd.calibrate(net, batches)
    name, *_ = known.names
    assert known.inputs == (name,)
    assert known.limits == {name: pytest.approx((low, high))}
    assert unknown.limits == {}
    predicted = (c.predictive().histograms[0] for c in (known, unknown))
    ends = [(float(h.minimum), float(h.maximum)) for h in predicted]
    np.testing.assert_allclose(ends[0], (low, high), rtol=1e-6)
    assert ends[1][0] < low
    assert ends[1][1] > high
    assert gd.calibrate(net, images).limits == known.limits
    q = gd.recalibrate(gd.quantize(net, known), batches, preprocessing=rule)
    assert q.record.calibration.limits == known.limits


def test_few_images_get_wider_steps_unless_turned_off(calibrated):
    net, calibration = calibrated
    assert gd.QuantConfig().predictive is None
    by_default, counted, asked = (
        gd.quantize(net, calibration, gd.QuantConfig(scheme="ggd-tail", predictive=choice)).quantizers.activations
        for choice in (None, False, True)
    )
    first, second = calibration.names
    for name in (first, second):
        assert float(by_default[name].step) == float(asked[name].step) >= float(counted[name].step)
    many = dataclasses.replace(calibration, images=1000)
    enough = gd.quantize(net, many, gd.QuantConfig(scheme="ggd-tail")).quantizers.activations
    assert float(enough[second].step) == float(counted[second].step)
    with pytest.raises(GgdjaxError, match="`predictive`"):
        gd.QuantConfig(predictive="yes")


def test_published_rules_read_what_was_counted(calibrated):
    net, calibration = calibrated
    chosen = gd.quantize(net, calibration, gd.QuantConfig(scheme="max-abs")).record.choices[calibration.names[1]]
    np.testing.assert_allclose(chosen.highest, calibration.histograms.maximum[1], rtol=1e-6)
