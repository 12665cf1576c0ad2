from __future__ import annotations

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from ggdjax._errors import GgdjaxError
from ggdjax.data import Preprocessing
from ggdjax.zoo import Recipe, fit, top1
from ggdjax.zoo._train import _predict
from tests.zoo.stripes import Tiny, stripes

RECIPE = Recipe(epochs=2, batch_size=16, optimizer="sgd", learning_rate=0.1, weight_decay=1e-4, flip=True)


@pytest.fixture(scope="module")
def images():
    return stripes(56)


def tiny():
    return Tiny(rngs=nnx.Rngs(0))


def arrays(net):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(net, (nnx.Param, nnx.BatchStat)))]


@pytest.fixture(scope="module")
def trained(images):
    return arrays(fit(tiny(), images, RECIPE))


def test_training_is_a_function_of_its_arguments(images, trained):
    net = tiny()
    before = arrays(net)
    jax.tree.map(np.testing.assert_array_equal, arrays(fit(net, images, RECIPE)), trained)
    jax.tree.map(np.testing.assert_array_equal, arrays(net), before)


def test_it_learns(images):
    history = []
    recipe = Recipe(epochs=15, batch_size=8, shift=0)
    measured = []

    def measure(net):
        measured.append(top1(net, images, range(20)))
        return {"first_top1": measured[-1]}

    net = fit(tiny(), images, recipe, measure=measure, on_epoch=lambda records: history.append(records[-1]))
    assert [record["epoch"] for record in history] == list(range(1, 16))
    assert [record["first_top1"] for record in history] == measured
    assert history[-1]["loss"] < history[0]["loss"] / 1.5
    assert top1(net, images) > 0.9


def test_accuracy_is_compiled_once_per_network(images):
    before = _predict._cache_size()
    for seed in (0, 1):
        net = Tiny(rngs=nnx.Rngs(seed))
        net.eval()
        logits = net(next(images.batches(None, 56))[0])
        expected = float(np.mean(np.argmax(logits, axis=-1) == images.labels))
        # 56 images are no multiple of the batch of 40: the last one is filled up.
        assert top1(net, images, batch_size=40) == pytest.approx(expected)
    assert _predict._cache_size() == before + 1


class Killed(Exception):
    pass


def test_a_killed_run_ends_with_the_same_weights(images, trained, tmp_path, monkeypatch):
    # 3 steps an epoch: checkpoints after steps 2, 3, 4 and 6.
    monkeypatch.setattr("ggdjax.zoo._train.CHECKPOINT_EVERY", 2)
    steps, logs = [], []

    def kill(step: int, _: int) -> None:
        steps.append(step)
        if steps == [1, 2, 3, 4, 5]:
            raise Killed

    def run(on_step):
        log = lambda records: logs.append([record["epoch"] for record in records])  # noqa: E731
        return arrays(fit(tiny(), images, RECIPE, checkpoints=tmp_path / "kept", on_step=on_step, on_epoch=log))

    with pytest.raises(Killed):
        run(kill)
    jax.tree.map(np.testing.assert_array_equal, run(kill), trained)
    assert steps == [1, 2, 3, 4, 5, 5, 6]
    assert logs == [[1], [1, 2]]
    # A finished run is not trained again.
    jax.tree.map(np.testing.assert_array_equal, run(lambda *_: pytest.fail("trained")), trained)


def test_checkpoints_of_another_run_are_refused(images, tmp_path):
    fit(tiny(), images, Recipe(epochs=1, batch_size=40), checkpoints=tmp_path)
    with pytest.raises(GgdjaxError, match=r"checkpoints of another run \(`epochs` was 1, is 2\)"):
        fit(tiny(), images, Recipe(epochs=2, batch_size=40), checkpoints=tmp_path)
    with pytest.raises(GgdjaxError, match=r"`images` was 56, is 40"):
        fit(tiny(), images, Recipe(epochs=1, batch_size=40), indices=range(40), checkpoints=tmp_path)


ON_EIGHT_DEVICES = """
import sys
import jax, numpy as np
from tests.zoo.test_train import RECIPE, arrays, fit, stripes, tiny
assert len(jax.devices()) == 8
whole = jax.sharding.Mesh(np.asarray(jax.devices()), ("data",))
np.savez(sys.argv[1], *arrays(fit(tiny(), stripes(56), RECIPE, mesh=whole)))
"""


def test_the_result_does_not_depend_on_the_mesh(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    subprocess.run([sys.executable, "-c", ON_EIGHT_DEVICES, tmp_path / "eight.npz"], check=True)
    with np.load(tmp_path / "eight.npz") as stored:
        # Equal but for the order of sums: batch statistics are those of the whole batch of 16, not of 2 images each.
        for name, ours in zip(stored.files, trained, strict=True):
            np.testing.assert_allclose(stored[name], ours, rtol=1e-3, atol=1e-4)


def test_bad_arguments(images):
    with pytest.raises(GgdjaxError, match="`batch_size` is 64, but there are 56"):
        fit(tiny(), images, Recipe(batch_size=64))
    other = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("model",))
    with pytest.raises(GgdjaxError, match="expected a multiple of the mesh's axis `data`"):
        fit(tiny(), images, RECIPE, mesh=other)
    with pytest.raises(GgdjaxError, match="`indices` names no readable images of `stripes`"):
        top1(tiny(), images, [])


def test_a_loss_that_is_not_finite(images):
    recipe = Recipe(epochs=3, batch_size=16, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(GgdjaxError, match=r"loss is .* lower `learning_rate`"):
        fit(tiny(), images, recipe)


def test_an_unreadable_image_stops_the_training_that_needs_it(tmp_path):
    from PIL import Image

    from ggdjax.data import open_images

    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("L", (8, 8), i).save(tmp_path / name / f"{i}.png")
    (tmp_path / "a" / "2.png").write_bytes(b"no image")
    preprocessing = Preprocessing(colour_order="GRAY", layout="NHWC")
    broken = open_images(tmp_path, preprocessing, unreadable_share=1.0)
    with pytest.raises(GgdjaxError, match=r"image `a/2\.png` of .* cannot be read"):
        fit(tiny(), broken, Recipe(batch_size=4))
    # Noted by now, but no concern of these.
    fit(tiny(), broken, Recipe(epochs=1, batch_size=4), indices=range(3, 7))
