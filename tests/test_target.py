"""Hardware by name: what it refuses, what it makes of a recipe, and that its integer program computes the network."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import ggdjax as gd
from ggdjax._errors import GgdjaxError
from ggdjax.cli import main
from ggdjax.datapath import Rounding
from ggdjax.recipe import TARGETS
from ggdjax.recipe._ladder import _able, _recipes


@pytest.fixture(scope="module")
def small():
    """A network of two dense layers, its calibration, and images."""
    x, first, second = (
        np.asarray(jax.random.normal(jax.random.key(i), shape)) for i, shape in enumerate(((64, 8), (8, 8), (8, 4)))
    )
    net = gd.trace(lambda x: jax.nn.relu(x @ first) @ second, x[:1])
    return net, gd.calibrate(net, [x]), x


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_runs_the_recipe_that_it_makes(small, name):
    """Its accelerator computes the classes of the fake-quantized network."""
    (net, counted, x), hardware = small, gd.recipe.target(name)
    recipe = hardware.recipe(gd.Recipe(quantization=gd.QuantConfig(scheme="max-abs")))
    assert recipe.target == name
    assert hardware.recipe(recipe) == recipe
    q = hardware.fitted(gd.quantize(net, counted, recipe.quantization))
    program = gd.datapath.compile(gd.datapath.align(q), hardware.accelerator(q))
    agree = np.mean(program.run(x).logits.argmax(-1) == np.asarray(q(x)).argmax(-1))
    assert agree >= 63 / 64
    steps = np.asarray([quantizer.step for quantizer in q.quantizers.activations.values()])
    if hardware.activation_steps == "power-of-two":
        assert (np.frexp(steps)[0] == 0.5).all()
    if not hardware.unsigned_activations:
        assert all(quantizer.signed for quantizer in q.quantizers.activations.values())


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("esp32-p4", {"weight_bits": 4}, "`weight_bits` is 4, weights have 8 or 16 bits"),
        ("esp32-p4", {"activation_bits": 16}, "`weight_bits` is 8 and `activation_bits` 16, not the same"),
        ("esp32-s3", {"weights_per": "channel"}, "`weights_per` is 'channel', weights have one step per layer"),
        ("imx500-like", {"activation_bits": 4}, "`activation_bits` is 4, weights have 2 or 4 or 8 bits and feature"),
        ("imx500-like", {"activation_bits_of": {"x": 4}}, "`activation_bits` is 4"),
        ("tflite-int8", {"activations_per": "channel"}, "`activations_per` is 'channel'"),
        ("fixed-point", {"weight_scheme": "max-abs"}, "`weight_scheme` is 'max-abs'"),
        ("fixed-point", {"scheme": "affine-min-max"}, "`scheme` is 'affine-min-max', there are no zero points"),
    ],
)
def test_what_a_target_cannot_run_is_refused_in_one_line(name, changes, says):
    with pytest.raises(GgdjaxError) as error:
        gd.recipe.target(name).recipe(gd.Recipe(quantization=gd.QuantConfig(**changes)))
    assert str(error.value).startswith(f"{name} cannot run this recipe: {says}")
    assert "\n" not in str(error.value)


def test_a_recipe_with_a_target_is_checked(tmp_path):
    with pytest.raises(GgdjaxError, match="esp32-p4 cannot run this recipe: `activation_steps` is 'free'"):
        gd.Recipe(target="esp32-p4")
    with pytest.raises(GgdjaxError, match="no target is called `esp32`"):
        gd.Recipe(target="esp32")
    with pytest.raises(GgdjaxError, match="`mean_bits` gives every layer a width of its own"):
        gd.Recipe(target="tflite-int8", mean_bits=8.0)
    to_eight = replace(gd.recipe.target("fixed-point"), weight_bits=tuple(range(2, 9)))
    wide = gd.Recipe(mean_bits=4.0, quantization=gd.QuantConfig(weight_bits_of={"a": 16}))
    assert to_eight.refuses(wide).startswith("`weight_bits` is 16, ")
    recipe = gd.recipe.target("esp32-p4").recipe(gd.Recipe())
    recipe.save(tmp_path / "recipe.toml")
    assert gd.Recipe.load(tmp_path / "recipe.toml") == recipe
    assert gd.recipe.target("fixed-point").recipe(gd.Recipe(mean_bits=4.0)).widths == range(2, 9)


def test_tuning_keeps_steps_powers_of_two(small):
    tuned = gd.Recipe(
        tune_images=64, search=gd.tune.TuneConfig(allow_few_images=True), gradient=gd.tune.GradientConfig()
    )
    recipe = gd.recipe.target("fixed-point").recipe(tuned)
    assert recipe.search.factors == (0.5, 1.0, 2.0)
    assert recipe.gradient.step_rate == 0
    # What a logarithm and its exponential leave beside a power of two is taken away.
    net, counted, _ = small
    q = gd.quantize(net, counted, replace(recipe.quantization, scheme="max-abs"))
    moved = {name: replace(old, step=old.step * 1.002) for name, old in q.quantizers.activations.items()}
    slid = replace(q, quantizers=replace(q.quantizers, activations=moved))
    fitted = gd.recipe.target("fixed-point").fitted(slid)
    for name, quantizer in q.quantizers.activations.items():
        assert fitted.quantizers.activations[name].step == quantizer.step


def test_weights_without_their_lowest_code(small):
    """TensorFlow Lite's specification: weights from -127."""
    net, counted, _ = small
    q = gd.quantize(net, counted, gd.QuantConfig(scheme="max-abs"))
    node = q.graph.quantizable[0]
    key, quantizer = node.param("kernel"), q.quantizers.weights[node.name]
    kernel = np.array(q.params[key])
    kernel.flat[0] = quantizer.lowest
    q = replace(q, params={**q.params, key: kernel})
    fitted = gd.recipe.target("tflite-int8").fitted(q)
    codes = np.asarray(quantizer.encode(fitted.params[key]))
    assert codes.flat[0] == -127
    np.testing.assert_array_equal(codes.flat[1:], np.asarray(quantizer.encode(kernel)).flat[1:])
    assert fitted.record.stages[-1].name == "target"
    assert gd.recipe.target("onnxruntime-x86").fitted(q) is q


def test_the_ladder_leaves_out_what_the_target_cannot_run():
    rungs = ("nearest", "output", "channel", "widths", "gradient")
    recipes, left_out = _recipes(gd.recipe.target("esp32-s3").recipe(gd.Recipe()), rungs, 64)
    assert list(recipes) == ["nearest", "output", "gradient"]
    assert list(left_out) == ["channel", "widths"]
    assert {recipe.target for recipe in recipes.values()} == {"esp32-s3"}
    assert recipes["gradient"].gradient.step_rate == 0
    assert recipes["gradient"].quantization.weights_per == "tensor"
    recipes, left_out = _recipes(gd.recipe.target("esp32-p4").recipe(gd.Recipe()), rungs, 64)
    assert list(left_out) == ["widths"]
    assert list(_able(recipes["channel"])) == [name for name in TARGETS if name != "esp32-s3"]
    # Of a recipe for no hardware in particular all rungs are climbed, and each says who could run it.
    recipes, left_out = _recipes(gd.Recipe(), rungs, 64)
    assert not left_out
    assert list(_able(recipes["widths"])) == ["fixed-point"]


def test_facts_that_the_pages_state():
    """ESP-DL: half even on the P4, half up on the S3; TensorFlow Lite: zero points; ONNX Runtime: seven bits."""
    p4, s3 = gd.recipe.target("esp32-p4"), gd.recipe.target("esp32-s3")
    assert (p4.rounding, s3.rounding) == (Rounding.HALF_EVEN, Rounding.HALF_UP)
    assert (p4.weights_per_channel, s3.weights_per_channel) == (True, False)
    assert gd.recipe.target("tflite-int8").zero_points
    assert 7 in gd.recipe.target("onnxruntime-x86").weight_bits
    assert all(one.source for one in TARGETS.values())


def test_the_command_runs_a_ladder_on_a_target(tmp_path, capsys):
    out = tmp_path / "run"
    words = f"--target esp32-s3 --scheme max-abs --calibration-images 64 --max-drop 5 --out {out}"
    main(["quantize", *words.split()])
    record = json.loads((out / "ladder.json").read_text())
    assert list(record["left_out"]) == ["channel", "widths"]
    assert "esp32-s3" in record["rungs"][0]["targets"]
    assert gd.Recipe.load(out / "recipe.toml").target == "esp32-s3"
    assert "channel   left out: esp32-s3 cannot run" in capsys.readouterr().out


def test_the_command_names_the_option(capsys):
    with pytest.raises(SystemExit):
        main(["quantize", "--target", "esp32-p4", "--weight-bits", "4"])
    assert "esp32-p4 cannot run this recipe: `--weight-bits` is 4" in capsys.readouterr().err
