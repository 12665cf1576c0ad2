"""Images distilled from batch normalization have its statistics, and take the place of images in a run."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ggdjax as gd
from ggdjax._errors import DataError, GgdjaxError
from ggdjax.cli import main
from ggdjax.data import Preprocessing
from ggdjax.network import Float as FloatNumerics
from ggdjax.network import Network, fold_batch_norm, run, trace
from ggdjax.quantization import calibrate, calibrate_without_data, distill_images
from tests.small_onnx import write_images

CHAN = 5
MEAN, SPREAD = np.linspace(-1.0, 1.0, CHAN), np.linspace(0.5, 1.5, CHAN)


#: Training images that are unlike noise: bright, of few colours, alike in neighbouring pixels.
TRAINED_ON = np.random.default_rng(0).gamma(2.0, 1.0, (64, 4, 4, 3)).repeat(2, 1).repeat(2, 2).astype(np.float32)


class Small(nnx.Module):
    """Two convolutions, each with batch normalization that has seen the training images."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.convs = nnx.List([nnx.Conv(chan, CHAN, (3, 3), rngs=rngs) for chan in (3, CHAN)])
        self.norms = nnx.List([nnx.BatchNorm(CHAN, use_running_average=True, rngs=rngs) for _ in range(2)])
        self.head = nnx.Linear(CHAN, 3, rngs=rngs)
        x = jnp.asarray(TRAINED_ON)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y = conv(x)
            norm.scale[...], norm.bias[...] = jnp.asarray(SPREAD, jnp.float32), jnp.asarray(MEAN, jnp.float32)
            norm.mean[...], norm.var[...] = y.mean((0, 1, 2)), y.var((0, 1, 2))
            x = nnx.relu(norm(y))

    def __call__(self, x: jax.Array) -> jax.Array:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(conv(x)))
        return self.head(x.mean((1, 2)))


@pytest.fixture(scope="module")
def small() -> Network:
    return trace(Small(), jnp.zeros((1, 8, 8, 3)))


def distances(net: Network, images: np.ndarray) -> list[float]:
    """Return by how much, of its deviation, the channels of each normalized layer miss their statistics on average."""

    class Noted(FloatNumerics):
        def apply(self, node, params, *inputs):
            y = super().apply(node, params, *inputs)
            if "deviation" in params:
                values = np.asarray(y).reshape(-1, y.shape[-1])
                off = np.abs(values.mean(0) - MEAN) + np.abs(values.std(0) - SPREAD)
                found.append(float((off / SPREAD).mean()))
            return y

    found: list[float] = []
    run(net.graph, net.params, jnp.asarray(images), Noted())
    return found


def test_images_get_the_statistics_that_noise_lacks(small) -> None:
    noise, images = (distill_images(small, count=16, steps=steps) for steps in (1, 200))
    assert images.shape == (16, 8, 8, 3)
    assert images.dtype == np.float32
    assert len(distances(small, images)) == 2
    assert max(distances(small, TRAINED_ON)) < 1e-3
    assert min(distances(small, noise)) > 0.4
    assert max(distances(small, images)) < 0.1


def test_the_key_decides_batch_by_batch(small) -> None:
    told = []
    five = distill_images(small, count=5, batch_size=2, steps=3, progress=lambda *one: told.append(one))
    assert [(done, total) for done, total, _ in told] == [(i, 9) for i in range(1, 10)]
    assert all(told[3 * batch + 2][2] < told[3 * batch][2] for batch in range(3))
    np.testing.assert_array_equal(five[:2], distill_images(small, count=2, batch_size=2, steps=3))
    assert len(np.unique(five.reshape(5, -1), axis=0)) == 5
    other = distill_images(small, count=2, batch_size=2, steps=3, key=jax.random.key(1))
    assert np.abs(other - five[:2]).max() > 0.1


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_pixels_stay_in_their_range(layout) -> None:
    module, first = Small(), layout == "NCHW"
    shape = (1, 3, 8, 8) if first else (1, 8, 8, 3)
    net = trace(lambda x: module(jnp.moveaxis(x, 1, 3) if first else x), jnp.zeros(shape))
    rule = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.25), layout=layout)
    images = distill_images(net, count=8, steps=40, preprocessing=rule)
    channels = np.moveaxis(images, 1 if first else 3, 0).reshape(3, -1)
    low, high = (np.asarray([(end - m) / s for m, s in zip(rule.mean, rule.std, strict=True)]) for end in (0, 1))
    np.testing.assert_allclose(channels.min(1), low, atol=1e-5)
    np.testing.assert_allclose(channels.max(1), high, atol=1e-5)


def test_what_cannot_be_distilled_is_refused_in_one_line(small) -> None:
    for bare in (fold_batch_norm(small), trace(lambda x: x @ jnp.ones((4, 3)), jnp.zeros((1, 4)))):
        with pytest.raises(GgdjaxError, match="`net` holds no batch normalization"):
            distill_images(bare)
    for name in ("count", "steps", "batch_size"):
        with pytest.raises(GgdjaxError, match=f"`{name}` must be at least 1, got 0"):
            distill_images(small, **{name: 0})
    with pytest.raises(DataError, match="change `layout`"):
        distill_images(small, preprocessing=Preprocessing(layout="NCHW"))
    with pytest.raises(GgdjaxError, match="`net` is an instance of QuantizedNetwork"):
        distill_images(gd.quantize(small, calibrate_without_data(small)))


def test_they_calibrate_as_training_images_do(small) -> None:
    """Of every feature map behind a normalized layer, the mean square is that of training images within a tenth."""
    real, noise, found = (
        calibrate(small, images).histograms[1:]
        for images in (TRAINED_ON, *(distill_images(small, count=16, steps=steps) for steps in (1, 200)))
    )
    squares = [np.asarray(one.power_sum(2)) / np.asarray(one.count) for one in (real, noise, found)]
    assert np.abs(squares[2] / squares[0] - 1).max() < 0.1
    assert np.abs(squares[1] / squares[0] - 1).max() > 0.2


def test_a_run_on_distilled_images(tmp_path, small) -> None:
    images = gd.data.open_images(write_images(tmp_path / "images"), Preprocessing(size=8, layout="NHWC"))
    config = gd.QuantConfig(scheme="max-abs", weight_bits=4)
    fields = {"calibration_images": 0, "distilled_images": 8, "bias_correction": True, "weights_first": True}
    recipe = gd.Recipe(quantization=config, equalize=True, sensitivity_images=4, **fields)
    stages = []
    first, again = (
        gd.recipe.run(small, images, recipe, folder=tmp_path / "run", progress=lambda *one: stages.append(one))
        for _ in range(2)
    )
    assert [one[1:] for one in stages if one[0] == "distill"][-1] == (1, 1, "kept from an earlier start")
    assert first.ids["calibration"] == ()
    assert [stage.name for stage in first.network.record.stages][:3] == ["equalize", "quantize", "round_weights"]
    for outcome in (first, again):
        counted = outcome.network.record.calibration
        assert (counted.images, counted.moments) == (8, None)
        assert all(np.isnan(error) for error in outcome.network.step_error.values())
    for one, other in zip(jax.tree.leaves(first.network), jax.tree.leaves(again.network), strict=True):
        np.testing.assert_array_equal(one, other)
    tuned = gd.Recipe(calibration_images=0, distilled_images=8, bias_correction=True)
    bare = gd.quantize(small, calibrate_without_data(small))
    with pytest.raises(GgdjaxError, match="`distilled_images` need batch normalization"):
        gd.recipe.run(bare, images, tuned)
    with pytest.raises(GgdjaxError, match="give `calibration_images` 0"):
        gd.Recipe(distilled_images=8)


def test_the_command(tmp_path, small, capsys, monkeypatch) -> None:
    # The page compares schemes; those that fit are compiled for a minute, and go the same way.
    monkeypatch.setattr("ggdjax.schemes.names", lambda: ("max-abs", "affine-min-max", "mse-search"))
    small.save(tmp_path / "net.safetensors")
    data = str(write_images(tmp_path / "images"))
    common = ["quantize", str(tmp_path / "net.safetensors"), "--data", data, "--size", "8", "--layout", "NHWC"]
    common += ["--scheme", "max-abs", "--distilled-images", "8", "--out", str(tmp_path / "run")]
    main(common)
    assert "No calibration images: 8 distilled from batch normalization" in capsys.readouterr().out
    recipe = gd.Recipe.load(tmp_path / "run" / "recipe.toml")
    assert (recipe.calibration_images, recipe.distilled_images, recipe.rounding) == (0, 8, "output")
    main(["report", str(tmp_path / "run")])
    (page,) = (tmp_path / "run").glob("*.html")
    assert "8 distilled images" in page.read_text()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*common, "--calibration-images", "12"])
    assert "`--distilled-images` take the place of calibration images" in capsys.readouterr().err


def test_a_size_that_nothing_tells(small) -> None:
    shapes = ((name, (None, None, None, 3) if name in small.graph.inputs else at) for name, at in small.graph.shapes)
    net = dataclasses.replace(small, graph=dataclasses.replace(small.graph, shapes=tuple(shapes)))
    with pytest.raises(GgdjaxError, match="give a `preprocessing` with `size`"):
        distill_images(net)
    rule = Preprocessing(size=8, layout="NHWC")
    assert distill_images(net, count=2, steps=1, preprocessing=rule).shape == (2, 8, 8, 3)
