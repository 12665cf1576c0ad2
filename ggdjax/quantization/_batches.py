"""Batches: what a caller may give as such, and all of one size, so that each program compiles once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import DataError, GgdjaxError, expect_array, is_image_set, kinds_of, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Shaped


_NO_MAPPING = "take out of each batch what it holds: `((b['image'], b['label']) for b in batches)`"


def pad_batch(rows: Shaped[np.ndarray, "row ..."], size: int) -> Shaped[np.ndarray, "{size} ..."]:
    """Return up to ``size`` rows, at least one, padded with copies of the first to ``size``."""
    short = size - len(rows)
    return np.concatenate([rows, np.repeat(rows[:1], short, axis=0)]) if short else rows


def batches_of(
    images: Shaped[np.ndarray, "image ..."], size: int
) -> Iterator[tuple[Shaped[np.ndarray, "{size} ..."], int]]:
    """Yield all images in batches of ``size``, and how many rows of each are images: the last one is padded.

    Raises:
        GgdjaxError: ``size``, a caller's ``batch_size``, is less than 1.
    """
    if size < 1:
        raise GgdjaxError(f"`batch_size` must be at least 1, got {size}")
    for first in range(0, len(images), size):
        batch = images[first : first + size]
        yield pad_batch(batch, size), len(batch)


def image_batches(batches: Any, rank: int) -> Iterator[Any]:
    """Yield the images of every batch: arrays, or pairs of (images, labels), whose labels, of any kind, are left out.

    Args:
        batches: an iterable of batches, one batch by itself, or an image set, which gives all its images.
        rank: of the network's input.

    Raises:
        DataError: it is none of these.
    """
    for batch in _iterated(batches, rank, "an iterable of image batches"):
        if isinstance(batch, Mapping):
            raise refusal("batches", batch, "batches of images", _NO_MAPPING, DataError)
        pair = isinstance(batch, tuple | list) and len(batch) == 2 and _rank(batch[0]) == rank
        yield expect_array("batches", batch[0] if pair else batch, "batches of images", error=DataError)


def labelled_batches(
    batches: Any, rank: int | None = None, *, classes: bool = True
) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield pairs of (images, labels): what `image_batches` takes, but arrays without labels.

    Args:
        batches: an iterable of pairs, one pair by itself, or an image set.
        rank: of the network's input; None: not known.
        classes: whether labels are class indices; otherwise targets of any shape, with one row per image.

    Raises:
        DataError: it is none of these, or labels are no integers.
    """
    wanted = "batches of (images, labels)" if classes else "batches of (images, targets)"
    if not classes and isinstance(batches, tuple | list) and len(batches) == 2 and all(map(_rank_of_array, batches)):
        batches = [batches]
    for batch in _iterated(batches, rank, wanted):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            hint = _NO_MAPPING if isinstance(batch, Mapping) else "each batch is a pair"
            raise refusal("batches", batch, wanted, hint, DataError)
        images, labels = (expect_array("batches", part, wanted, least_rank=1, error=DataError) for part in batch)
        labels = np.asarray(labels)
        if classes and labels.size and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
            raise DataError(f"labels are {labels.dtype} of shape {labels.shape}; expected one class index per image")
        yield images, labels


def _rank_of_array(value: Any) -> int:
    return getattr(value, "ndim", 0)


def _iterated(batches: Any, rank: int | None, wanted: str) -> Iterable[Any]:
    if is_image_set(batches):
        return batches.batches()
    if kinds_of(batches) or isinstance(batches, str | bytes | dict) or not isinstance(batches, Iterable):
        raise refusal("batches", batches, wanted, error=DataError)
    if (rank is not None and getattr(batches, "ndim", None) == rank) or _is_pair(batches):
        return [batches]
    return batches


def _is_pair(batch: Any) -> bool:
    """Whether ``batch`` is (images, labels) and not two batches of images: labels have one axis."""
    ranks = [getattr(part, "ndim", 0) for part in batch] if isinstance(batch, tuple | list) and len(batch) == 2 else [0]
    return len(ranks) == 2 and ranks[0] > 1 and ranks[1] == 1


def _rank(images: Any) -> int | None:
    """Return the number of axes of an array, or of nested lists of numbers; None for anything else."""
    try:
        return images.ndim if hasattr(images, "ndim") else np.ndim(images)
    except Exception:  # ragged lists, and whatever an object's own conversion raises
        return None
