"""The protocol that every set of images keeps, and the bounded stream that decodes ahead of its consumer.

The stream is by hand, because grain ends at an unreadable image, and tf.data's `ignore_errors` does not say which it
was.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ggdjax._errors import DataError, is_image_set, refusal
from ggdjax.data._pixels import UnreadableImage, to_float

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from jaxtyping import Float, Int, Num

    from ggdjax.data._preprocessing import Preprocessing
    from ggdjax.data._targets import TargetKind

#: Images decoded by one task of the pool: large enough that the pool's own cost (some 20 µs) vanishes beside
#: it.
_CHUNK = 16
#: Images decoded ahead of the consumer, beyond one batch: bounds the memory of a stream, whatever the set's
#: size.
_AHEAD = 128
#: Share of unreadable images that a run survives: a few damaged files change no figure, a damaged set does.
UNREADABLE_SHARE = 0.01
#: Label of the rows that `padded` adds: no network's argmax.
PADDING_LABEL = -1


@runtime_checkable
class ImageSet(Protocol):
    """Labelled images in a fixed order, read as a stream.

    ``labels[i]`` is numbered as the network's outputs (the data's class + ``preprocessing.label_offset``), so
    that a prediction is right where ``argmax == label``; ``ids[i]`` names image i, never changed (a relative path,
    or a number); ``parts`` maps `train`, `calibration`, `test` to index arrays where the set has such parts.
    """

    name: str
    preprocessing: Preprocessing
    labels: Int[np.ndarray, " image"]
    ids: Sequence[str]
    classes: Sequence[str] | None
    parts: Mapping[str, Int[np.ndarray, " part"]]
    unreadable: dict[str, str]

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    @property
    def label_range(self) -> tuple[int, int]:
        """Return the smallest and the largest label."""
        ...

    def load(self, index: int) -> Num[np.ndarray, "height width chan"]:
        """Return the pixels of image ``index`` after resize and crop, or raise `UnreadableImage`."""
        ...

    def batches(
        self, indices: Iterable[int] | None = None, batch_size: int = 100
    ) -> Iterator[tuple[Float[np.ndarray, "batch ..."], Int[np.ndarray, " batch"]]]:
        """Yield (float32 images in the network's layout, int32 labels); the last batch may be short."""
        ...


@dataclass(kw_only=True, eq=False)
class StreamedImages:
    """What all image sets share: everything but `load`."""

    name: str
    preprocessing: Preprocessing
    labels: Int[np.ndarray, " image"]
    ids: Sequence[str]
    classes: Sequence[str] | None = None
    parts: Mapping[str, Int[np.ndarray, " part"]] = field(default_factory=dict)
    unreadable_share: float = UNREADABLE_SHARE
    target_kind: TargetKind = "class"
    """What the batches hold beside the images; ``labels`` are -1 where these are no classes."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Id -> reason of every image that a stream has left out so far."""

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> Num[np.ndarray, "height width chan"]:
        """Return the pixels of image ``index`` after resize and crop, or raise `UnreadableImage`."""
        raise NotImplementedError

    def load_labelled(self, index: int) -> tuple[Num[np.ndarray, "height width chan"], Any]:
        """Return the pixels and the label (or other target) of image ``index``, or raise `UnreadableImage`."""
        return self.load(index), int(self.labels[index])

    def target_mark(self, index: int) -> Any:
        """Return what tells the target of image ``index`` from another, for JSON."""
        return int(self.labels[index])

    @property
    def label_range(self) -> tuple[int, int]:
        """Return the smallest and the largest label."""
        return int(self.labels.min()), int(self.labels.max())

    def batches(
        self, indices: Iterable[int] | None = None, batch_size: int = 100, *, workers: int | None = None
    ) -> Iterator[tuple[Float[np.ndarray, "batch ..."], Num[np.ndarray, "batch ..."]]]:
        """Yield (float32 images in the network's layout, int32 labels numbered as the network's outputs, or targets).

        Decoding runs in ``workers`` threads (default: one per core) ahead of the consumer; at most one batch
        and 128 images are held. Every batch has ``batch_size`` images but the last, which may be short
        (`padded` fills it). Unreadable images are left out and noted in ``unreadable``.

        Args:
            indices: which images, in which order; None: all of them.
            batch_size: images per batch.
            workers: decoding threads.

        Raises:
            DataError: more than ``unreadable_share`` of the indices unreadable, images of different sizes,
                values that are not finite, or an index outside the set.
        """
        order = np.arange(len(self)) if indices is None else np.asarray(list(indices))
        if order.size and order.dtype.kind not in "iu":
            raise DataError(f"`indices` holds {order.dtype}, expected integers (of a mask: `numpy.flatnonzero`)")
        order = order.astype(np.int64)
        if batch_size < 1:
            raise DataError(f"`batch_size` is {batch_size}, expected at least 1")
        if order.size and (order.min() < 0 or order.max() >= len(self)):
            worst = order.max() if order.max() >= len(self) else order.min()
            raise DataError(f"`indices` holds {worst}, but `{self.name}` has images 0 to {len(self) - 1}")
        return self._stream(order, batch_size, workers or os.cpu_count() or 1)

    def _stream(self, order: np.ndarray, batch_size: int, workers: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        allowed, lost = int(self.unreadable_share * order.size), {}
        images: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        held = 0
        for chunk, chunk_labels, failures in self._chunks(order, batch_size, workers):
            lost.update(failures)
            self.unreadable.update(failures)
            if len(lost) > allowed:
                raise DataError(_unreadable_message(self.name, lost, order.size, self.unreadable_share))
            if not len(chunk_labels):
                continue
            if images and chunk.shape[1:] != images[0].shape[1:]:
                raise DataError(sizes_message(self.name))
            if labels and chunk_labels.shape[1:] != labels[0].shape[1:]:
                raise DataError(sizes_message(self.name, "targets"))
            images.append(chunk)
            labels.append(chunk_labels)
            held += len(chunk_labels)
            while held >= batch_size:
                all_images, all_labels = np.concatenate(images), np.concatenate(labels)
                yield all_images[:batch_size], all_labels[:batch_size]
                images, labels = [all_images[batch_size:]], [all_labels[batch_size:]]
                held -= batch_size
        if held:
            yield np.concatenate(images), np.concatenate(labels)

    def _chunks(
        self, order: np.ndarray, batch_size: int, workers: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, str]]]:
        """Yield what `_load_chunk` returns, in order, from a pool that runs a bounded way ahead."""
        chunk_size = min(_CHUNK, batch_size)
        starts = iter(range(0, order.size, chunk_size))
        pending: deque = deque()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="ggdjax-decode")
        try:
            for start in starts:
                pending.append(pool.submit(self._load_chunk, order[start : start + chunk_size]))
                if len(pending) * chunk_size >= _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _load_chunk(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
        pixels, labels, kept, failures = [], [], [], {}
        for index in indices.tolist():
            try:
                image, label = self.load_labelled(index)
                pixels.append(image)
                labels.append(label)
                kept.append(index)
            except UnreadableImage as error:
                failures[self.ids[index]] = str(error)
            except DataError as error:
                raise DataError(f"image `{self.ids[index]}` of `{self.name}`: {error}") from None
        if not pixels:
            return np.empty((0,), np.float32), np.empty((0,), np.int32), failures
        if len({p.shape for p in pixels}) > 1:
            raise DataError(sizes_message(self.name))
        images = to_float(np.stack(pixels), self.preprocessing)
        if pixels[0].dtype.kind == "f" and not np.isfinite(images).all():
            bad = [self.ids[i] for i, image in zip(kept, images, strict=True) if not np.isfinite(image).all()]
            raise DataError(f"image `{bad[0]}` of `{self.name}` holds NaN or infinity: repair or remove it")
        if len({np.shape(label) for label in labels}) > 1:
            raise DataError(sizes_message(self.name, "targets"))
        targets = np.stack(labels)
        return images, targets.astype(np.int32) if targets.dtype.kind in "iu" else targets, failures


def expect_images(argument: str, images: object) -> None:
    """Raise `DataError` unless ``images`` is an image set."""
    if not is_image_set(images):
        hint = "`gd.data.open_images` and `gd.data.from_arrays` return one"
        raise refusal(argument, images, "an image set", hint, DataError)


def padded(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], batch_size: int
) -> Iterator[tuple[Float[np.ndarray, "batch ..."], Int[np.ndarray, " batch"], int]]:
    """Yield (images, labels, count) with exactly ``batch_size`` rows, so that a jitted network compiles once.

    Rows from ``count`` on repeat the last image and carry the label −1, which no argmax equals. An
    observer must still cut them off: a repeated image would count twice in a histogram.
    """
    if not isinstance(batches, Iterable):
        raise refusal("batches", batches, "batches of (images, labels)", error=DataError)
    for batch in batches:
        if not isinstance(batch, tuple | list) or len(batch) != 2 or not all(hasattr(part, "dtype") for part in batch):
            raise refusal("batches", batch, "batches of (images, labels)", error=DataError)
        images, labels = batch
        count = len(labels)
        missing = batch_size - count
        if missing:
            images = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
            padding = np.full((missing, *labels.shape[1:]), PADDING_LABEL, labels.dtype)
            labels = np.concatenate([labels, padding])
        yield images, labels, count


def output_labels(
    classes: Int[np.ndarray, " image"] | Sequence[int], preprocessing: Preprocessing, source: str
) -> Int[np.ndarray, " image"]:
    """Return the data's classes as int32 labels, numbered as the network's outputs; ``source`` names them.

    Raises:
        DataError: a class that is negative, or too large for int32.
    """
    classes, offset = np.asarray(classes), preprocessing.label_offset
    wrong = classes[(classes < 0) | (classes >= 2**31 - max(offset, 0))]
    if wrong.size:
        raise DataError(f"{source} holds the label {wrong[0]}, expected classes from 0 on")
    return classes.astype(np.int32) + np.int32(offset)


def check_labels(images: ImageSet, outputs: int) -> None:
    """Raise DataError unless every label of ``images`` is one of a network's ``outputs`` classes."""
    expect_images("images", images)
    if (kind := getattr(images, "target_kind", "class")) != "class":
        held = "holds no labels" if kind == "none" else f"holds a target of kind {kind!r} per image"
        raise DataError(f"`{images.name}` {held}, where a class per image is needed: choose another `metric`")
    least, most = images.label_range
    if least >= 0 and most < outputs:
        return
    wrong = np.flatnonzero((images.labels < 0) | (images.labels >= outputs))
    if wrong.size:
        offset = images.preprocessing.label_offset
        first, hint = wrong[0], "another `label_offset`"
        if least == 1 and most == outputs:  # numbered from 1
            hint = f"`label_offset` {offset - 1}, by which they are from 0 to {outputs - 1}"
        raise DataError(
            f"{wrong.size} of {len(images)} labels of `{images.name}` are outside the network's {outputs} "
            f"classes, first `{images.ids[first]}` with class {images.labels[first] - offset} "
            f"(`label_offset` {offset}): "
            f"give the network's own data or {hint}"
        )


def _unreadable_message(name: str, lost: dict[str, str], total: int, share: float) -> str:
    shown = ", ".join(f"{id_} ({reason})" for id_, reason in list(lost.items())[:3])
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    return (
        f"stopped after {len(lost)} unreadable of {total} images in `{name}` (more than {share:.2%}): "
        f"{shown}{more}: repair or remove them"
    )


def sizes_message(name: str, what: str = "images") -> str:
    """Return what is said of images, or targets, that do not have one size."""
    return f"`{name}` holds {what} of different sizes: give `size`, or `resize` and `crop`"
