"""Exported programs in ONNX Runtime: the same integers, bit by bit."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ggdjax as gd
from ggdjax import datapath, export
from ggdjax._errors import GgdjaxError, UnsupportedError
from ggdjax.datapath import Accelerator, Rounding

onnxruntime = pytest.importorskip("onnxruntime")


class Small(nnx.Module):
    """Residual addition, concatenation, pooling, padding, a table, a leaky ReLU, groups: in few values."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(2, 8, (3, 3), strides=(2, 2), rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.mix = nnx.Conv(16, 8, (1, 1), rngs=rngs)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        y = x + self.depthwise(nnx.leaky_relu(x, 0.25))
        x = self.mix(jnp.concatenate([nnx.relu6(y), nnx.sigmoid(x - 1.0)], axis=-1))
        x = nnx.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
        x = jnp.pad(x, ((0, 0), (1, 0), (0, 1), (0, 0)))
        return self.head(jnp.mean(x, axis=(1, 2)))


@pytest.fixture(scope="module")
def network(by_largest):
    net = gd.trace(Small(nnx.Rngs(0)), jnp.zeros((1, 9, 9, 2)))
    x = np.random.default_rng(0).normal(size=(32, 9, 9, 2)).astype(np.float32)
    return by_largest(net, x), x


def run(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: x}), strict=True))


@pytest.mark.parametrize("rule", Rounding)
def test_integers_are_equal(network, tmp_path, rule):
    q, x = network
    program = datapath.compile(q, Accelerator(rounding=rule, multiplier_bits=24, residual_bits=24))
    path = tmp_path / "program.onnx"
    export.export_onnx(program, path, form="integer", feature_maps=True)
    outputs = run(path, x)
    np.testing.assert_array_equal(outputs[q.network.graph.outputs[0]], program.integers(x))
    for name, codes in program.codes(x).items():
        np.testing.assert_array_equal(outputs[f"{name}.codes"], codes, err_msg=name)


@pytest.mark.parametrize("rule", Rounding)
def test_products_of_64_bits_are_equal(by_largest, tmp_path, rule):
    """A gate per channel: both factors are wide, and the product is rounded to 30 bits."""
    rng = np.random.default_rng(0)
    kernel, head = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 8), (8, 3)))

    def network(x):
        h = jnp.tanh(x @ kernel)
        return (h * jnp.mean(h, axis=(1, 2), keepdims=True)) @ head

    x = rng.normal(size=(8, 5, 5, 2)).astype(np.float32)
    q = by_largest(gd.trace(network, jnp.zeros((1, 5, 5, 2))), x)
    program = datapath.compile(q, Accelerator(rounding=rule, multiplier_bits=24))
    assert any(node.op == "wide_mul" for node in program.graph.nodes)
    export.export_onnx(program, tmp_path / "program.onnx", form="integer")
    outputs = run(tmp_path / "program.onnx", x)
    np.testing.assert_array_equal(outputs[q.network.graph.outputs[0]], program.integers(x))
    if rule is Rounding.HALF_EVEN:
        assert datapath.agreement(program, q, [x]).equal == 1


def test_dilated_window_with_padding_as_wide_as_its_taps(by_largest, tmp_path):
    def function(x):
        window = {"window_dimensions": (1, 2, 3, 1), "window_strides": (1,) * 4, "window_dilation": (1, 2, 3, 1)}
        return jax.lax.reduce_window(x @ -jnp.ones((2, 2)), -jnp.inf, jax.lax.max, padding="SAME", **window)

    x = np.random.default_rng(0).normal(size=(4, 5, 9, 2)).astype(np.float32)
    program = datapath.compile(by_largest(gd.trace(function, x), x))
    export.export_onnx(program, tmp_path / "program.onnx", form="integer")
    np.testing.assert_array_equal(*run(tmp_path / "program.onnx", x).values(), program.integers(x))


def test_codes_with_a_zero_point_are_equal(network, tmp_path):
    q, x = network
    first = next(iter(q.quantizers.activations))
    quantizer = q.quantizers.activations[first]
    shifted = replace(quantizer, zero_point=jnp.float32(20), step=quantizer.step / 2)
    q = replace(q, quantizers=replace(q.quantizers, activations=q.quantizers.activations | {first: shifted}))
    program = datapath.compile(q)
    codes = program.codes(x)[first]
    assert (int(codes.min()), int(codes.max())) == (-128, 127)
    export.export_onnx(program, tmp_path / "program.onnx", form="integer")
    np.testing.assert_array_equal(*run(tmp_path / "program.onnx", x).values(), program.integers(x))


def test_qdq_is_the_fake_quantized_network(network, tmp_path):
    q, x = network
    path = tmp_path / "qdq.onnx"
    export.export_onnx(datapath.compile(q), path)
    (logits,) = run(path, x).values()
    # Runtimes round at thresholds their own way: a code or two differ.
    np.testing.assert_allclose(logits, q(x), atol=0.02 * float(np.abs(logits).max()))


def bright_network(bits):
    """Return a network of positive weights, quantized, and bright images: sums of two products pass 16 bits."""
    rng = np.random.default_rng(0)
    first, second = (jnp.asarray(rng.uniform(0.5, 1, shape), jnp.float32) for shape in ((5, 5, 1, 8), (3, 3, 8, 8)))

    def conv(v, kernel):
        return jax.lax.conv_general_dilated(v, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    net = gd.trace(lambda v: conv(jax.nn.relu(conv(v, first)), second), jnp.zeros((1, 8, 8, 1)))
    x = rng.uniform(0.7, 1, size=(8, 8, 8, 1)).astype(np.float32)
    return gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(scheme="max-abs", weight_bits=bits)), x


@pytest.mark.parametrize(("bits", "kind"), [(8, np.uint8), (7, np.int8)])
def test_qdq_weights_that_no_x86_saturates(tmp_path, bits, kind):
    import onnx

    q, x = bright_network(bits)
    path = tmp_path / "qdq.onnx"
    export.export_onnx(datapath.compile(q), path)
    (got,) = run(path, x).values()
    wanted = np.asarray(q(x))
    assert np.square(got - wanted).sum() < 1e-4 * np.square(wanted).sum()
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for name in q.quantizers.weights:
        assert tensors[f"{name}/kernel"].dtype == kind
        assert int(tensors.get(f"{name}/kernel.zero_point", 0)) == (128 if kind == np.uint8 else 0)
    read = gd.quantization.load_qdq(path)
    np.testing.assert_allclose(read(x), got, rtol=1e-2)
    for ours, theirs in zip(q.integer_weights().values(), read.integer_weights().values(), strict=True):
        np.testing.assert_array_equal(ours.codes, theirs.codes)


@pytest.mark.parametrize("largest", [127, 64, 40])
def test_the_bound_of_pairs_is_the_largest_sum_of_two_products(largest):
    from ggdjax.export._onnx_qdq import pairs_can_saturate

    rng = np.random.default_rng(largest)
    for _ in range(50):
        kernel = rng.integers(-largest, largest + 1, size=(6, 3)).astype(np.int8)
        if largest == 127:  # one large weight, alone or in company
            kernel = np.where(np.arange(6)[:, None] == 2, kernel, kernel // rng.integers(4, 200)).astype(np.int8)
        ends = 255 * np.stack([np.minimum(kernel, 0), np.maximum(kernel, 0)]).astype(int)
        sums = [ends[:, i] + ends[:, j] for i in range(6) for j in range(i)]
        assert pairs_can_saturate(kernel) == (np.min(sums) < -(2**15) or np.max(sums) > 2**15 - 1)


def test_a_level_that_computes_something_else_is_said(network, tmp_path, monkeypatch):
    from ggdjax.export import _onnx_runtime

    outputs = _onnx_runtime._outputs

    def wrong(runtime, path, level, x):
        found = outputs(runtime, path, level, x)
        return [0.5 * y for y in found] if level == "ORT_ENABLE_ALL" else found

    monkeypatch.setattr(_onnx_runtime, "_outputs", wrong)
    with pytest.warns(UserWarning, match=r"computes something else .*\(ORT_ENABLE_ALL 6 dB from ORT_DISABLE_ALL\)"):
        export.export_onnx(datapath.compile(network[0]), tmp_path / "qdq.onnx")


def test_what_cannot_be_written_is_refused(network, tmp_path):
    q, _ = network
    path = tmp_path / "refused.onnx"
    program = datapath.compile(q)
    with pytest.raises(GgdjaxError, match="did you mean `qdq`"):
        export.export_onnx(program, path, form="qdqq")
    with pytest.raises(GgdjaxError, match="only `form` 'integer'"):
        export.export_onnx(program, path, feature_maps=True)
    with pytest.raises(GgdjaxError, match="cannot be written"):
        export.export_onnx(program, tmp_path / "none" / "x.onnx")
    narrow = Accelerator(accumulator_bits=14, bias_bits=14, overflow="wrap")
    with pytest.raises(UnsupportedError, match=r"accumulator of `.*` can overflow"):
        export.export_onnx(datapath.compile(q, narrow), path, form="integer")
    first = next(iter(q.quantizers.activations))
    narrow = {**q.quantizers.activations, first: replace(q.quantizers.activations[first], bits=4)}
    program = datapath.compile(replace(q, quantizers=replace(q.quantizers, activations=narrow)))
    with pytest.raises(UnsupportedError, match=r"QuantizeLinear .* has 8: quantize to 8 bits"):
        export.export_onnx(program, path)
