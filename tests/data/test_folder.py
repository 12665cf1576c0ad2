from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ggdjax._errors import DataError
from ggdjax.data import ImageSet, Preprocessing, open_images, padded
from ggdjax.data._image_set import check_labels

RAW = Preprocessing(scale=1.0)


def test_class_folders_number_sorted_names(class_tree):
    images = open_images(class_tree, RAW)
    assert isinstance(images, ImageSet)
    assert images.classes == ["ant", "bee", "cat"]
    assert images.ids == [f"{c}/{n}.png" for c in ("ant", "bee", "cat") for n in range(4)]
    np.testing.assert_array_equal(images.labels, np.repeat([0, 1, 2], 4))
    assert not images.parts


def test_parts_come_from_train_and_test(parts_tree):
    images = open_images(parts_tree, RAW)
    assert {name: len(part) for name, part in images.parts.items()} == {"train": 8, "test": 4}
    assert all(images.ids[i].startswith("test/") for i in images.parts["test"])
    np.testing.assert_array_equal(images.labels[images.parts["train"]], np.repeat([0, 1], 4))


def test_parts_must_have_the_same_classes(parts_tree, write_image):
    write_image(parts_tree / "test" / "cow" / "0.png")
    with pytest.raises(DataError, match=r"`train` has no folder for 1 of 3 classes \(first `cow`\)"):
        open_images(parts_tree, RAW)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 12, 100])
def test_every_batching_gives_the_same_images(class_tree, batch_size):
    images = open_images(class_tree, RAW)
    batches = list(images.batches(batch_size=batch_size))
    assert [len(y) for _, y in batches[:-1]] == [batch_size] * (len(batches) - 1)
    x, y = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert (x.dtype, y.dtype, x.shape) == (np.float32, np.int32, (12, 3, 8, 8))
    np.testing.assert_array_equal(x[:, 0, 0, 0], 10 * y + np.tile(np.arange(4), 3))


def test_batches_keep_the_order_of_the_indices(class_tree):
    images = open_images(class_tree, RAW)
    order = [11, 0, 5, 5]
    x, y = next(images.batches(order, 10))
    np.testing.assert_array_equal(x[:, 0, 0, 0], [23, 0, 11, 11])
    np.testing.assert_array_equal(y, images.labels[order])


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_number_of_threads_changes_nothing(class_tree, workers):
    images = open_images(class_tree, RAW)
    x, _ = next(images.batches(None, 12, workers=workers))
    np.testing.assert_array_equal(x[:, 0, 0, 0] % 10, np.tile(np.arange(4), 3))


def test_the_stream_runs_a_bounded_way_ahead(tmp_path, write_image):
    for number in range(400):
        write_image(tmp_path / "a" / f"{number:03d}.png", 0, (2, 2))
    images = open_images(tmp_path, RAW)
    loaded = []
    inner = images.load
    images.load = lambda index: (loaded.append(index), inner(index))[1]
    stream = images.batches(batch_size=20, workers=2)
    next(stream)
    stream.close()
    assert len(loaded) <= 20 + 128 + 16
    assert sum(len(y) for _, y in images.batches(batch_size=20)) == 400


def test_labels_follow_the_label_offset(class_tree):
    images = open_images(class_tree, Preprocessing(label_offset=1))
    assert set(images.labels) == {1, 2, 3}
    check_labels(images, 4)
    with pytest.raises(DataError, match=r"4 of 12 .*3 classes.*`cat/0.png` with class 2 \(`label_offset` 1\)"):
        check_labels(images, 3)


def test_padding_fills_the_last_batch(class_tree):
    images = open_images(class_tree, RAW)
    rows = list(padded(images.batches(batch_size=5), 5))
    assert [len(x) for x, _, _ in rows] == [5, 5, 5]
    assert [count for _, _, count in rows] == [5, 5, 2]
    x, y, count = rows[-1]
    np.testing.assert_array_equal(y[count:], -1)
    np.testing.assert_array_equal(x[count:], np.repeat(x[count - 1 : count], 3, axis=0))


def test_hidden_and_foreign_files_are_ignored(class_tree):
    (class_tree / "ant" / ".hidden.png").write_bytes(b"")
    (class_tree / "ant" / "notes.txt").write_text("x")
    (class_tree / ".thumbs").mkdir()
    assert len(open_images(class_tree, RAW)) == 12


# --- bad input: one clear line each ---


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_unreadable_images_are_counted_and_named_up_to_a_share(class_tree):
    (class_tree / "bee" / "2.png").write_bytes(b"no image")
    images = open_images(class_tree, RAW, unreadable_share=0.1)
    x, y = next(images.batches(None, 12))
    assert x.shape[0] == 11
    assert list(y).count(1) == 3
    assert images.unreadable == {"bee/2.png": "cannot identify image file"}


def test_more_unreadable_images_than_the_share_stop_the_stream(class_tree):
    whole = (class_tree / "bee" / "2.png").read_bytes()
    (class_tree / "bee" / "2.png").write_bytes(whole[: len(whole) // 2])
    images = open_images(class_tree, RAW)
    with pytest.raises(DataError, match=r"1 unreadable of 12.*1\.00%.*bee/2\.png") as error:
        list(images.batches())
    one_line(error)


def test_a_file_that_vanishes_is_unreadable(class_tree):
    images = open_images(class_tree, RAW)
    (class_tree / "ant" / "0.png").unlink()
    with pytest.raises(DataError, match=r"ant/0\.png"):
        list(images.batches())


@pytest.mark.parametrize("batch_size", [1, 4, 12])
def test_different_sizes_need_a_resize(class_tree, batch_size, write_image):
    write_image(class_tree / "cat" / "9.png", 0, (9, 9))
    images = open_images(class_tree, RAW)
    if batch_size > 1:
        with pytest.raises(DataError, match="different sizes: give `size`"):
            list(images.batches(batch_size=batch_size))
    assert len(list(open_images(class_tree, Preprocessing(size=8)).batches())) == 1


def test_an_image_smaller_than_the_crop_is_named(class_tree):
    images = open_images(class_tree, Preprocessing(crop=9))
    with pytest.raises(DataError, match=r"`ant/0\.png`.*`crop` = 9"):
        list(images.batches())


def test_an_image_of_too_many_pixels_is_unreadable(class_tree, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8)
    with pytest.raises(DataError, match=r"unreadable .*exceeds limit"):
        list(open_images(class_tree, RAW).batches())


@pytest.mark.parametrize("indices", [[12], [-1], [0, 99], [True, False], [0.5]])
def test_indices_outside_the_set(class_tree, indices):
    with pytest.raises(DataError, match=r"`indices` holds"):
        open_images(class_tree, RAW).batches(indices)


def test_batch_size_must_be_positive(class_tree):
    with pytest.raises(DataError, match="`batch_size` is 0"):
        open_images(class_tree, RAW).batches(None, 0)


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        open_images(tmp_path / "none", RAW)


@pytest.mark.parametrize("inside", [[], ["a", "b"], ["train/a", "test/a"]])
def test_an_empty_folder(tmp_path, inside):
    for name in inside:
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(DataError, match="holds no images"):
        open_images(tmp_path, RAW)


def test_a_flat_folder_without_labels(tmp_path, write_image):
    write_image(tmp_path / "0.png")
    with pytest.raises(DataError, match=r"no `labels\.csv`"):
        open_images(tmp_path, RAW)


def test_an_unsupported_kind_of_file(tmp_path):
    path = tmp_path / "images.hdf5"
    path.write_bytes(b"x")
    with pytest.raises(DataError, match="is no image set"):
        open_images(path, RAW)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_0_to_1(class_tree, share):
    with pytest.raises(DataError, match="`unreadable_share`"):
        open_images(class_tree, RAW, unreadable_share=share)


# --- labels.csv ---


def flat_folder(write_image, root, text: str):
    for number, file in enumerate(("a.png", "b.png")):
        write_image(root / file, number)
    (root / "labels.csv").write_text(text)
    return root


@pytest.mark.parametrize(
    "text",
    [
        "file,label\nb.png,7\na.png,3\n",
        "file,index,name\nb.png,7,x\na.png,3,y\n",
        "name,label,index,filename\nx,7,0,b.png\ny,3,0,a.png\n",
        "\ufefffile,label\r\nb.png,7\r\na.png,3\r\n",
    ],
)
def test_labels_csv_gives_order_and_labels(tmp_path, text, write_image):
    images = open_images(flat_folder(write_image, tmp_path, text), RAW)
    assert images.ids == ["b.png", "a.png"]
    np.testing.assert_array_equal(images.labels, [7, 3])
    x, _ = next(images.batches())
    np.testing.assert_array_equal(x[:, 0, 0, 0], [1, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has columns none"),
        (
            "picture,label\na.png,1\n",
            "columns picture, label, but none for the image's file: expected `file`",
        ),
        ("file,class\na.png,1\n", "none for its class: expected `label` or `index`"),
        ("file,label\n", "names no images"),
        ("file,label\na.png,one\n", "line 2: `label` is 'one'"),
        ("file,label\na.png\n", "line 2: `label` is None"),
        ("label,file\n1\n", "line 2 names no file: give one in column `file`"),
        ("file,label\na.png,-1\n", "holds the label -1"),
        ("file,label\na.png,99999999999\n", "holds the label 99999999999"),
        ("file,label\na.png,1\na.png,1\n", "1 files more than once, first `a.png`"),
        ("file,label\na.png,1\nc.png,1\n", "names 1 of 2 files that are not there, first `c.png`"),
    ],
)
def test_a_wrong_labels_csv(tmp_path, text, message, write_image):
    with pytest.raises(DataError, match=message) as error:
        open_images(flat_folder(write_image, tmp_path, text), RAW)
    one_line(error)


def test_labels_csv_must_be_text(tmp_path, write_image):
    write_image(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match="cannot be read as comma-separated text"):
        open_images(tmp_path, RAW)
