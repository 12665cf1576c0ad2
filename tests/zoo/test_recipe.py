from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ggdjax._errors import GgdjaxError
from ggdjax.zoo._recipe import Recipe, augment, learning_rate, make_optimizer

KEY = jax.random.key(0)


def test_windows_lie_everywhere_in_the_padded_image_and_nowhere_else():
    images = jnp.zeros((200, 5, 5, 1)).at[:, 2, 2, 0].set(1.0)
    moved = augment(KEY, images, shift=1)
    row, column = jnp.nonzero(moved[..., 0].sum(0), size=9)
    assert set(zip(row.tolist(), column.tolist(), strict=True)) == {(i, j) for i in (1, 2, 3) for j in (1, 2, 3)}
    np.testing.assert_array_equal(moved.sum((1, 2, 3)), 1.0)


def test_windows_of_a_smaller_size():
    images = jnp.arange(300 * 36.0).reshape(300, 6, 6, 1)
    cut = augment(KEY, images, crop=4)
    assert cut.shape == (300, 4, 4, 1)
    corner = cut[:, 0, 0, 0] - images[:, 0, 0, 0]
    assert set(corner.tolist()) == {6.0 * i + j for i in range(3) for j in range(3)}
    np.testing.assert_array_equal(cut[:, 3, 3, 0] - cut[:, 0, 0, 0], 21.0)


def test_a_window_larger_than_the_padded_image_is_refused():
    with pytest.raises(GgdjaxError, match=r"`crop` is 9, but images of 5×6 with `shift` = 1 are 7×8"):
        augment(KEY, jnp.ones((2, 5, 6, 1)), shift=1, crop=9)


def test_mirroring_is_left_to_right_for_half_of_the_images():
    images = jnp.asarray(np.random.default_rng(0).standard_normal((400, 3, 4, 2), np.float32))
    mirrored = augment(KEY, images, flip=True)
    same = jnp.all(mirrored == images, axis=(1, 2, 3))
    assert bool(jnp.all(same | jnp.all(mirrored == images[:, :, ::-1], axis=(1, 2, 3))))
    # Four standard deviations of a fair coin.
    assert float(same.mean()) == pytest.approx(0.5, abs=0.1)


def test_without_augmentation_images_stay():
    images = jnp.ones((2, 3, 3, 1))
    assert augment(KEY, images) is images


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_only_kernels_decay(optimizer):
    recipe = Recipe(optimizer=optimizer, learning_rate=0.1, weight_decay=0.5, warmup=0.0)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    made = make_optimizer(recipe, 10)
    state = made.init(params)
    zero = jax.tree.map(jnp.zeros_like, params)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(3):
            updates, state = made.update(zero, state, params)
            params = optax.apply_updates(params, updates)
    assert float(params["kernel"].max()) < 1.0
    np.testing.assert_array_equal(params["bias"], 1.0)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero():
    schedule = learning_rate(Recipe(learning_rate=0.5, warmup=0.2), 20)
    rates = [float(schedule(step)) for step in range(21)]
    np.testing.assert_allclose(rates[:5], np.linspace(0, 0.5, 5), rtol=1e-6)
    # Half a period of the cosine over the 16 steps after the peak.
    np.testing.assert_allclose(rates[4:], 0.25 * (1 + np.cos(np.pi * np.arange(17) / 16)), atol=1e-6)


def test_the_last_epochs_see_the_whole_image():
    recipe = Recipe(epochs=5, crop=24, full_size_epochs=2)
    assert [recipe.crop_in(epoch) for epoch in range(5)] == [24, 24, 24, None, None]


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"shift": -1},
        {"full_size_epochs": -1},
        {"crop": 0},
        {"optimizer": "adam"},
        {"learning_rate": float("nan")},
        {"weight_decay": -1e-4},
        {"warmup": 1.0},
        {"label_smoothing": -0.1},
    ],
)
def test_a_recipe_out_of_range(fields):
    with pytest.raises(GgdjaxError, match=f"`{next(iter(fields))}`"):
        Recipe(**fields)
