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

from ggdjax._errors import ModelError
from ggdjax.data import digits
from ggdjax.zoo import Recipe, digits_net, load_weights, save_weights, top1
from ggdjax.zoo.train_digits import train

SHIPPED = resources.files("ggdjax.zoo") / "_digits.safetensors"


@pytest.fixture(scope="module")
def shipped():
    return digits_net()


@pytest.fixture(scope="module")
def images():
    return digits()


def shipped_metadata():
    with safe_open(SHIPPED, framework="numpy") as stored:
        return stored.metadata()


def test_the_shipped_network_reaches_its_recorded_accuracy(shipped, images):
    metadata = shipped_metadata()
    recorded, count = float(metadata["held_out_top1"]), int(metadata["held_out_images"])
    assert recorded >= 0.97
    # One image may flip with another chip's rounding.
    assert top1(shipped, images, images.parts["test"]) == pytest.approx(recorded, abs=1.5 / count)


def test_the_shipped_file_is_small_and_names_the_current_recipe():
    assert len(SHIPPED.read_bytes()) < 80_000
    recipe = json.loads(shipped_metadata()["recipe"])
    # Fields that were added later have defaults that do nothing.
    assert dataclasses.asdict(Recipe()).items() >= recipe.items()
    assert Recipe(**recipe) == Recipe()


def test_a_short_training_reaches_97_percent(images):
    history = []
    net = train(Recipe(epochs=12), lambda records: history.append(records[-1]))
    assert [record["epoch"] for record in history] == list(range(1, 13))
    assert history[-1]["loss"] < history[0]["loss"] / 2
    assert history[-1]["train_top1"] > 0.97
    assert top1(net, images, images.parts["test"]) >= 0.97


@pytest.mark.slow
def test_the_recipe_regenerates_the_shipped_weights(shipped, images):
    # Another chip or version of XLA rounds otherwise, and training amplifies it: the accuracy must agree there.
    again = train(Recipe())
    ours, theirs = (top1(net, images, images.parts["test"]) for net in (again, shipped))
    assert ours == pytest.approx(theirs, abs=0.015)


def test_inference_does_not_change_the_network(shipped, images):
    images, _ = next(images.batches(images.parts["test"], 4))
    before = jax.tree.map(np.asarray, nnx.state(shipped))
    logits = shipped(jnp.asarray(images[:4]))
    assert logits.shape == (4, 10)
    assert logits.dtype == jnp.float32
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(shipped))
    # Inference mode: an image's logits do not depend on the others in its batch.
    np.testing.assert_allclose(shipped(jnp.asarray(images[:1])), logits[:1], rtol=1e-5, atol=1e-5)


def test_weights_survive_a_file(tmp_path, shipped):
    path = tmp_path / "weights.safetensors"
    save_weights(shipped, path, {"note": "x"})
    (path.parent / "ordinary").touch()
    assert path.stat().st_mode == (path.parent / "ordinary").stat().st_mode
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
    code = "import sys, ggdjax.zoo, ggdjax.data; sys.exit(bool({'flax', 'optax', 'scipy', 'PIL'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
