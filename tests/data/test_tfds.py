from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from ggdjax._errors import DataError
from ggdjax.data import Preprocessing, split, split_by_ids
from ggdjax.data._image_set import check_labels
from ggdjax.data._tfds import open_tfds

NHWC = Preprocessing(layout="NHWC")


def encoded(value: int, size: tuple[int, int] = (4, 6)) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(stream, "png")
    return stream.getvalue()


def prepare(folder, name, splits, features=None, keys=("image", "label")):
    """Write a set with TFDS's own writer; encoded images need no TensorFlow."""
    import tensorflow_datasets as tfds

    place = folder / name / "1.0.0"
    place.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(name=name, version="1.0.0", data_dir=str(place), module_name=__name__)
    features = features or {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["cat", "dog", "cow"]),
    }
    info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features), supervised_keys=keys)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=5, file_format="array_record")
    writer.initialize_splits(list(splits))
    for name_, examples in splits.items():
        writer.add_examples({name_: examples})
    writer.close_all()
    return place


def examples(count, first=0, label=None):
    return [{"image": encoded(i), "label": i % 3 if label is None else label} for i in range(first, first + count)]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare(folder, "animals", {"train": examples(12), "test": examples(4, 100)})
    prepare(folder, "unlabelled", {"train": examples(6), "test": examples(2, label=-1), "validation": examples(3, 50)})
    prepare(folder, "three_parts", {"train": examples(3), "test": examples(2, 40), "validation": examples(3, 50)})
    return folder


@pytest.fixture
def animals(data_dir):
    return open_tfds("animals", NHWC, data_dir=data_dir)


def test_the_whole_set_has_its_parts(animals):
    assert animals.name == "tfds:animals/1.0.0"
    assert len(animals) == 16
    assert {name: part.tolist() for name, part in animals.parts.items()} == {
        "train": list(range(12)),
        "test": list(range(12, 16)),
    }
    assert animals.ids[:2] + animals.ids[-1:] == ["train/0", "train/1", "test/3"]
    assert animals.classes == ["cat", "dog", "cow"]
    np.testing.assert_array_equal(animals.labels, [*(i % 3 for i in range(12)), 1, 2, 0, 1])


def test_batches_hold_the_pixels_and_labels_of_the_records(animals):
    order = [15, 0, 7, 12]
    ((images, labels),) = animals.batches(order, 10)
    assert images.shape == (4, 4, 6, 3)
    np.testing.assert_allclose(images[:, 0, 0, 0], np.asarray([103, 0, 7, 100]) / 255, rtol=1e-6)
    np.testing.assert_array_equal(labels, [1, 0, 1, 1])
    # A stream reads the labels of its own images only.
    assert "labels" not in vars(animals)


def test_one_split_and_a_version(data_dir):
    for spec in ("animals/test", "animals:1.0.0/test"):
        images = open_tfds(spec, NHWC, data_dir=data_dir)
        assert images.ids == ["test/0", "test/1", "test/2", "test/3"]
        assert images.parts == {}


def test_the_held_out_part_is_the_labelled_split(data_dir):
    for name, expected in (("unlabelled", "validation/0"), ("three_parts", "test/0")):
        images = open_tfds(name, NHWC, data_dir=data_dir)
        assert images.ids[images.parts["test"][0]] == expected
        assert len(images) == len(images.parts["train"]) + len(images.parts["test"])


def test_calibration_by_seed_and_by_recorded_ids(animals):
    chosen = split(animals, 5, seed=3)
    assert set(chosen.calibration) < set(animals.parts["train"])
    np.testing.assert_array_equal(chosen.held_out, animals.parts["test"])
    record = chosen.to_dict(animals)
    again = split_by_ids(animals, record["calibration_ids"], record["held_out_ids"])
    np.testing.assert_array_equal(again.calibration, chosen.calibration)
    assert all(id_.startswith("train/") for id_ in record["calibration_ids"])


def test_labels_are_checked_without_reading_them(animals, data_dir):
    check_labels(animals, 3)
    assert "labels" not in vars(animals)
    with pytest.raises(DataError, match=r"5 of 16 labels .* first `train/2` with class 2"):
        check_labels(animals, 2)
    shifted = open_tfds("animals", Preprocessing(layout="NHWC", label_offset=1), data_dir=data_dir)
    assert shifted.label_range == (1, 3)
    assert next(shifted.batches([1], 1))[1].tolist() == [2] == [shifted.labels[1]]


def test_open_images_reads_the_default_folder_without_tensorflow(data_dir):
    code = (
        "import sys; from ggdjax.data import Preprocessing, open_images;"
        "images = open_images('tfds:animals/train', Preprocessing());"
        "print(sum(len(y) for _, y in images.batches(None, 5)), 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"TFDS_DATA_DIR": str(data_dir), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["12", "False"]


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("cifar10", "cifar10"),
        ("cifar10/test", "cifar10"),
        ("imagenette/320px-v2", "imagenette/320px-v2"),
        ("animals:2.0.0", "animals:2.0.0"),
    ],
)
def test_a_set_that_is_not_prepared(spec, name, data_dir):
    with pytest.raises(DataError, match="is not prepared in") as error:
        open_tfds(spec, NHWC, data_dir=data_dir)
    made = f"tfds.builder('{name}', data_dir='{data_dir}').download_and_prepare()"
    command = f'`python -c "import tensorflow_datasets as tfds; {made}"`'
    assert f"run `pip install 'ggdjax[prepare]'` and {command}" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_split(data_dir):
    with pytest.raises(DataError, match=r"no split `tests`: did you mean `test`"):
        open_tfds("animals/tests", NHWC, data_dir=data_dir)


def test_a_split_without_labels(data_dir):
    with pytest.raises(DataError, match="no labels in test: give another split"):
        open_tfds("unlabelled/test", NHWC, data_dir=data_dir)


def as_tfrecord(place):
    """Turn a set into TFDS's default format: the same records, each framed by lengths and (here empty) checksums."""
    from array_record.python.array_record_module import ArrayRecordReader

    for file in sorted(place.glob("*.array_record-*")):
        reader = ArrayRecordReader(str(file))
        records = reader.read_all()
        reader.close()
        framed = (struct.pack("<Q4x", len(record)) + record + bytes(4) for record in records)
        (place / file.name.replace("array_record", "tfrecord")).write_bytes(b"".join(framed))
        file.unlink()
    described = (place / "dataset_info.json").read_text()
    (place / "dataset_info.json").write_text(described.replace("array_record", "tfrecord"))


@pytest.fixture(scope="module")
def framed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("framed")
    place = prepare(folder, "animals", {"train": examples(12), "test": examples(4, 100)})
    as_tfrecord(place)
    return place


def test_tfrecord_holds_the_same(framed, animals):
    images = open_tfds("animals", NHWC, data_dir=framed.parents[1])
    assert images.ids == animals.ids
    np.testing.assert_array_equal(images.labels, animals.labels)
    order = [15, 0, 7, 12, 4, 5]
    for ours, theirs in zip(images.batches(order, 4), animals.batches(order, 4), strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("damage", ["cut", "missing", "longer"])
def test_a_damaged_tfrecord(framed, damage, tmp_path):
    place = tmp_path / "animals" / "1.0.0"
    shutil.copytree(framed, place)
    images = open_tfds("animals/train", NHWC, data_dir=tmp_path)
    (file,) = place.glob("*train.tfrecord-00001*")
    whole = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(whole[:-3] if damage == "cut" else whole * 2)
    with pytest.raises(DataError, match=r"image `train/5` .*tfrecord-00001.* is missing or damaged"):
        list(images.batches(range(5, 10)))


def test_a_format_without_random_access(tmp_path):
    place = prepare(tmp_path, "sequential", {"train": examples(2)})
    described = json.loads((place / "dataset_info.json").read_text())
    (place / "dataset_info.json").write_text(json.dumps(described | {"fileFormat": "riegeli"}))
    with pytest.raises(DataError, match=r"prepared as riegeli, expected array_record or tfrecord: prepare it anew"):
        open_tfds("sequential", NHWC, data_dir=tmp_path)


def test_features_that_are_no_classification(tmp_path):
    import tensorflow_datasets as tfds

    features = {"image": tfds.features.Image(shape=(None, None, 3)), "text": tfds.features.Text()}
    prepare(tmp_path, "captions", {"train": [{"image": encoded(1), "text": "one"}]}, features, None)
    with pytest.raises(DataError, match="holds image, text, expected 8-bit images with one label"):
        open_tfds("captions", NHWC, data_dir=tmp_path)


def test_a_damaged_image_is_left_out_and_noted(tmp_path):
    damaged = [*examples(3), {"image": b"no image", "label": 1}]
    prepare(tmp_path, "damaged", {"train": damaged})
    images = open_tfds("damaged", NHWC, data_dir=tmp_path, unreadable_share=0.5)
    assert [len(labels) for _, labels in images.batches(None, 10)] == [3]
    assert images.unreadable == {"train/3": "cannot identify image file"}
    with pytest.raises(DataError, match="stopped after 1 unreadable of 4"):
        list(open_tfds("damaged", NHWC, data_dir=tmp_path, unreadable_share=0.0).batches())
