"""Tuning for metrics of maps and images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax._errors import DataError, GgdjaxError
from ggdjax.quantization import Metric, score
from ggdjax.tune import GradientConfig, TuneConfig, backward_forward, gradient

IMAGES = np.random.default_rng(0).uniform(0, 1, (24, 12, 12, 1)).astype(np.float32)
KERNELS = [
    np.random.default_rng(i).normal(size=s).astype(np.float32) for i, s in enumerate([(3, 3, 1, 4), (1, 1, 4, 3)])
]


def network(x):
    """Return a map of three values per pixel."""
    for kernel in KERNELS:
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x) if kernel is KERNELS[0] else x
    return x


@pytest.fixture(scope="module")
def q():
    net = gd.trace(network, jnp.zeros((1, 12, 12, 1)))
    config = gd.QuantConfig(scheme="max-abs", weight_bits=4, activation_bits=4)
    return gd.quantize(net, gd.calibrate(net, [IMAGES]), config)


@pytest.fixture(scope="module")
def targets(q):
    outputs = np.asarray(q.float_network(IMAGES))
    masks = outputs.argmax(-1).astype(np.uint8)
    masks[:, 0] = 255
    masks[5] = 255  # nothing of this image counts
    return {"mean-iou": masks, "pixel-accuracy": masks, "psnr": outputs, "ssim": outputs}


@pytest.mark.parametrize("name", ["mean-iou", "pixel-accuracy", "psnr", "ssim"])
def test_a_search_for_a_metric_gains_on_it(q, targets, name):
    config = TuneConfig(objective=name, sweeps=1, held_back=0.0, screening=())
    tuned = backward_forward(q, IMAGES, targets[name], config)
    assert tuned.history.objective == name
    assert tuned.history.score > tuned.history.start_score
    both = [score(net, (IMAGES, targets[name]), name) for net in (q, tuned)]
    assert both[1].value > both[0].value
    if name == "psnr":
        np.testing.assert_allclose(tuned.history.score, both[1].value, rtol=1e-5)


def test_a_metric_of_ones_own_where_lower_is_better(q, targets, tmp_path):
    error = Metric(name="error", function=lambda y, t: jnp.abs(y - t).mean(axis=(1, 2, 3)), higher_is_better=False)
    config = TuneConfig(objective=error, sweeps=1)
    tuned = backward_forward(q, IMAGES, targets["psnr"], config, checkpoint=tmp_path / "state.safetensors")
    assert tuned.history.start_score < tuned.history.score < 0
    tuned.save(tmp_path / "net.safetensors")
    loaded = gd.load(tmp_path / "net.safetensors")
    assert loaded.record.stages[-1].settings["objective"] == "error"
    np.testing.assert_array_equal(np.asarray(loaded(IMAGES)), np.asarray(tuned(IMAGES)))


def test_the_metric_decides_what_gradient_tuning_keeps(q, targets):
    tuned = gradient(
        q, IMAGES, targets["psnr"], GradientConfig(objective="output", metric="psnr", steps=30, batch_size=8)
    )
    history = tuned.history
    assert history.kept
    assert -history.before < -history.after
    before, after = tuned.record.stages[-1].figures["psnr"]
    assert (before, after) == (-history.before, -history.after)
    assert type(history).from_dict(history.to_dict()).config == history.config
    sqnr = gradient(q, IMAGES, None, GradientConfig(objective="output", metric="output-sqnr", steps=3, batch_size=8))
    assert sqnr.record.stages[-1].figures["output-sqnr"][0] > 0


def test_what_cannot_be_tuned_for_is_one_line(q, targets):
    def refused(said, labels, objective):
        with pytest.raises(GgdjaxError, match=said) as caught:
            backward_forward(q, IMAGES, labels, TuneConfig(objective=objective))
        assert "\n" not in str(caught.value)

    refused("'psnrr'; expected one of top1, top5, .*, mean-iou", None, "psnrr")
    refused("`objective` psnr has no setting `range`", None, "psnr(range=1)")
    refused("`labels` are missing: objective 'mean-iou' needs a target for each of 24", None, "mean-iou")
    refused("targets have shape .*expected one class per pixel", targets["mean-iou"][:, 1:], "mean-iou")
    refused("a map of 12 × 12 × 3 values", targets["mean-iou"], "top-1")
    with pytest.raises(GgdjaxError, match="`labels` are missing: `metric` psnr needs"):
        gradient(q, IMAGES, None, GradientConfig(objective="output", metric="psnr", steps=1, batch_size=8))
    with pytest.raises(DataError, match="a map of 12"):
        gradient(q, IMAGES, None, GradientConfig(objective="output", metric="top-1", steps=1, batch_size=8))
