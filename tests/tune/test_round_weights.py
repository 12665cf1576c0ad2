"""Closed-form rounding: the linear algebra against NumPy, the rows against the convolutions, whole networks."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ggdjax as gd
from ggdjax._errors import GgdjaxError
from ggdjax.network._ops import OPS
from ggdjax.tune import RoundingConfig, _rounding, round_weights
from ggdjax.tune._rounding_core import _inverse_factor, float_target, round_rows
from ggdjax.tune._rounding_rows import Layer, Moments, Positions, chunks, of_columns


def reference(target, gram, step, low, high, damping):
    """GPTQ column by column in float64 (Frantar et al. 2022, algorithm 1)."""
    matrix = gram + damping * np.mean(np.diag(gram)) * np.eye(len(gram))
    upper = np.linalg.cholesky(np.linalg.inv(matrix)).T
    work, found = target.astype(np.float64), np.zeros(target.shape)
    for j in range(target.shape[1]):
        found[:, j] = np.clip(np.round(work[:, j] / step), low, high) * step
        work -= np.outer((work[:, j] - found[:, j]) / upper[j, j], upper[j])
    return found


@pytest.mark.parametrize("columns", [7, 200])
def test_rounding_is_the_published_algorithm(columns):
    rng = np.random.default_rng(columns)
    x = rng.normal(size=(4 * columns, columns)) @ rng.normal(size=(columns, columns))
    gram = x.T @ x / len(x)
    weights = rng.normal(size=(2, 5, columns)).astype(np.float32)
    steps = np.float32([0.25, 0.5])[None, :, None] * np.ones((2, 2, 5), np.float32)
    grams = np.stack([gram, 2 * gram]).astype(np.float32)
    found = round_rows(weights, grams, steps, low=-8, high=7, damping=0.01)
    for k, step in enumerate((0.25, 0.5)):
        for g in range(2):
            wanted = reference(weights[g], gram, step, -8, 7, 0.01)
            # A value within float32's rounding of a half may go either way, and moves those after it.
            assert np.mean(found.values[g, k] == wanted.astype(np.float32)) > 0.95
            left = weights[g] - np.asarray(found.values[g, k], np.float64)
            error = np.einsum("rc,cd,rd->r", left, grams[g].astype(np.float64), left)
            np.testing.assert_allclose(found.error[g, k], error, rtol=1e-3)
    left = weights[:, None] - np.clip(np.round(weights[:, None] / steps[..., None]), -8, 7) * steps[..., None]
    nearest = np.einsum("gkrc,gcd,gkrd->gk", left, grams, left)
    assert (np.asarray(found.error).sum(-1) < 0.8 * nearest).all()


def test_the_target_gives_the_float_output():
    rng = np.random.default_rng(0)
    x_float = rng.normal(size=(500, 6))
    x = x_float @ (np.eye(6) + 0.1 * rng.normal(size=(6, 6)))
    weights = rng.normal(size=(3, 6)).astype(np.float32)
    gram, cross = ((a.T @ x).astype(np.float32) / 500 for a in (x, x_float))
    target = float_target(jnp.asarray(weights), gram, cross, damping=1e-6)
    np.testing.assert_allclose(x @ np.asarray(target).T, x_float @ weights.T, atol=1e-3)


def test_few_rows_hardly_move_the_target(network):
    """What few images say of the output is chance: the default loses less on other images than a small damping."""
    net, _ = network
    images = np.random.default_rng(5).normal(size=(1040, *net.input_shape[1:])).astype(np.float32)
    q = gd.quantize(net, gd.calibrate(net, [images]), gd.QuantConfig(weight_bits=6, activation_bits=3))
    few, others = images[:6], images[40:]
    expected = np.asarray(net(others))

    def loss(config):
        error = np.asarray(round_weights(q, few, config)(others)) - expected
        return np.square(error - error.mean(axis=0)).mean()

    assert loss(RoundingConfig()) < 0.95 * loss(RoundingConfig(target_damping=1e-3))


_NHWC = ("NHWC", "HWIO", "NHWC")
CONVOLUTIONS = {
    "plain": {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1},
    "uneven": {"strides": (2, 1), "padding": ((0, 1), (2, 0)), "dilation": (1, 2), "groups": 1},
    "grouped": {"strides": (1, 2), "padding": ((1, 1), (0, 0)), "dilation": (2, 1), "groups": 2},
    "depthwise": {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 4},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_rows_are_what_the_convolution_multiplies(name):
    attrs = CONVOLUTIONS[name]
    rng, groups = np.random.default_rng(1), attrs["groups"]
    x = rng.normal(size=(3, 7, 9, 4)).astype(np.float32)
    kernel = rng.normal(size=(3, 2, 4 // groups, 8)).astype(np.float32)
    node = gd.network.Node(name="c", op="conv", inputs=("x",), output="y", attrs=tuple(sorted(attrs.items())))
    y = np.asarray(OPS["conv"](jnp.asarray(x), kernel=jnp.asarray(kernel), **attrs))
    layer, plan, moments = Layer.of(node, kernel.shape), Positions.of(node, x.shape, kernel.shape), Moments()
    assert len(plan.corners) == y.shape[1] * y.shape[2]
    # A step per channel, each of which leaves every value as it is.
    quantizer = gd.Quantizer(step=jnp.float32([2.0**-20, 2.0**-21, 2.0**-20, 2.0**-19]), bits=28)
    for pair, count in chunks(layer, plan, np.arange(3), 3 * len(plan.corners), tensors=(x, x)):
        moments.add(of_columns(layer, quantizer, 4), *pair, count)
    assert moments.count == 3 * len(plan.corners)
    rows = layer.rows_of(kernel)
    np.testing.assert_array_equal(layer.kernel_of(rows, kernel.shape), kernel)
    of_scaled = np.square(moments.scale)
    gram, cross = (found / of_scaled for found in moments.centred(False))
    energy = layer.own(np.einsum("grc,gcd,grd->gr", rows, gram, rows)).reshape(-1)
    np.testing.assert_allclose(energy, np.square(y).mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(gram, cross, atol=1e-5)
    centred = moments.centred(True)[0] / of_scaled
    spread = layer.own(np.einsum("grc,gcd,grd->gr", rows, centred, rows)).reshape(-1)
    np.testing.assert_allclose(spread, y.var((0, 1, 2)), rtol=1e-3)


def test_samples_are_spread_and_differ_between_images():
    node = gd.network.Node(name="d", op="dense", inputs=("x",), output="y")
    plan = Positions.of(node, (2, 8, 8, 3), (3, 5))
    first, second = plan.sample(np.arange(2), 16).reshape(2, 16)
    assert len(set(first)) == len(set(second)) == 16
    assert len(set(first % 8)) == len(set(first // 8)) == 8
    assert set(first) != set(second)


@pytest.mark.parametrize("exponent", [-66, 66])
def test_no_scale_of_the_weights_changes_the_codes(exponent):
    """Neither squares of inputs nor of outputs leave the range of float32; 2^66 is about 1e20."""
    rng = np.random.default_rng(7)
    stem, head = (rng.normal(0, 0.2, shape).astype(np.float32) for shape in ((3, 3, 2, 8), (8, 4)))
    images = rng.normal(size=(70, 6, 6, 2)).astype(np.float32)

    def rounded(scale):
        bias = np.full(8, 0.05 * scale, np.float32)

        def function(x):
            y = lax.conv_general_dilated(x, np.float32(scale) * stem, (1, 1), "SAME", dimension_numbers=_NHWC)
            return jax.nn.relu(y + bias[None, None, None]).mean((1, 2)) @ head

        net = gd.trace(function, images[:1])
        q = gd.quantize(net, gd.calibrate(net, [images]), gd.QuantConfig(weight_bits=4, activation_bits=4))
        return round_weights(q, images)

    one, other = rounded(1.0), rounded(2.0**exponent)
    for (name, a), b in zip(one.integer_weights().items(), other.integer_weights().values(), strict=True):
        np.testing.assert_array_equal(a.codes, b.codes, err_msg=name)
    history = [q.history.layers for q in (one, other)]
    for a, b in zip(*history, strict=True):
        assert (a.error, a.nearest_error) == pytest.approx((b.error, b.nearest_error), rel=1e-5)


@pytest.fixture(scope="module")
def network():
    """Convolutions of all kinds, a residual sum, a dense layer without bias."""
    rng = np.random.default_rng(2)

    def weights(*shape):
        return jnp.asarray(rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape).astype(np.float32))

    stem, depthwise, pointwise, head = weights(3, 3, 2, 8), weights(3, 3, 1, 8), weights(1, 1, 8, 8), weights(8, 5)
    bias = jnp.asarray(rng.normal(size=8).astype(np.float32))

    def conv(x, kernel, groups=1, stride=1):
        names = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=names, feature_group_count=groups
        )

    def function(x):
        x = jax.nn.relu(conv(x, stem, stride=2) + bias[None, None, None])
        y = jax.nn.relu(conv(x, depthwise, 8) + 0.1)
        return jax.nn.relu(conv(y, pointwise) + x).mean((1, 2)) @ head

    images = rng.normal(size=(96, 10, 10, 2)).astype(np.float32)
    return gd.trace(function, images[:1]), images


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_a_network_comes_closer_to_float(network, per, tmp_path):
    net, images = network
    config = gd.QuantConfig(weight_bits=3, activation_bits=6, scheme="max-abs", weights_per=per)
    q = gd.quantize(net, gd.calibrate(net, [images[:64]]), config)
    seen = []
    rounded = round_weights(
        q, images[:64], RoundingConfig(batch_size=24), progress=lambda done, total: seen.append((done, total))
    )
    wanted = np.asarray(net(images[64:]))
    before, after = (np.square(np.asarray(n(images[64:])) - wanted).mean() for n in (q, rounded))
    assert after < 0.6 * before
    assert seen == [(k, 4) for k in range(1, 5)]
    for node in net.graph.quantizable:
        kernel, quantizer = rounded.params[node.param("kernel")], rounded.quantizers.weights[node.name]
        np.testing.assert_array_equal(quantizer(kernel), kernel)
        assert quantizer.frac_bits is not None
    assert [layer.columns for layer in rounded.history.layers] == [18, 9, 8, 8]
    assert rounded.record.float_network is q.record.float_network
    rounded.save(tmp_path / "q.safetensors")
    loaded = gd.load(tmp_path / "q.safetensors")
    assert loaded.history.to_dict() == rounded.history.to_dict()
    np.testing.assert_array_equal(loaded(images), rounded(images))


def test_biases_stay_on_the_accumulators_grid(network):
    """Where they were on it: a fractional length that changes moves the grid along."""
    net, images = network
    config = gd.QuantConfig(weight_bits=3, activation_bits=6, scheme="max-abs", weights_per="channel")
    rounded = round_weights(gd.datapath.align(gd.quantize(net, gd.calibrate(net, [images]), config)), images[:40])
    assert rounded.quantizers.biases
    for name in rounded.quantizers.biases:
        node = rounded.graph.node(name)
        grid = rounded.quantizers.activations[node.inputs[0]].step * rounded.quantizers.weights[name].step
        np.testing.assert_array_equal(rounded.quantizers.bias(node).step, grid)


def test_memory_and_batches_change_nothing(network):
    net, images = network
    q = gd.quantize(net, gd.calibrate(net, [images]), gd.QuantConfig(weight_bits=4, scheme="max-abs"))
    one, other = (round_weights(q, images[:40], RoundingConfig(batch_size=20, memory_bytes=m)) for m in (1, 1 << 30))
    for key, value in one.params.items():
        np.testing.assert_array_equal(value, other.params[key], err_msg=key)


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_an_interrupted_rounding_resumes_with_the_same_bits(network, per, tmp_path, monkeypatch):
    net, images = network
    q = gd.quantize(net, gd.calibrate(net, [images]), gd.QuantConfig(weight_bits=3, scheme="max-abs", weights_per=per))
    config, path = RoundingConfig(batch_size=20), tmp_path / "rounding.safetensors"
    whole = round_weights(q, images[:40], config)

    def stop(done, _total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        round_weights(q, images[:40], config, checkpoint=path, progress=stop)
    original, rounded = _rounding._Walk._round, []
    monkeypatch.setattr(_rounding._Walk, "_round", lambda walk, node: rounded.append(node.name) or original(walk, node))
    seen = []
    found = round_weights(q, images[:40], config, checkpoint=path, progress=lambda *told: seen.append(told))
    assert rounded == [net.graph.quantizable[-1].name]
    assert seen == [(k, 4) for k in range(1, 5)]
    for name, q in (("found", found), ("whole", whole)):
        q.save(tmp_path / name)
    assert (tmp_path / "found").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_checkpoint_of_another_rounding_is_refused(network, tmp_path):
    net, images = network
    q = gd.quantize(net, gd.calibrate(net, [images]), gd.QuantConfig(scheme="max-abs"))
    path = tmp_path / "rounding.safetensors"
    round_weights(q, images[:20], checkpoint=path)
    with pytest.raises(GgdjaxError, match="belongs to another network, other images or other settings: remove it"):
        round_weights(q, images[:24], checkpoint=path)
    with pytest.raises(GgdjaxError, match="rounding checkpoint"):
        gd.load(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(GgdjaxError, match="or remove it to start anew"):
        round_weights(q, images[:20], checkpoint=path)


def test_what_cannot_be_rounded_is_an_error(network):
    net, images = network
    q = gd.quantize(net, gd.calibrate(net, [images]), gd.QuantConfig(scheme="max-abs"))
    with pytest.raises(GgdjaxError, match="`images` is empty"):
        round_weights(q, images[:0])
    with pytest.raises(GgdjaxError, match="`batch_size` must be an integer of at least 1, got 0"):
        RoundingConfig(batch_size=0)
    with pytest.raises(GgdjaxError, match="`frac_bits_offsets` must hold 0"):
        RoundingConfig(frac_bits_offsets=(1,))
    for name in ("damping", "target_damping"):
        with pytest.raises(GgdjaxError, match=f"`{name}` must be positive and finite, got 0"):
            RoundingConfig(**{name: 0})


@pytest.mark.parametrize("columns", [9, 20, 40])
def test_the_inverse_factor_of_all_groups(columns):
    x = np.random.default_rng(0).normal(size=(3, 2 * columns, columns)).astype(np.float32)
    matrix = np.einsum("gnc,gnd->gcd", x, x)
    factor = np.asarray(_inverse_factor(jnp.asarray(matrix)))
    np.testing.assert_array_equal(factor, np.triu(factor))
    unit = np.einsum("gji,gjk,gkl->gil", factor, factor, matrix)
    np.testing.assert_allclose(unit, np.broadcast_to(np.eye(columns), unit.shape), atol=2e-4)


def test_inputs_that_hardly_vary():
    """About zero their products leave nothing of the variance in float32: the matrix would not be positive."""
    rng = np.random.default_rng(4)
    node = gd.network.Node(name="d", op="dense", inputs=("x",), output="y")
    x = (1 + 1e-4 * rng.normal(size=(500, 3))).astype(np.float32)
    layer, plan, moments = Layer.of(node, (3, 4)), Positions.of(node, x.shape, (3, 4)), Moments()
    for pair, count in chunks(layer, plan, np.arange(500), 500, tensors=(x, x)):
        moments.add(None, *pair, count)
    gram, with_means = (moments.centred(by_means)[0] / np.square(moments.scale) for by_means in (True, False))
    np.testing.assert_allclose(gram[0, :3, :3], np.cov(x.astype(np.float64).T, bias=True), rtol=1e-3, atol=1e-12)
    np.testing.assert_allclose(with_means[0, :3, :3], x.astype(np.float64).T @ x / 500, rtol=1e-5)


def test_a_matrix_that_cannot_be_factored_leaves_nearest_rounding():
    gram = -np.eye(4, dtype=np.float32)[None]
    weights = np.float32([[[0.3, 0.8, -0.4, 1.2]]])
    found = round_rows(weights, gram, np.ones((1, 1, 1), np.float32), gram, low=-2, high=1)
    np.testing.assert_array_equal(found.values[0, 0, 0], [0, 1, 0, 1])


@pytest.mark.parametrize("columns", [9, 128])
def test_rounding_does_without_lapack(columns):
    """Its threads and XLA's wait for each other: for ever, where a program calls it twice at once."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4, 3, columns), (4, columns, columns))]
    steps = jax.ShapeDtypeStruct((4, 3, 3), jnp.float32)
    text = round_rows.lower(shapes[0], shapes[1], steps, shapes[1], low=-8, high=7).as_text()
    assert not re.search("custom_call|cholesky|triangular_solve", text)
    compiled = jax.jit(lambda: jnp.linalg.cholesky(jnp.eye(3))).lower().as_text()
    assert re.search("custom_call|cholesky", compiled)


@pytest.mark.parametrize("columns", [1, 5, 16, 17, 64, 65, 130])
def test_the_factor_of_the_inverse(columns):
    x = np.random.default_rng(columns).normal(size=(2, 3 * columns, columns))
    gram = np.swapaxes(x, -1, -2) @ x / len(x[0])
    upper = np.asarray(_inverse_factor(gram.astype(np.float32)), np.float64)
    np.testing.assert_array_equal(upper, np.triu(upper))
    inverse = np.linalg.inv(gram)
    np.testing.assert_allclose(np.swapaxes(upper, -1, -2) @ upper, inverse, atol=2e-5 * np.abs(inverse).max())
