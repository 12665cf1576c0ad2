"""Any image classification set that TensorFlow Datasets has prepared, read without TensorFlow."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import DataError, expect, near_matches, refusal
from ggdjax.data._image_set import UNREADABLE_SHARE, StreamedImages
from ggdjax.data._pixels import decode
from ggdjax.data._tfrecord import TfRecords

if TYPE_CHECKING:
    from os import PathLike

    from jaxtyping import Int, UInt8

    from ggdjax.data._preprocessing import Preprocessing

PREFIX = "tfds:"
#: Split name -> part, the preferred one first where two splits could be the held-out part.
_PARTS = (("train", "train"), ("test", "test"), ("validation", "test"))
#: Labels are read in tasks of this many records.
_CHUNK = 256


class TfdsImages(StreamedImages):
    """The records of one or several splits of a prepared set, one after the other.

    Ids are `split/number`: the number is the record's place in the split, which TFDS fixes when a version of a set is
    prepared. An image's label stands in its record, so the labels of a stream cost nothing; `labels`, those of the
    whole set, are read through once when they are asked for.
    """

    def __init__(
        self,
        name: str,
        sources: dict[str, Any],
        keys: tuple[str, str],
        classes: list[str],
        parts: dict[str, Int[np.ndarray, " part"]],
        preprocessing: Preprocessing,
        unreadable_share: float,
    ):
        self.name = name
        self.preprocessing = preprocessing
        self.classes = classes
        self.parts = parts
        self.unreadable_share = unreadable_share
        self.unreadable = {}
        self.ids = [f"{split}/{i}" for split, source in sources.items() for i in range(len(source))]
        self._sources = list(sources.values())
        self._starts = np.cumsum([0, *(len(source) for source in self._sources)])
        self._image, self._label = keys

    @property
    def label_range(self) -> tuple[int, int]:
        """Return the smallest and the largest label that the set declares."""
        offset = self.preprocessing.label_offset
        return offset, len(self.classes or ()) - 1 + offset

    @cached_property
    def labels(self) -> Int[np.ndarray, " image"]:
        """Return the label of every image: the first use reads all records (without decoding them)."""

        def read(start: int) -> np.ndarray:
            places = range(start, min(start + _CHUNK, len(self)))
            return np.asarray([self._record(i)[self._label] for i in places], np.int32)

        with ThreadPoolExecutor() as pool:
            chunks = list(pool.map(read, range(0, len(self), _CHUNK)))
        return np.concatenate(chunks) + np.int32(self.preprocessing.label_offset)

    def load(self, index: int) -> UInt8[np.ndarray, "height width chan"]:
        """Return the pixels of image ``index`` after resize and crop, or raise `UnreadableImage`."""
        return self.load_labelled(index)[0]

    def load_labelled(self, index: int) -> tuple[UInt8[np.ndarray, "height width chan"], int]:
        """Return the pixels and the label of image ``index``, or raise `UnreadableImage`."""
        record = self._record(index)
        pixels = decode(io.BytesIO(record[self._image]), self.preprocessing)
        return pixels, int(record[self._label]) + self.preprocessing.label_offset

    def _record(self, index: int) -> dict[str, Any]:
        place = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._sources[place][index - int(self._starts[place])]


def open_tfds(
    spec: str,
    preprocessing: Preprocessing,
    *,
    data_dir: str | PathLike[str] | None = None,
    unreadable_share: float = UNREADABLE_SHARE,
) -> TfdsImages:
    """Open a prepared set of TensorFlow Datasets; TensorFlow is neither needed nor imported.

    Args:
        spec: `NAME`, `NAME/CONFIG`, with `:VERSION` if wanted (else the newest prepared one), and `/SPLIT` for one
            split alone: `cifar10`, `cifar10:3.0.2/test`, `imagenette/320px-v2/validation`. Without a split, the parts
            are `train` and, as `test`, the split test, or validation where no labelled test is.
        preprocessing: how an image becomes an input.
        data_dir: where the sets lie; default `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.
        unreadable_share: share of unreadable images, 0 to 1, above which a stream stops.

    Raises:
        DataError: a set that is not prepared (the message says what to run), or prepared in a format without random
            access, an unknown split, or features that are no images with one label.
    """
    if not isinstance(spec, str):
        raise refusal("spec", spec, "the name of a set", error=DataError)
    expect("preprocessing", preprocessing, "Preprocessing", error=DataError)
    builder, wanted = _find(spec, data_dir)
    name = PREFIX + builder.info.full_name
    keys, classes = _features(builder.info.features, builder.info.supervised_keys, name)
    splits = [wanted] if wanted is not None else [split for split, _ in _PARTS if split in builder.info.splits]
    known = [str(split) for split in builder.info.splits]
    if not splits or splits[0] not in known:
        raise DataError(f"`{name}` has no split `{wanted or 'train'}`: {near_matches(wanted or 'train', known)}")
    sources = {split: _source(builder, split, keys[0], name) for split in splits}
    # The test split of some sets (ImageNet's) has no labels: they are −1.
    labelled = {s: source for s, source in sources.items() if len(source) and int(source[0][keys[1]]) >= 0}
    if not labelled:
        raise DataError(f"`{name}` has no labels in {', '.join(splits)}: give another split ({', '.join(known)})")
    if wanted is None and {"test", "validation"} <= labelled.keys():
        del labelled["validation"]
    parts, start = {}, 0
    if wanted is None:
        for split, source in labelled.items():
            parts[dict(_PARTS)[split]] = np.arange(start, start + len(source))
            start += len(source)
    return TfdsImages(name, labelled, keys, classes, parts, preprocessing, unreadable_share)


def _find(spec: str, data_dir: str | PathLike[str] | None) -> tuple[Any, str | None]:
    """Return the builder of the prepared set and the split that ``spec`` names, None for all."""
    from tensorflow_datasets.core.read_only_builder import builder_from_files
    from tensorflow_datasets.core.registered import DatasetNotFoundError
    from tensorflow_datasets.core.utils.file_utils import list_data_dirs

    if not spec:
        raise DataError(f"`{PREFIX}` names no set: say {PREFIX}NAME, such as {PREFIX}mnist")
    where = None if data_dir is None else str(data_dir)
    set_name, _, last = spec.rpartition("/")
    for name, split in ((spec, None), (set_name, last)):
        try:
            if name:
                return builder_from_files(name, data_dir=where), split
        except (DatasetNotFoundError, ValueError):
            continue
    folder = str(list_data_dirs(given_data_dir=where)[0])
    raise DataError(
        f"the set `{spec}` is not prepared in {folder}: "
        f"{_prepare_command(set_name if last in dict(_PARTS) else spec, data_dir)}"
    )


def _prepare_command(name: str, data_dir: str | PathLike[str] | None) -> str:
    # Not the command `tfds`, which in version 4.9.10 needs Apache Beam as well.
    there = "" if data_dir is None else f", data_dir='{data_dir}'"
    made = f"tfds.builder('{name}'{there}).download_and_prepare()"
    return f"run `pip install 'ggdjax[prepare]'` and `python -c \"import tensorflow_datasets as tfds; {made}\"`"


class _Records:
    """The records of one split, with the image still encoded: random access to ArrayRecord or TFRecord files."""

    def __init__(self, builder: Any, split: str, image_key: str):
        import tensorflow_datasets as tfds

        self._decoders = {image_key: tfds.decode.SkipDecoding()}
        self._features = builder.info.features
        described = builder.info.splits[split]
        if builder.info.file_format is tfds.core.FileFormat.TFRECORD:
            self._bytes = TfRecords([Path(file) for file in described.filepaths], described.shard_lengths)
        else:
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            self._bytes = builder.as_data_source(split, deserialize_method=raw)

    def __len__(self) -> int:
        return len(self._bytes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._features.deserialize_example_np(self._bytes[index], decoders=self._decoders)


def _source(builder: Any, split: str, image_key: str, name: str) -> _Records:
    try:
        return _Records(builder, split, image_key)
    except NotImplementedError:
        raise DataError(
            f"`{name}` is prepared as {builder.info.file_format.value}, expected array_record or tfrecord: prepare it "
            f"anew after removing {builder.data_path}"
        ) from None


def _features(features: Any, supervised: tuple[str, ...] | None, name: str) -> tuple[tuple[str, str], list[str]]:
    """Return the names of the image's and the label's feature, and the classes."""
    import tensorflow_datasets as tfds

    image, label = supervised if supervised is not None and len(supervised) == 2 else ("image", "label")
    held = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    pixels, classes = held.get(image), held.get(label)
    if not (
        isinstance(pixels, tfds.features.Image)
        and isinstance(classes, tfds.features.ClassLabel)
        and pixels.np_dtype == np.uint8
    ):
        raise DataError(
            f"`{name}` holds {', '.join(sorted(held)) or 'no named features'}, expected 8-bit images with one label "
            "each: give a classification set"
        )
    return (image, label), [str(c) for c in classes.names]
