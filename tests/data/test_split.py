from __future__ import annotations

import numpy as np
import pytest

from ggdjax._errors import DataError
from ggdjax.data import (
    Preprocessing,
    Split,
    digits,
    from_arrays,
    open_images,
    split,
    split_by_ids,
    split_every,
    split_tuning,
)
from ggdjax.data._split import hash_order

RAW = Preprocessing(scale=1.0)


def numbered(count: int):
    return from_arrays(np.zeros((count, 2, 2, 3), np.uint8), np.zeros(count, np.int32), RAW)


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_parts_are_disjoint_and_cover_the_set(seed):
    chosen = split(numbered(100), 30, seed)
    assert len(chosen.calibration) == 30
    np.testing.assert_array_equal(np.union1d(chosen.calibration, chosen.held_out), np.arange(100))
    assert len(chosen.held_out) == 70


def test_the_seed_decides():
    images = numbered(100)
    np.testing.assert_array_equal(split(images, 30, 4).calibration, split(images, 30, 4).calibration)
    assert set(split(images, 30, 4).calibration) != set(split(images, 30, 5).calibration)


def test_fewer_images_are_a_part_of_more():
    images = numbered(100)
    assert set(split(images, 10).calibration) < set(split(images, 30).calibration)


def test_the_choice_hangs_on_ids_not_on_their_order():
    ids = [f"image {i}" for i in range(50)]
    shuffled = ids[::-1]
    assert [ids[i] for i in hash_order(ids, 3)] == [shuffled[i] for i in hash_order(shuffled, 3)]


def test_calibration_comes_from_train_and_test_is_held_out(parts_tree):
    images = open_images(parts_tree, RAW)
    chosen = split(images, 3)
    assert set(chosen.calibration) < set(images.parts["train"])
    np.testing.assert_array_equal(chosen.held_out, images.parts["test"])


def test_digits_calibrate_on_their_own_part():
    images = digits()
    chosen = split(images)
    np.testing.assert_array_equal(chosen.calibration, images.parts["calibration"])
    np.testing.assert_array_equal(chosen.held_out, images.parts["test"])


def test_the_record_holds_ids():
    images = numbered(5)
    record = split(images, 2, seed=7).to_dict(images)
    assert record["seed"] == 7
    assert sorted(record["calibration_ids"] + record["held_out_ids"]) == list("01234")


def test_split_by_ids():
    images = numbered(6)
    chosen = split_by_ids(images, ["4", "1"])
    np.testing.assert_array_equal(chosen.calibration, [1, 4])
    np.testing.assert_array_equal(chosen.held_out, [0, 2, 3, 5])
    np.testing.assert_array_equal(split_by_ids(images, ["4"], ["0", "2"]).held_out, [0, 2])


def test_named_images_calibrate_and_test_is_held_out(parts_tree):
    """As with `split`: the rest of `train`, which a network may know, evaluates nothing."""
    images = open_images(parts_tree, RAW)
    first = split(images, 3)
    again = split_by_ids(images, first.to_dict(images)["calibration_ids"])
    np.testing.assert_array_equal(again.calibration, first.calibration)
    np.testing.assert_array_equal(again.held_out, first.held_out)


def test_split_every_is_the_imagenet_samples_convention():
    chosen = split_every(numbered(1000))
    np.testing.assert_array_equal(chosen.calibration, range(5, 1000, 10))
    assert len(chosen.held_out) == 900


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda s: split(s, 11), "`calibration_images` is 11, but `arrays` holds 10"),
        (lambda s: split(s, 10), "left for `held_out`"),
        (lambda s: split(s, 0), "expected at least 1"),
        (
            lambda s: split_by_ids(s, ["x"]),
            "`calibration` names 1 images that `arrays` does not hold, first `x`",
        ),
        (lambda s: split_by_ids(s, ["1"], ["1", "2"]), "both calibrate and are held out, first `1`"),
        (lambda s: split_by_ids(s, []), "left for `calibration`"),
        (lambda s: split_every(s, 1), "`period` is 1"),
        (lambda s: split_every(s, 2, 10), "`first` 10"),
    ],
)
def test_splits_that_cannot_be(choose, message):
    with pytest.raises(DataError, match=message) as error:
        choose(numbered(10))
    assert "\n" not in str(error.value)


def test_tuning_images_come_from_what_no_part_uses_or_else_from_the_held_out():
    images = numbered(20)
    parts = split(images, 5)
    left, chosen = split_tuning(images, parts, 4)
    assert len(chosen) == 4
    np.testing.assert_array_equal(left.held_out, np.setdiff1d(parts.held_out, chosen))
    spare = Split(calibration=parts.calibration, held_out=parts.held_out[:10])
    left, chosen = split_tuning(images, spare, 5)
    np.testing.assert_array_equal(chosen, parts.held_out[10:])
    np.testing.assert_array_equal(left.held_out, spare.held_out)
    with pytest.raises(DataError, match=r"15 tuning images .* has 15 beside .*one of which must be held out"):
        split_tuning(images, parts, 15)
    with pytest.raises(DataError, match="`count` is 0"):
        split_tuning(images, parts, 0)


def test_too_few_images_in_the_training_part(parts_tree):
    with pytest.raises(DataError, match=r"part `train` of .* holds 8"):
        split(open_images(parts_tree, RAW), 9)
