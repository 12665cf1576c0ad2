"""Calibration without images: distributions from batch normalization agree with what Gaussian inputs give."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ggdjax as gd
from ggdjax._errors import GgdjaxError
from ggdjax.cli import main
from ggdjax.data import Preprocessing
from ggdjax.ggd import Histogram
from ggdjax.network import Network, count_parameters, fold_batch_norm, load_onnx, trace
from ggdjax.quantization import calibrate, calibrate_without_data
from tests.small_onnx import write_images

CHAN = 6
INPUTS = np.random.default_rng(0).standard_normal((40000, 4), np.float32)
KERNEL = np.random.default_rng(1).standard_normal((4, CHAN), np.float32)
GAMMA, BETA = jnp.linspace(-1.5, 1.0, CHAN), jnp.linspace(-1.0, 0.5, CHAN)
VARIANCE = jnp.asarray(np.square(KERNEL).sum(0))


class Normalized(nnx.Module):
    """A linear layer whose batch normalization knows the variance that Gaussian inputs give."""

    def __init__(self, function: Callable) -> None:
        rngs = nnx.Rngs(0)
        self.function = function
        self.first = nnx.Linear(4, CHAN, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(CHAN, epsilon=1e-9, use_running_average=True, rngs=rngs)
        self.head = nnx.Linear(CHAN, 2, rngs=rngs)
        self.first.kernel[...] = jnp.asarray(KERNEL)
        self.norm.var[...], self.norm.scale[...], self.norm.bias[...] = VARIANCE, GAMMA, BETA

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.function(self.norm(self.first(x))))


def normalized(function: Callable) -> Network:
    return trace(Normalized(function), jnp.zeros((1, 4)))


def quantiles(histogram: Histogram, shares: np.ndarray) -> np.ndarray:
    """Return quantiles by the upper edges of the bins, ordered from negative to positive."""
    counts = np.asarray(histogram.counts, np.float64)
    finite = 255 << 7
    edges = (np.arange(finite, dtype=np.uint32) << 16).view(np.float32)
    values = np.concatenate([-edges[::-1], [0.0], edges])
    total = np.cumsum(np.concatenate([counts[1 << 15 :][:finite][::-1], [float(histogram.zeros)], counts[:finite]]))
    return values[np.searchsorted(total, shares * total[-1])]


@pytest.mark.parametrize(
    "function",
    [
        nnx.relu,
        lambda x: jnp.clip(x, 0.0, 1.0),
        lambda x: nnx.leaky_relu(x, 0.1),
        nnx.silu,
        lambda x: x * jax.nn.sigmoid(1.5 * x),
        lambda x: x,
    ],
    ids=["relu", "clip", "leaky", "silu", "gated", "none"],
)
def test_the_mixture_is_what_gaussian_inputs_give(function: Callable) -> None:
    net = normalized(function)
    counted, predicted = calibrate(net, [INPUTS]), calibrate_without_data(net)
    assert (predicted.names, predicted.images) == (counted.names, 0)
    for index in range(len(counted.names)):
        real, found = counted.histograms[index], predicted.histograms[index]
        scale = np.sqrt(float(real.power_sum(2)) / float(real.count))
        for power in (1, 2):
            moments = [float(h.power_sum(power)) / float(h.count) for h in (real, found)]
            assert abs(moments[0] - moments[1]) < 0.02 * scale**power
        assert abs(float(real.zero_fraction) - float(found.zero_fraction)) < 0.01
        shares = np.asarray([0.02, 0.1, 0.5, 0.9, 0.99, 0.999])
        np.testing.assert_allclose(quantiles(found, shares), quantiles(real, shares), atol=0.06 * scale, rtol=0.05)


def test_sums_maxima_and_layers_without_normalization() -> None:
    half = jnp.asarray([[0.4, 0.5, 0.6]])

    def branches(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        first = (x - half) * (jax.lax.rsqrt(half) * jnp.asarray([[2.0, 2.0, 2.0]])) + 1.0  # N(1, 4)
        return first, (x @ jnp.eye(3) - half) / jnp.sqrt(half) * 1.5  # N(0, 2.25)

    def total_of(x: jax.Array) -> jax.Array:
        return sum(branches(x)) @ jnp.eye(3)

    def largest_of(x: jax.Array) -> jax.Array:
        first, second = branches(x)
        return jnp.maximum(first, second @ jnp.full((3, 3), 0.5)) @ jnp.eye(3)  # N(0, 0.25 · 3 · 2.25) there

    total = calibrate_without_data(trace(total_of, jnp.zeros((1, 3)))).histograms[-1]
    mean, second = (float(total.power_sum(power)) / float(total.count) for power in (1, 2))
    assert mean == pytest.approx(1.0, abs=0.01)
    assert second - mean**2 == pytest.approx(4 + 2.25, rel=0.01)
    largest = calibrate_without_data(trace(largest_of, jnp.zeros((1, 3)))).histograms[-1]
    draws = np.random.default_rng(0).standard_normal((2, 100_000))
    expected = np.maximum(1 + 2 * draws[0], np.sqrt(0.75 * 2.25) * draws[1])
    assert float(largest.power_sum(1)) / float(largest.count) == pytest.approx(expected.mean(), abs=0.03)
    assert float(largest.power_sum(2)) / float(largest.count) == pytest.approx(np.square(expected).mean(), rel=0.03)


def test_statistics_survive_both_importers_and_end_with_folding(tmp_path) -> None:
    net = normalized(nnx.relu)
    node = next(node for node in net.graph.nodes if node.op == "affine")
    np.testing.assert_allclose(net.params[node.param("mean")], BETA, rtol=1e-6)
    np.testing.assert_allclose(net.params[node.param("deviation")], np.abs(GAMMA), rtol=1e-5)
    assert count_parameters(net) == 4 * CHAN + 2 * CHAN + 2 * CHAN + 2
    assert not any("deviation" in key for key in fold_batch_norm(net).params)
    net.save(tmp_path / "net.safetensors")
    again = calibrate_without_data(gd.load(tmp_path / "net.safetensors"))
    np.testing.assert_array_equal(again.histograms.counts, calibrate_without_data(net).histograms.counts)


def test_onnx_files_keep_them(tmp_path) -> None:
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    values = {"w": rng.standard_normal((5, 3, 1, 1)), "gamma": rng.uniform(-1, 1, 5), "beta": rng.uniform(-1, 1, 5)}
    values |= {"m": np.zeros(5), "v": np.square(values["w"]).sum((1, 2, 3)), "w2": rng.standard_normal((2, 5, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("BatchNormalization", ["a", "gamma", "beta", "m", "v"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["y"]),
    ]
    real = lambda name, shape: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)  # noqa: E731
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "g", [real("x", ["N", 3, 4, 4])], [real("y", ["N", 2, 4, 4])], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "net.onnx")
    net = load_onnx(tmp_path / "net.onnx")
    pixels = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.25))
    found = calibrate_without_data(net, preprocessing=pixels, per_channel=True)
    source, chosen = found.names
    assert found.channels is not None
    np.testing.assert_allclose(found.channels[source].minimum, [-0.2, -0.4, -1.2], rtol=1e-5)
    np.testing.assert_allclose(found.channels[source].maximum, [1.8, 1.6, 2.8], rtol=1e-5)
    highest = np.maximum(values["beta"] + 6 * np.abs(values["gamma"]), 0)
    np.testing.assert_allclose(found.channels[chosen].maximum, highest, rtol=1e-5)
    assert all(low < high for low, high in found.ranges.values())
    q = gd.quantize(net, found, gd.QuantConfig(activations_per="channel", scheme="max-abs", predictive=False))
    assert q(jnp.zeros((1, 3, 4, 4))).shape == (1, 2, 4, 4)


def test_networks_without_batch_normalization_are_refused() -> None:
    net = normalized(nnx.relu)
    plain = trace(lambda x: nnx.relu(x @ jnp.ones((4, 3))) @ jnp.ones((3, 2)), jnp.zeros((1, 4)))
    for bare in (plain, fold_batch_norm(net)):
        with pytest.raises(GgdjaxError, match="`net` holds no batch normalization"):
            calibrate_without_data(bare)
    normal = normalized(lambda x: x / jnp.sqrt(1e-3 + (x * x).mean(1, keepdims=True)))
    assert float(calibrate_without_data(normal).histograms[1].count) > 0


def test_the_command_without_images(tmp_path, capsys) -> None:
    def function(x: jax.Array) -> jax.Array:
        mean = x.mean((1, 2))
        normal = (mean @ KERNEL[:3] - BETA[None]) * (jax.lax.rsqrt(VARIANCE) * GAMMA)[None] + BETA[None]
        return nnx.relu(normal) @ jnp.ones((CHAN, 3))

    trace(function, jnp.zeros((1, 8, 8, 3))).save(tmp_path / "net.safetensors")
    common = ["quantize", str(tmp_path / "net.safetensors"), "--data", str(write_images(tmp_path / "images"))]
    common += ["--size", "8", "--layout", "NHWC", "--calibration-images", "0"]
    main(common)
    assert "steps from batch normalization, weights rounded to nearest" in capsys.readouterr().out
    for more, name in (
        (["--rounding", "output"], "--rounding"),
        (["--bias-correction"], "--bias-correction"),
        (["--mean-bits", "6"], "--mean-bits"),
        (["--equalize"], "--equalize"),
    ):
        with pytest.raises(SystemExit):
            main([*common, *more])
        assert name in capsys.readouterr().err
