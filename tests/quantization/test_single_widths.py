"""Widths of single layers and feature maps, by name and pattern; what stays in float by choice."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax._errors import GgdjaxError
from ggdjax.cli._options import _widths
from ggdjax.quantization._config import widths_of


@pytest.fixture(scope="module")
def net():
    first, second = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(6, 8), (8, 4)]))
    return gd.trace(lambda x: jax.nn.relu(x @ first + 0.1) @ second - 0.2, jnp.zeros((1, 6)))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def calibration(net, images):
    return gd.calibrate(net, images)


def test_the_last_pattern_that_matches_holds():
    names = ["a/1/conv", "a/2/conv", "b[0]"]
    config = gd.QuantConfig(weight_bits=8, weight_bits_of={"a/*": 4, "a/2*": "float", "b[0]": 3})
    assert widths_of(config, "weight_bits", names) == {"a/1/conv": 4, "a/2/conv": None, "b[0]": 3}
    with pytest.raises(GgdjaxError, match=r"`weight_bits_of` names 'c/\*', which the network does not have"):
        widths_of(gd.QuantConfig(weight_bits_of={"c/*": 4}), "weight_bits", names)
    with pytest.raises(GgdjaxError, match="from 2 to 16, or 'float', got 'real'"):
        gd.QuantConfig(activation_bits_of={"a": "real"})


def test_what_stays_in_float_computes_in_float(net, images, calibration):
    config = gd.QuantConfig(activation_bits_of={"*": "float"}, weight_bits_of={"*": "float"})
    q = gd.quantize(net, calibration, config)
    np.testing.assert_array_equal(q(images), net(images))
    assert q.record.choices == {}


def test_a_layer_in_float_and_another_quantized(net, images, calibration, tmp_path):
    last = net.graph.quantizable[-1]
    half = gd.QuantConfig(weight_bits=3, weight_bits_of={last.name: "float"}, activation_bits_of={"input": "float"})
    q = gd.quantize(net, calibration, half)
    assert list(q.quantizers.weights) == [net.graph.quantizable[0].name]
    assert list(q.quantizers.activations) == [last.inputs[0]]
    rounded = gd.tune.round_weights(q, images)
    np.testing.assert_array_equal(rounded.params[last.param("kernel")], net.params[last.param("kernel")])
    rounded.save(tmp_path / "q.safetensors")
    again = gd.load(tmp_path / "q.safetensors")
    np.testing.assert_array_equal(again(images), rounded(images))
    assert again.record.config == half


@pytest.mark.parametrize(
    ("weights", "maps"),
    [
        ({"a": "float"}, {}),
        ({"b": "float"}, {"b_in": "float"}),
        ({}, {"input": "float"}),
        ({"*": "float"}, {"*": "float"}),
    ],
)
def test_layers_in_float_compile_and_export(net, images, calibration, tmp_path, weights, maps):
    """Between integers a layer may stay in float; QDQ files leave it in float, all others refuse it in one line."""
    first, last = net.graph.quantizable
    names = {"a": first.name, "b": last.name, "b_in": last.inputs[0], "input": "input", "*": "*"}
    own = {kind: {names[k]: v for k, v in of.items()} for kind, of in (("weights", weights), ("maps", maps))}
    config = gd.QuantConfig(weight_bits_of=own["weights"], activation_bits_of=own["maps"])
    q = gd.quantize(net, calibration, config)
    program = gd.datapath.compile(q)
    assert program.in_float
    assert program.in_float[0] in repr(program)
    fake = np.asarray(q(images))
    np.testing.assert_allclose(program(images), fake, atol=1e-3)
    assert not program.run(images).beyond
    program.save(tmp_path / "program.safetensors")
    np.testing.assert_array_equal(gd.load(tmp_path / "program.safetensors").integers(images), program.integers(images))
    onnxruntime = pytest.importorskip("onnxruntime")
    gd.export.export_onnx(program, tmp_path / "q.onnx")  # runs it at all levels; a difference is a warning
    session = onnxruntime.InferenceSession(tmp_path / "q.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    assert np.mean(np.abs(found - fake) > 1e-3) < 0.05
    for export in (
        lambda: gd.export.export_onnx(program, tmp_path / "i.onnx", form="integer"),
        lambda: gd.export.export_bundle(program, tmp_path / "bundle"),
        lambda: gd.export.write_testbenches(program, images, tmp_path / "rtl"),
    ):
        with pytest.raises(GgdjaxError, match=r"QDQ|qdq"):
            export()


def test_a_recipe_with_mean_bits_keeps_widths_that_are_given(tmp_path):
    net = gd.trace(gd.zoo.digits_net(), jnp.zeros((1, 8, 8, 1)))
    first = net.graph.quantizable[0]
    config = gd.QuantConfig(scheme="max-abs", weight_bits_of={first.name: 9}, activation_bits_of={"input": 2})
    recipe = gd.Recipe(mean_bits=4, quantization=config, calibration_images=32, held_out_images=50, rounding="nearest")
    recipe.save(tmp_path / "recipe.toml")
    assert gd.Recipe.load(tmp_path / "recipe.toml") == recipe
    outcome = gd.recipe.run(net, gd.data.digits(), recipe, folder=tmp_path / "run")
    quantizers = outcome.network.quantizers
    assert quantizers.weights[first.name].bits == 9
    assert quantizers.activations["input"].bits == 2
    sizes = [net.params[node.param("kernel")].size for node in net.graph.quantizable]
    widths = [quantizers.weights[node.name].bits for node in net.graph.quantizable]
    assert 3.5 < np.average(widths, weights=sizes) <= 4
    outcome.network.save(tmp_path / "q.safetensors")
    assert gd.load(tmp_path / "q.safetensors").quantizers.weights[first.name].bits == 9
    again = gd.recipe.run(net, gd.data.digits(), recipe, folder=tmp_path / "run")
    assert again.network.record.config == outcome.network.record.config
    wide = dataclasses.replace(recipe, quantization=gd.QuantConfig(weight_bits_of={"*": 16}))
    with pytest.raises(GgdjaxError, match="`mean_bits` is 4, but 2 bits for all but the widths that are given cost 16"):
        gd.recipe.run(net, gd.data.digits(), wide)


def test_a_target_looks_at_widths_alone():
    target = gd.recipe.target("onnxruntime-x86")
    config = target.recipe(gd.Recipe()).quantization
    for bits, refused in (("float", False), (3, True)):
        recipe = gd.Recipe(quantization=dataclasses.replace(config, weight_bits_of={"head": bits}))
        assert (target.refuses(recipe) is not None) == refused


def test_options():
    assert _widths("weight_bits_of", ("a=b=4", "blocks/*=float")) == {"a=b": 4, "blocks/*": "float"}
    for wrong in ("a", "=4", "a=four", "a=-1"):
        with pytest.raises(GgdjaxError, match="`weight_bits_of` must be NAME=BITS or NAME=float, got"):
            _widths("weight_bits_of", (wrong,))


@pytest.mark.parametrize("given", [["conv1"], "conv1", {1: 4}])
def test_widths_of_no_names(given):
    with pytest.raises(GgdjaxError, match=r"`weight_bits_of` must map names or patterns to widths, as .*, got"):
        gd.QuantConfig(weight_bits_of=given)
