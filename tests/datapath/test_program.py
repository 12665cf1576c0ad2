"""Compiled programs against the fake-quantized networks they come from."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ggdjax as gd
from ggdjax import datapath
from ggdjax._errors import DataError, GgdjaxError
from ggdjax.datapath import Accelerator, Format
from ggdjax.datapath._layers import integer_layer
from ggdjax.datapath._program import _outputs
from tests.partly_float import partly_float


@pytest.fixture(scope="module")
def program(digits):
    return datapath.compile(digits)


def power_of_two(q):
    steps = {
        name: replace(r, step=jnp.float32(2.0 ** round(float(np.log2(float(r.step))))))
        for name, r in q.quantizers.activations.items()
    }
    return datapath.align(replace(q, quantizers=replace(q.quantizers, activations=steps)))


def test_codes_agree_with_fake_quantization(digits, program, images):
    found = datapath.agreement(program, digits, [images[1]])
    assert list(found.feature_maps) == [f.tensor for f in digits.network.graph.feature_maps()]
    assert found.equal >= 0.999
    assert max(m.largest_given_inputs for m in found.feature_maps.values()) <= 1
    assert found.same_top1 == 1.0


@pytest.mark.parametrize(
    "spec", [{}, {"requantization": "shift"}, {"multiplier_bits": 8}, {"channel_tile": 5}], ids=str
)
def test_powers_of_two_are_equal(digits, images, spec):
    """With power-of-two steps every value is exact in float32: the logits are equal, whatever the multiplier."""
    q = power_of_two(digits)
    np.testing.assert_array_equal(datapath.compile(q, Accelerator(**spec))(images[1]), q(images[1]))


def test_exact_halves_are_rounded_alike():
    """Equal steps behind ReLU6 make sums of halves; with short steps float32 finds them, with others it does not."""
    rng = np.random.default_rng(0)
    kernels = [np.rint(rng.normal(0, 2, (12, 12))).astype(np.float32) / 8 for _ in range(2)]
    x = (np.float32(6 / 255) * rng.integers(0, 256, (500, 12))).astype(np.float32)
    net = gd.trace(lambda x: jnp.clip(jnp.clip(x @ kernels[0], 0.0, 6.0) @ kernels[1], 0.0, 6.0) @ kernels[0], x[:1])
    calibration = gd.calibrate(net, [x])
    q = gd.quantize(net, calibration, gd.QuantConfig(scheme="max-abs"))
    steps = {name: replace(r, step=jnp.float32(6 / 255)) for name, r in q.quantizers.activations.items()}
    q = replace(q, quantizers=replace(q.quantizers, activations=steps))
    aligned = datapath.align(q)
    for name, wanted in aligned.quantizers.activations.items():
        assert abs(wanted.step / steps[name].step - 1) < 2**-8
    apart, alike = (datapath.agreement(datapath.compile(n), n, [x]).equal_given_inputs for n in (q, aligned))
    assert alike == 1.0
    assert apart < 0.999


def test_batches_and_transformations_change_nothing(program, images):
    x = images[1]
    whole = np.asarray(program.integers(x))
    assert whole.dtype == np.int32
    np.testing.assert_array_equal(program.integers(x[:3]), whole[:3])
    np.testing.assert_array_equal(jax.vmap(program.integers)(x[:4][:, None])[:, 0], whole[:4])


def test_fast_paths_are_equal(program, images):
    """Every method of summing, in a whole network."""
    whole = np.asarray(program.integers(images[1]))
    for method in ("int8", "shifts"):
        nodes = tuple(n.with_attrs(method=method) if n.op == "conv" else n for n in program.graph.nodes)
        other = replace(program, graph=replace(program.graph, nodes=nodes))
        np.testing.assert_array_equal(other.integers(images[1]), whole, err_msg=method)


def test_codes_and_counts(program, images):
    codes, run = program.codes(images[1]), program.run(images[1])
    np.testing.assert_array_equal(run.logits, program(images[1]))
    assert run.overflows == 0
    assert 0 < run.saturations < 200
    for name, tensor in program.feature_maps.items():
        form = program.formats[tensor]
        assert form.low <= int(codes[name].min())
        assert int(codes[name].max()) <= form.high
    for name, layer in program.layers.items():
        counts = run.counts[name]
        assert layer.accumulator.low <= int(counts.lowest)
        assert int(counts.highest) <= layer.accumulator.high


def test_overflow_is_refused_counted_or_saturated(digits, program, images):
    narrow = {"accumulator_bits": 14, "bias_bits": 14}
    with pytest.raises(GgdjaxError, match=r"accumulator of `stem/conv` can reach .* needs 17 bits"):
        datapath.compile(digits, Accelerator(**narrow))
    for policy in ("wrap", "saturate"):
        run = datapath.compile(digits, Accelerator(**narrow, overflow=policy)).run(images[1])
        assert run.overflows > 0
    # A worst case below 2^20 in absolute value fits 21 bits: nothing overflows, nothing changes.
    enough = Accelerator(accumulator_bits=22, bias_bits=22, overflow="wrap")
    run = datapath.compile(digits, enough).run(images[1])
    assert run.overflows == 0
    np.testing.assert_array_equal(run.logits, program(images[1]))


class Everything(nnx.Module):
    """Every kind of operation that lies between layers and has an integer form."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(2, 8, (3, 3), rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.grouped = nnx.Conv(8, 8, (3, 3), feature_group_count=2, rngs=rngs)
        self.squeeze = nnx.Linear(8, 8, rngs=rngs)
        self.mix = nnx.Conv(24, 8, (1, 1), rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.silu(self.stem(x))
        x = nnx.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=False)
        a = nnx.leaky_relu(self.depthwise(x), 0.1)
        b = nnx.hard_swish(self.grouped(a)) * 0.5 + 0.25
        gate = nnx.sigmoid(self.squeeze(jnp.mean(b, axis=(1, 2), keepdims=True)))
        c = b * gate
        x = jnp.concatenate([nnx.relu6(a), jnp.tanh(b), c - a], axis=-1)
        x = nnx.max_pool(self.mix(x), (2, 2), strides=(2, 2), padding="SAME")
        return self.head(jnp.mean(jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0))), axis=(1, 2)))


@pytest.mark.parametrize("weights_per", ["tensor", "channel"])
def test_every_operation(by_largest, weights_per):
    net = gd.trace(Everything(nnx.Rngs(0)), jnp.zeros((1, 6, 7, 2)))
    x = np.random.default_rng(0).normal(size=(16, 6, 7, 2)).astype(np.float32)
    q = by_largest(net, x, per_channel=weights_per == "channel")
    compiled = datapath.compile(q, Accelerator(lookup_bits=16))
    found = datapath.agreement(compiled, q, [x])
    assert max(m.largest_given_inputs for m in found.feature_maps.values()) <= 1
    assert found.equal_given_inputs > 0.99
    np.testing.assert_allclose(compiled(x), q(x), atol=0.02 * float(jnp.abs(q(x)).max()))


def test_padding_counts_where_the_limits_leave_zero_out():
    q = partly_float()
    layer = integer_layer(q, q.network.graph.quantizable[0], Format(scale=(0.5,), low=42, high=255), Accelerator())
    rows = layer.kernel.astype(int)
    assert layer.accumulator.low == ((255 * rows).clip(max=0).sum(0) + layer.bias).min()
    assert layer.accumulator.high == ((255 * rows).clip(min=0).sum(0) + layer.bias).max()


def test_a_softmax_at_the_end_is_applied_to_the_logits(by_largest, images):
    def softmax(x):
        return jax.nn.softmax(x.reshape(x.shape[0], -1) @ jnp.eye(64)[:, :5])

    q = by_largest(gd.trace(softmax, jnp.zeros((1, 8, 8, 1))), images[0])
    program = datapath.compile(q)
    np.testing.assert_allclose(program(images[1]), q(images[1]), rtol=1e-5)
    np.testing.assert_array_equal(program.run(images[1]).logits, program(images[1]))


def test_slopes_by_row_are_not_taken_for_slopes_by_channel(by_largest, images):
    def function(x):
        x = x @ jnp.ones((1, 8))
        return jnp.where(x > 0, x, x * jnp.linspace(0.1, 0.8, 8).reshape(1, 8, 1, 1))

    q = by_largest(gd.trace(function, jnp.zeros((1, 8, 8, 1))), images[0])
    program = datapath.compile(q)
    np.testing.assert_allclose(program(images[1]), q(images[1]), atol=1e-5)


def test_what_does_not_fit_is_refused(digits):
    wide = replace(digits.quantizers, activations={**digits.quantizers.activations})
    first = next(iter(wide.activations))
    wide.activations[first] = replace(wide.activations[first], bits=10)
    with pytest.raises(GgdjaxError, match=r"feature map `.*` has codes of 10 bits"):
        datapath.compile(replace(digits, quantizers=wide))
    with pytest.raises(GgdjaxError, match=r"weights of `stem/conv` have 8 bits, the accelerator's `weight_bits` are 4"):
        datapath.compile(digits, Accelerator(weight_bits=4))
    with pytest.raises(GgdjaxError, match=r"`bias_bits` are 6: raise them"):
        datapath.compile(digits, Accelerator(bias_bits=6))
    with pytest.raises(GgdjaxError, match=r"is no power of two, but `requantization` is 'shift'"):
        datapath.compile(digits, Accelerator(requantization="shift"))


def test_wrong_input_is_refused(program):
    x = np.zeros((2, 8, 8, 1), np.float32)
    with pytest.raises(DataError, match="`x` has type bool"):
        program(x.astype(bool))
    with pytest.raises(DataError, match="NaN or infinite"):
        program(np.full_like(x, np.nan))
    with pytest.raises(DataError, match="the network expects"):
        program(x[..., 0])


@pytest.mark.parametrize("bits", [6, 8])
def test_rounded_factors_are_those_of_narrow_multipliers(bits):
    """Fake quantization rounds a feature map and its gate; an accelerator of that width has the same codes."""
    rng = np.random.default_rng(0)
    first, gate, last = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 8), (8, 8), (8, 4)))

    def network(x):
        h = jax.nn.silu(x @ first)
        return (h * jax.nn.sigmoid(jnp.mean(h, axis=1) @ gate)[:, None]) @ last

    x = rng.normal(size=(16, 6, 3)).astype(np.float32)
    net = gd.trace(network, jnp.zeros((1, 6, 3)))
    q = gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(scheme="max-abs", factor_bits=bits))
    # The gate and its feature map; silu stays one function.
    assert [node.op for node in q.graph.nodes].count("round_to_grid") == 2
    program = datapath.compile(q, Accelerator(factor_bits=bits))
    found = datapath.agreement(program, q, [x])
    assert found.equal == found.equal_given_inputs == 1
    np.testing.assert_allclose(program(x), q(x), atol=1e-5)
    assert gd.quantize(net, q.record.calibration, gd.QuantConfig(scheme="max-abs")).graph == net.graph
    slope = jax.grad(lambda p: jnp.sum(replace(q, params=p, record=None)(x)))(q.params)
    assert all(np.abs(v).max() > 0 for v in slope.values())


def test_the_program_of_a_recurrence_grows_with_its_steps():
    """XLA would compute the state of every step anew in all later ones: twice the steps were four times the program."""
    rng = np.random.default_rng(0)
    inner, outer = (rng.normal(0, 0.4, shape).astype(np.float32) for shape in ((4, 12), (4, 12)))

    def instructions(steps):
        def unrolled(x):
            hidden = state = jnp.zeros_like(x[:, 0])
            for step in range(steps):
                keep, add, new = jnp.split(x[:, step] @ outer + hidden @ inner, 3, axis=-1)
                state = jax.nn.sigmoid(keep) * state + jax.nn.sigmoid(add) * jnp.tanh(new) if step else jnp.tanh(new)
                hidden = jnp.tanh(state)
            return hidden

        x = rng.normal(size=(4, steps, 4)).astype(np.float32)
        net = gd.trace(unrolled, x)
        program = datapath.compile(gd.quantize(net, gd.calibrate(net, [x])))
        assert jax.jit(program.integers)(x).tolist() == program.integers(x).tolist()
        return _outputs.lower(program.graph, program.params, x).compile().as_text().count("\n")

    few, more = instructions(4), instructions(8)
    assert more < 2.5 * few
