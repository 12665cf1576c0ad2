"""Which images calibrate and which are held out: disjoint, fixed by a seed and the ids, and recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import DataError, refusal
from ggdjax.data._image_set import expect_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int

    from ggdjax.data._image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class Split:
    """Disjoint indices into an image set, each in rising order."""

    calibration: Int[np.ndarray, " image"]
    held_out: Int[np.ndarray, " image"]
    seed: int | None = None
    """The seed that chose them; None where they were named."""

    def to_dict(self, images: ImageSet) -> dict[str, Any]:
        """Return the record for a run's JSON: seed and the ids of both parts."""
        return {
            "seed": self.seed,
            "calibration_ids": [images.ids[i] for i in self.calibration],
            "held_out_ids": [images.ids[i] for i in self.held_out],
        }


def hash_order(ids: Sequence[str], seed: int) -> Int[np.ndarray, " image"]:
    """Return the indices of ``ids`` in an order that looks random and depends on the seed and each id only.

    Sorting by SHA-256 of seed and id needs no random generator whose stream a new version may change, and the
    choice does not move when other images are added or listed in another order.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise refusal("ids", ids, "a list of texts", error=DataError)
    keys = [hashlib.sha256(f"{seed}/{id_}".encode()).digest() for id_ in ids]
    return np.asarray(sorted(range(len(ids)), key=keys.__getitem__), np.int64)


def split(images: ImageSet, calibration_images: int = 512, seed: int = 0) -> Split:
    """Choose ``calibration_images`` images by ``seed``; hold out the rest.

    They come from the part `calibration` where the set has one, else from `train`, else from the whole set.
    Held out is the part `test` where the set has one, else every image that does not calibrate.

    Raises:
        DataError: fewer images than asked for, or none left to hold out.

    Example:
        >>> parts = gd.data.split(gd.data.digits(), calibration_images=100)
        >>> len(parts.calibration), len(parts.held_out)
        (100, 500)
    """
    expect_images("images", images)
    if calibration_images < 1:
        raise DataError(f"`calibration_images` is {calibration_images}, expected at least 1")
    everything = np.arange(len(images))
    part = next((p for p in ("calibration", "train") if p in images.parts), None)
    candidates = everything if part is None else np.asarray(images.parts[part])
    if len(candidates) < calibration_images:
        where = f"part `{part}` of `{images.name}`" if part else f"`{images.name}`"
        raise DataError(
            f"`calibration_images` is {calibration_images}, but {where} holds {len(candidates)}: ask for "
            "fewer or give more"
        )
    order = hash_order([images.ids[i] for i in candidates.tolist()], seed)
    calibration = np.sort(candidates[order[:calibration_images]])
    return _checked(images, calibration, _others(images, calibration), seed)


def split_by_ids(images: ImageSet, calibration: Iterable[str], held_out: Iterable[str] | None = None) -> Split:
    """Calibrate on the images named by id; hold out those named.

    Without ``held_out`` it is as in `split`: the part `test` where the set has one, else every image that does not
    calibrate.

    Raises:
        DataError: an unknown id, an image in both parts, or an empty part.
    """
    expect_images("images", images)
    index_of = {id_: i for i, id_ in enumerate(images.ids)}

    def find(ids: Iterable[str], argument: str) -> np.ndarray:
        if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
            raise refusal(argument, ids, "a list of ids", error=DataError)
        wanted = list(ids)
        unknown = [id_ for id_ in wanted if id_ not in index_of]
        if unknown:
            raise DataError(
                f"`{argument}` names {len(unknown)} images that `{images.name}` does not hold, first `{unknown[0]}`: "
                f"its ids are like `{images.ids[0]}`"
            )
        return np.unique(np.asarray([index_of[id_] for id_ in wanted], np.int64))

    chosen = find(calibration, "calibration")
    rest = _others(images, chosen) if held_out is None else find(held_out, "held_out")
    return _checked(images, chosen, rest, None)


def split_every(images: ImageSet, period: int = 10, first: int = 5) -> Split:
    """Calibrate on the images first, first + period, …; hold out all others.

    With the defaults, 5, 15, …, 995 of the 1,000-image ImageNet sample calibrate and the other 900 are held
    out.

    Raises:
        DataError: a period or first image that leaves a part empty.
    """
    expect_images("images", images)
    if period < 2 or not 0 <= first < len(images):
        raise DataError(
            f"`period` is {period} and `first` {first}, expected at least 2 and an image of 0 to {len(images) - 1}"
        )
    calibration = np.arange(first, len(images), period)
    return _checked(images, calibration, np.setdiff1d(np.arange(len(images)), calibration), None)


def split_tuning(images: ImageSet, parts: Split, count: int, seed: int = 0) -> tuple[Split, Int[np.ndarray, " image"]]:
    """Choose ``count`` images to tune on, by ``seed``: none of them calibrates or is held out.

    They are images that no part uses yet (the rest of ``train``) where there are any, else some of the held-out ones.

    Returns:
        The split without the tuning images, and their indices in rising order.

    Raises:
        DataError: fewer images than asked for, or none left to hold out.
    """
    expect_images("images", images)
    if count < 1:
        raise DataError(f"`count` is {count}: at least 1 tuning image is needed")
    free = np.setdiff1d(np.arange(len(images)), np.concatenate([parts.calibration, parts.held_out]))
    source = free if free.size else parts.held_out
    if len(source) < count + (0 if free.size else 1):
        raise DataError(
            f"{count} tuning images are wanted, but `{images.name}` has {len(source)} beside those that calibrate"
            + (" and are held out" if free.size else ", one of which must be held out")
        )
    order = hash_order([images.ids[i] for i in source], seed)
    chosen = np.sort(source[order[:count]])
    held_out = np.setdiff1d(parts.held_out, chosen)
    return Split(calibration=parts.calibration, held_out=held_out, seed=parts.seed), chosen


def _others(images: ImageSet, calibration: np.ndarray) -> np.ndarray:
    """Return what is held out by default: a network may have been trained on all that is not `test`."""
    return np.setdiff1d(images.parts.get("test", np.arange(len(images))), calibration)


def _checked(images: ImageSet, calibration: np.ndarray, held_out: np.ndarray, seed: int | None) -> Split:
    both = np.intersect1d(calibration, held_out)
    if both.size:
        raise DataError(f"{both.size} images both calibrate and are held out, first `{images.ids[both[0]]}`")
    for argument, part in (("calibration", calibration), ("held_out", held_out)):
        if not part.size:
            raise DataError(
                f"no images of `{images.name}` are left for `{argument}`: give more images or fewer for the other"
            )
    return Split(calibration=calibration, held_out=held_out, seed=seed)
