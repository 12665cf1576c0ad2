from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ggdjax._errors import GgdjaxError, ModelError
from ggdjax.zoo import Recipe, digits_net, fit, load_weights, save_weights, top1
from ggdjax.zoo.train import random_shift
from ggdjax.zoo.train_digits import arrays, train

SHIPPED = resources.files("ggdjax.zoo") / "_digits.safetensors"


@pytest.fixture(scope="module")
def shipped():
    return digits_net()


def shipped_metadata():
    with safe_open(SHIPPED, framework="numpy") as stored:
        return stored.metadata()


def test_the_shipped_network_reaches_its_recorded_accuracy(shipped):
    metadata = shipped_metadata()
    recorded, count = float(metadata["held_out_top1"]), int(metadata["held_out_images"])
    assert recorded >= 0.97
    # One image may flip with another chip's rounding.
    assert top1(shipped, *arrays("test")) == pytest.approx(recorded, abs=1.5 / count)


def test_the_shipped_file_is_small_and_names_the_current_recipe():
    assert len(SHIPPED.read_bytes()) < 80_000
    assert json.loads(shipped_metadata()["recipe"]) == dataclasses.asdict(Recipe())


def test_a_short_training_reaches_97_percent():
    losses = []
    net = train(Recipe(epochs=12), lambda _, loss: losses.append(loss))
    assert len(losses) == 12
    assert losses[-1] < losses[0] / 2
    assert top1(net, *arrays("test")) >= 0.97


@pytest.mark.slow
def test_the_recipe_regenerates_the_shipped_weights(shipped):
    # Another chip or version of XLA rounds otherwise, and training amplifies it: the accuracy must agree there.
    again = train(Recipe())
    assert top1(again, *arrays("test")) == pytest.approx(top1(shipped, *arrays("test")), abs=0.015)


def test_training_is_a_function_of_its_arguments():
    images, labels = (a[:64] for a in arrays("train"))
    recipe = Recipe(epochs=1, batch_size=32)
    net = digits_net(pretrained=False)
    before = jax.tree.map(np.asarray, nnx.state(net))
    first, second = (fit(net, images, labels, recipe) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(first), nnx.state(second))
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(net))
    third = fit(net, images, labels, dataclasses.replace(recipe, seed=1))
    assert not np.array_equal(first.head.kernel[...], third.head.kernel[...])


def test_inference_does_not_change_the_network(shipped):
    images, _ = arrays("test")
    before = jax.tree.map(np.asarray, nnx.state(shipped))
    logits = shipped(jnp.asarray(images[:4]))
    assert logits.shape == (4, 10)
    assert logits.dtype == jnp.float32
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(shipped))
    # Inference mode: an image's logits do not depend on the others in its batch.
    np.testing.assert_allclose(shipped(jnp.asarray(images[:1])), logits[:1], rtol=1e-5, atol=1e-5)


def test_shifts_stay_within_their_range():
    images = jnp.zeros((200, 5, 5, 1)).at[:, 2, 2, 0].set(1.0)
    moved = random_shift(jax.random.key(0), images, 1)
    row, column = jnp.nonzero(moved[..., 0].sum(0), size=9)
    assert set(zip(row.tolist(), column.tolist(), strict=True)) == {(i, j) for i in (1, 2, 3) for j in (1, 2, 3)}
    np.testing.assert_array_equal(moved.sum((1, 2, 3)), 1.0)
    np.testing.assert_array_equal(random_shift(jax.random.key(0), images, 0), images)


@pytest.mark.parametrize("fields", [{"epochs": 0}, {"batch_size": 0}, {"shift": -1}])
def test_a_recipe_out_of_range(fields):
    with pytest.raises(GgdjaxError, match=f"`{next(iter(fields))}`"):
        Recipe(**fields)


def test_fewer_images_than_a_batch():
    with pytest.raises(GgdjaxError, match="`batch_size` is 64, but there are 3"):
        fit(digits_net(pretrained=False), jnp.zeros((3, 8, 8, 1)), jnp.zeros(3, jnp.int32), Recipe())


def test_weights_survive_a_file(tmp_path, shipped):
    path = tmp_path / "weights.safetensors"
    save_weights(shipped, path, {"note": "x"})
    net = digits_net(pretrained=False, seed=3)
    assert load_weights(net, path) == {"note": "x"}
    jax.tree.map(np.testing.assert_array_equal, nnx.state(net), nnx.state(shipped))


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "renamed", "shape", "dtype", "extra"])
def test_weights_that_do_not_fit(tmp_path, damage):
    path = tmp_path / "weights.safetensors"
    stored = load_file(SHIPPED)
    if damage == "truncated":
        path.write_bytes(SHIPPED.read_bytes()[:-10])
    elif damage in {"empty", "text"}:
        path.write_bytes(b"" if damage == "empty" else b"no safetensors")
    elif damage != "missing":
        bias = stored.pop("head/bias")
        changed = {
            "renamed": {"head/biases": bias},
            "shape": {"head/bias": bias[:-1]},
            "dtype": {"head/bias": bias.astype(np.float16)},
            "extra": {"head/bias": bias, "more": bias},
        }[damage]
        save_file(stored | changed, path)
    with pytest.raises(ModelError, match=r"weights\.safetensors") as error:
        load_weights(digits_net(pretrained=False), path)
    assert "\n" not in str(error.value)


def test_the_recipe_is_a_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ggdjax.zoo.train_digits", "--help"], capture_output=True, text=True, check=True
    )
    assert "train_digits" in done.stdout


def test_importing_the_room_costs_no_flax():
    code = (
        "import sys, ggdjax.zoo, ggdjax.data; sys.exit(bool({'flax', 'optax', 'sklearn', 'PIL'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
