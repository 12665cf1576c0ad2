"""Codes that wide integers are too coarse for: said when compiling, by a bound that holds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax import datapath, zoo
from ggdjax._errors import GgdjaxError
from ggdjax.datapath._functions import Functions, tables

X = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
W, V = (np.random.default_rng(seed).normal(size=(6, 6)).astype(np.float32) for seed in (1, 2))


def sums(x, largest=np.inf, layer_after=True):
    """A sigmoid of small values, to which rare huge ones are added."""
    y = x @ W
    huge = jax.nn.relu(x @ (1e10 * V) - 4e10)
    y = jax.nn.sigmoid(y + (huge if np.isinf(largest) else jnp.clip(huge, -largest, largest)))
    return y @ V if layer_after else y


def moved(x):
    """The codes of it in another order."""
    return sums(x, layer_after=False)[:, ::-1] @ V


def scaled_again(x):
    """A channel that is 10⁻¹⁰ of the others, and scaled up again."""
    small = np.float32([[1, 1, 1, 1, 1, 1e-10]])
    return (jnp.abs(x @ W) * small + jax.nn.relu(x @ V) * small) / small @ V


def quantized(function):
    net = gd.trace(function, X[:1])
    return gd.quantize(net, gd.calibrate(net, [X]), gd.QuantConfig(scheme="max-abs"))


@pytest.mark.parametrize("function", [sums, moved, scaled_again])
def test_compiling_warns_of_codes_that_differ(function):
    q = quantized(function)
    with pytest.warns(
        UserWarning,
        match=r"so wide a range that its integers of 30 bits .* off by \d+\.\d LSB before it is rounded: clip",
    ):
        program = datapath.compile(q)
    maps = datapath.agreement(program, q, [X]).feature_maps
    differ = {name: found.largest_given_inputs for name, found in maps.items() if found.largest_given_inputs}
    assert differ.keys() == program.inexact.keys() != set()
    for name, lsb in differ.items():
        bound, _ = program.inexact[name]
        assert lsb - 1 <= bound <= 4 * lsb


def test_compiling_warns_of_outputs_that_differ():
    q = quantized(lambda x: sums(x, layer_after=False))
    with pytest.warns(UserWarning, match="off by"):
        program = datapath.compile(q)
    ((name, (bound, _)),) = program.inexact.items()
    assert name == q.network.graph.outputs[0]
    error = np.abs(program(X) - q(X)).max() * 128
    assert 0.9 * error <= bound <= 4 * error


def test_its_remedy_works():
    q = quantized(lambda x: sums(x, largest=20.0))
    program = datapath.compile(q)
    assert not program.inexact
    assert datapath.agreement(program, q, [X]).equal_given_inputs == 1


def test_narrow_integers_are_too_coarse_and_wider_ones_the_remedy():
    net = gd.trace(lambda x: jax.nn.relu(x @ W + x) @ V, X[:1])
    q = gd.quantize(net, gd.calibrate(net, [X]), gd.QuantConfig(scheme="max-abs"))
    with pytest.warns(UserWarning, match="integers of 9 bits .* raise `residual_bits`, or clip"):
        program = datapath.compile(q, datapath.Accelerator(residual_bits=9))
    assert program.inexact
    assert not datapath.compile(q, datapath.Accelerator(residual_bits=16)).inexact


def test_it_is_kept_in_files(tmp_path):
    with pytest.warns(UserWarning, match="off by"):
        program = datapath.compile(quantized(sums))
    program.save(tmp_path / "program.ggd")
    assert gd.load(tmp_path / "program.ggd").inexact == program.inexact


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["digits", "resnet20", "mobilenet_v2_small"])
def test_common_networks_lose_nothing(name):
    module, size = zoo.create(name), zoo.entry(name).input_shape
    x = np.random.default_rng(3).normal(size=(4, *size)).astype(np.float32)
    net = gd.trace(module, x[:1])
    program = datapath.compile(gd.quantize(net, gd.calibrate(net, [x])))
    assert not program.inexact


def test_a_tensor_of_zeros_loses_nothing():
    net = gd.trace(lambda x: (jax.nn.sigmoid(x @ W) * 0.0 + x.mean(1, keepdims=True)) @ V, X[:1])
    assert not datapath.compile(gd.quantize(net, gd.calibrate(net, [X]))).inexact


def test_cancelling_terms_do_not_saturate():
    """Where a layer's terms cancel, rounding moves its output out of the range that calibration saw."""
    kernel = np.float32([[0.35], [0.35], [-0.7 + 1e-4]])
    x = np.abs(X[:, :1]) @ np.ones((1, 3), np.float32)
    net = gd.trace(lambda x: jax.nn.sigmoid(x @ kernel) @ np.float32([[1.0, -1.0]]), x[:1])
    q = gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(scheme="max-abs", weight_bits=3))
    program = datapath.compile(q)
    assert not program.run(x).beyond
    assert datapath.agreement(program, q, [x]).equal_given_inputs == 1


def by_largest_of_image(h, least=0.0):
    """Images over their largest value, zeros where that is zero."""
    m = h.max(1, keepdims=True)
    return jnp.where(m > 0, h / (jnp.maximum(m, least) if least else m), 0.0)


def test_a_divisor_that_was_zero_is_named_with_what_to_write():
    """Of 0 / 0, which the choice discards, calibration measured NaN, and nothing else of the quotient."""
    x = X.copy()
    x[1] = 0.0

    def network(least):
        net = gd.trace(lambda x: by_largest_of_image(jax.nn.relu(x @ W), least) @ V, x[:1])
        return gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(scheme="max-abs"))

    with pytest.raises(
        GgdjaxError, match=r"divides by `.*`, whose range in calibration holds zero: .* `jnp.maximum\(divisor, "
    ):
        datapath.compile(network(0.0))
    q = network(0.5)
    program = datapath.compile(q)
    np.testing.assert_array_equal(program.run(x).logits, q(x))


def test_what_lies_below_the_least_divisor_does_not_coarsen_the_table():
    """The first cell begins at 0, where 1 / x is huge; x is 10⁻³ at least."""
    net = gd.trace(lambda x: 1 / x, jnp.ones((1, 3)))
    function = Functions(net.graph, net.params).of(net.graph.outputs[0])
    (first, *_), error = tables(function, (1e-3, 10.0), (1e-3, 40.0), (1e-3, 5.0), lookup_bits=12, bits=30)
    assert first.sums.scale[0] <= 2.0**-12  # it was 1
    assert error < 0.1
