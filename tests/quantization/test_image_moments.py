"""The standard error of steps by images: against steps of resampled images, however the images were batched."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax._errors import GgdjaxError
from ggdjax.quantization._quantize import choose_activations

IMAGES = 64
SUBSETS = 16


@pytest.fixture(scope="module")
def net():
    return gd.trace(gd.zoo.digits_net(), jnp.zeros((1, 8, 8, 1)))


@pytest.fixture(scope="module")
def images():
    found, _ = next(gd.data.digits().batches(np.arange(IMAGES * SUBSETS), IMAGES * SUBSETS))
    return np.random.default_rng(0).permutation(found)


@pytest.fixture(scope="module")
def subsets(net, images):
    return [gd.calibrate(net, [part]) for part in np.split(images, SUBSETS)]


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_predicts_the_scatter_of_steps(subsets, bits):
    first = subsets[0]
    widths = np.full(len(first.names), bits)
    chosen = [choose_activations(calibration, gd.QuantConfig(), widths) for calibration in subsets]
    names = [name for name in first.names if name not in first.inputs]
    scatter = np.log([[float(choices[name].step) for name in names] for choices in chosen]).std(0, ddof=1)
    for calibration in subsets[:4]:
        predicted = calibration.step_error(bits)
        assert list(predicted) == list(first.names)
        assert np.isnan([predicted[name] for name in first.inputs]).all()
        ratio = np.array([predicted[name] for name in names]) / scatter
        assert 1 / 1.6 < np.median(ratio) < 1.6
        assert ratio.min() > 1 / 3
        assert ratio.max() < 3


def test_batches_change_nothing(net, images):
    """Short batches are padded, and the padding not read."""
    images = images[:150]
    whole = gd.calibrate(net, [images], values_per_batch=None).moments
    assert whole.images == 150
    for size in (7, 64):
        batches = [images[i : i + size] for i in range(0, len(images), size)]
        parts = gd.calibrate(net, batches, values_per_batch=None).moments
        assert parts.images == whole.images
        np.testing.assert_allclose(parts.sums, whole.sums, rtol=1e-4)
        np.testing.assert_allclose(parts.products, whole.products, rtol=1e-4)


def test_sums_are_those_of_single_images(net, images):
    """The network's input is a feature map itself."""
    moments = gd.calibrate(net, [images[:10]]).moments
    x = np.asarray(images[:10], np.float64).reshape(10, -1)
    powers = np.stack([(x != 0).sum(1), *((x**k).sum(1) for k in (2, 4, 6, 8))], axis=1)
    np.testing.assert_allclose(moments.sums[0], powers.sum(0), rtol=1e-5)
    np.testing.assert_allclose(moments.products[0], powers.T @ powers, rtol=1e-5)


def test_files_keep_it_and_may_lack_it(subsets, tmp_path):
    first = subsets[0]
    first.save(tmp_path / "new")
    assert gd.load(tmp_path / "new").step_error(8) == pytest.approx(first.step_error(8), nan_ok=True, rel=1e-12)
    dataclasses.replace(first, moments=None).save(tmp_path / "old")
    old = gd.load(tmp_path / "old")
    assert old.moments is None
    assert np.isnan(list(old.step_error(8).values())).all()
    with pytest.raises(GgdjaxError, match="calibrate on at least 2 images"):
        old.design_effect(4)
    with pytest.raises(GgdjaxError, match="`other`, which is no feature map"):
        first.step_error({"other": 8})


def test_units_change_nothing():
    """Values beyond what float32 holds to the eighth power, an image without values, and one image alone."""
    x = np.abs(np.random.default_rng(0).standard_normal((32, 100), np.float32)) + 1
    net = gd.trace(lambda x: jax.nn.relu(x @ jnp.eye(100)) @ jnp.ones((100, 2)), jnp.zeros((1, 100)))
    last = gd.calibrate(net, [x]).names[-1]
    for scale in (1e-12, 1e12):
        with jax.default_matmul_precision("highest"):
            found = gd.calibrate(net, [np.float32(scale) * x])
        assert found.step_error({last: 8})[last] == pytest.approx(gd.calibrate(net, [x]).step_error(8)[last], rel=1e-3)
    assert np.isnan(gd.calibrate(net, [x[:1]]).step_error(8)[last])
    x[3] = 0
    assert np.isfinite(gd.calibrate(net, [x]).step_error(8)[last])
    assert np.isnan(gd.calibrate(net, [0 * x]).step_error(8)[last])
    assert (gd.calibrate(net, [0 * x]).design_effect(4) == 1).all()


def test_a_feature_map_that_is_not_by_image_has_none():
    net = gd.trace(lambda x: jax.nn.relu(x @ jnp.eye(4)).reshape(-1, 2) @ jnp.ones((2, 2)), jnp.zeros((1, 4)))
    found = gd.calibrate(net, [np.random.default_rng(0).random((8, 4), np.float32)])
    assert np.isnan(found.step_error(8)[found.names[-1]])


def test_network_and_tables_show_it(net, subsets):
    q = gd.quantize(net, subsets[0], gd.QuantConfig(activation_bits=6))
    found, expected = q.step_error, subsets[0].step_error(6)
    assert found == pytest.approx(expected, nan_ok=True)
    rows = {row["name"]: row["step_error"] for row in gd.report.feature_map_rows(q)}
    assert rows == {name: None if np.isnan(error) else error for name, error in found.items()}
    most = max((name for name in found if rows[name]), key=found.get)
    caption = str(gd.report.layer_table(q).caption)
    assert f"the most: {most}, ± {100 * found[most]:.2g} %." in caption
    plain = gd.quantize(net, subsets[0], gd.QuantConfig(scheme="max-abs"))
    assert np.isnan(list(plain.step_error.values())).all()
    assert "More images" not in str(gd.report.layer_table(plain).caption)
    assert np.isnan(list(jax.tree.map(lambda leaf: leaf, q).step_error.values())).all()
