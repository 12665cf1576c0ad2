from __future__ import annotations

import numpy as np
import pytest

from ggdjax._errors import DataError
from ggdjax.data import ImageSet, Preprocessing, digits, from_arrays, open_images

RAW = Preprocessing(scale=1.0)
GREY = Preprocessing(scale=1.0, colour_order="GRAY", layout="NHWC")


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (10, 6, 6, 3), dtype=np.uint8)


def test_npz_equals_arrays(tmp_path, pixels):
    path = tmp_path / "set.npz"
    label = np.arange(10)
    np.savez_compressed(path, image=pixels, label=label)
    images = open_images(path, RAW)
    assert isinstance(images, ImageSet)
    x, y = next(images.batches())
    np.testing.assert_array_equal(x, np.moveaxis(pixels, -1, 1).astype(np.float32))
    np.testing.assert_array_equal(y, label)
    np.testing.assert_array_equal(x, next(from_arrays(pixels, label, RAW).batches())[0])
    assert images.ids == [str(i) for i in range(10)]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float32, np.float64])
def test_any_real_type(pixels, dtype):
    x, _ = next(from_arrays(pixels.astype(dtype), np.zeros(10, np.int64), RAW).batches())
    np.testing.assert_array_equal(x, np.moveaxis(pixels, -1, 1).astype(np.float32))


@pytest.mark.parametrize("axis", [False, True])
def test_grey_images_with_and_without_a_channel_axis(axis):
    image = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)
    images = from_arrays(image if axis else image[..., 0], np.zeros(2, np.int32), GREY)
    np.testing.assert_array_equal(next(images.batches())[0], image)


def test_array_images_are_resized_as_files_are(pixels):
    x, _ = next(from_arrays(pixels, np.zeros(10, np.int32), Preprocessing(size=3)).batches())
    assert x.shape == (10, 3, 3, 3)


LABEL = np.zeros(4, np.int64)


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (
            np.zeros((4, 6, 6, 1), np.uint8),
            LABEL,
            r"shape \(4, 6, 6, 1\), expected \[images, height, width, 3\]",
        ),
        (np.zeros((4, 3, 6, 6), np.uint8), LABEL, "move the channels last"),
        (np.zeros((4, 6, 6), np.uint8), LABEL, "expected"),
        (np.zeros((4, 6, 6, 4), np.uint8), LABEL, "expected"),
        (np.zeros((4, 6, 6, 3), bool), LABEL, "is bool"),
        (np.zeros((4, 6, 6, 3), np.uint8), LABEL[:3], "`label`"),
        (np.zeros((4, 6, 6, 3), np.uint8), LABEL.astype(np.float32), "integers"),
        (np.zeros((4, 6, 6, 3), np.uint8), LABEL - 1, "holds the label -1"),
        (np.zeros((4, 6, 6, 3), np.uint8), LABEL + 2**32, "holds the label 4294967296"),
        (np.zeros((0, 6, 6, 3), np.uint8), LABEL[:0], "no images"),
    ],
)
def test_arrays_that_do_not_fit(image, label, message):
    with pytest.raises(DataError, match=message):
        from_arrays(image, label, RAW)


@pytest.mark.parametrize("ids", [["a", "b"], ["a", "b", "c", "c"]])
def test_names_that_do_not_fit(ids):
    with pytest.raises(DataError, match="`ids` of `arrays`"):
        from_arrays(np.zeros((4, 6, 6, 3), np.uint8), LABEL, RAW, ids=ids)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(bad):
    image = np.zeros((3, 4, 4, 3), np.float32)
    image[1, 2, 3, 0] = bad
    with pytest.raises(DataError, match=r"image `1` of `arrays` holds NaN or infinity"):
        list(from_arrays(image, LABEL[:3], RAW).batches())


def save_npy(path):
    with path.open("wb") as stream:
        np.save(stream, LABEL)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.write_bytes(b"no archive"), "cannot be read"),
        (lambda p: p.write_bytes(b""), "cannot be read"),
        (save_npy, "is one array"),
        (lambda p: np.savez(p, image=LABEL), "holds image, but no `label`"),
        (lambda p: np.savez(p, x=LABEL), "no `image` and no `label`"),
        (lambda p: np.savez(p, image=np.array([{}], object), label=LABEL[:1]), "cannot be read"),
    ],
)
def test_a_file_that_is_no_npz(tmp_path, write, message):
    path = tmp_path / "set.npz"
    write(path)
    with pytest.raises(DataError, match=message) as error:
        open_images(path, RAW)
    assert "\n" not in str(error.value)


def test_a_truncated_npz(tmp_path, pixels):
    path = tmp_path / "set.npz"
    np.savez(path, image=pixels, label=np.arange(10))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="cannot be read"):
        open_images(path, RAW)


def test_digits_are_fixed_for_good():
    images = digits()
    sizes = {name: len(part) for name, part in images.parts.items()}
    assert sizes == {"train": 785, "calibration": 512, "test": 500}
    assert len(np.unique(np.concatenate(list(images.parts.values())))) == len(images) == 1797
    # The first images of each part, written down: a new numpy or Python must not move them.
    assert {name: part[:4].tolist() for name, part in images.parts.items()} == FIRST_DIGITS
    x, y = next(images.batches(images.parts["test"], 500))
    assert (x.shape, x.dtype, x.min(), x.max()) == ((500, 8, 8, 1), np.float32, 0.0, 1.0)
    assert np.bincount(y).min() >= 40


FIRST_DIGITS = {"train": [0, 3, 5, 6], "calibration": [7, 10, 13, 15], "test": [1, 2, 4, 9]}
