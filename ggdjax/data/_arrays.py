"""Images held as arrays: an `.npz` file with `image` and `label`, or arrays in memory."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import DataError, expect, expect_array, expect_path
from ggdjax.data._image_set import StreamedImages, output_labels
from ggdjax.data._pixels import reshape
from ggdjax.data._targets import class_map, target_image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from jaxtyping import Int, Num

    from ggdjax.data._preprocessing import Preprocessing
    from ggdjax.data._targets import TargetKind


@dataclass(kw_only=True, eq=False)
class ArrayImages(StreamedImages):
    """Images of one size in one array ``image[n, height, width, chan]``, converted batch by batch."""

    image: Num[np.ndarray, "image height width chan"]
    target: Num[np.ndarray, "image height width *chan"] | None = None

    def load(self, index: int) -> np.ndarray:
        """Return the pixels of image ``index`` after resize and crop."""
        return reshape(self.image[index], self.preprocessing)

    def load_labelled(self, index: int) -> tuple[Num[np.ndarray, "height width chan"], Any]:
        """Return the pixels and the label (or other target) of image ``index``."""
        if self.target is None:
            return super().load_labelled(index)
        size = (self.image.shape[2], self.image.shape[1])
        of_kind = class_map if self.target_kind == "class map" else target_image
        return self.load(index), of_kind(self.target[index], size, self.preprocessing)

    def target_mark(self, index: int) -> Any:
        """Return the label, or a hash of the target."""
        if self.target is None:
            return super().target_mark(index)
        return hashlib.sha256(np.ascontiguousarray(self.target[index]).tobytes()).hexdigest()


def from_arrays(
    image: Num[np.ndarray, "image height width *chan"],
    label: Num[np.ndarray, "image ..."] | None,
    preprocessing: Preprocessing,
    *,
    ids: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    parts: Mapping[str, Int[np.ndarray, " part"]] | None = None,
    name: str = "arrays",
    target_kind: TargetKind | None = None,
) -> ArrayImages:
    """Return arrays in memory as an image set.

    Args:
        image: channels last (RGB), or without a channel axis for grey images; any real type. `resize` and
            `size` need uint8.
        label: the class of each image, integers from 0 on; or a target per image: a class per pixel (integers
            ``[image, height, width]``, 255 does not count) or an image (channels last; becomes ``scale · u``); None:
            there are none.
        preprocessing: its channels must be those of ``image``.
        ids: a name per image, each its own; default: its number.
        classes: a name per class.
        parts: index arrays of the parts `train`, `calibration`, `test`.
        name: how messages call the set.
        target_kind: what ``label`` is, "class", "class map" or "image", or "none": not read; None: by its shape and
            type.

    Raises:
        DataError: shapes, types, labels or names that do not fit.

    Example:
        >>> images = gd.data.from_arrays(np.zeros((3, 8, 8, 3), np.uint8), np.array([0, 1, 2]), gd.data.Preprocessing())
        >>> next(images.batches())[0].shape
        (3, 3, 8, 8)
    """
    expect("preprocessing", preprocessing, "Preprocessing", error=DataError)
    image = np.asarray(expect_array("image", image, "an array of images", error=DataError))
    no_label = label is None or target_kind == "none"
    label = np.full(image.shape[:1], -1) if no_label else label
    label = np.asarray(expect_array("label", label, "an array of classes", error=DataError))
    chan = preprocessing.channels
    if image.dtype.kind not in "uif":
        raise DataError(f"`image` of `{name}` is {image.dtype}, expected numbers (uint8 pixels or floats)")
    if image.ndim == 3 and chan == 1:
        image = image[..., None]
    if image.ndim != 4 or image.shape[-1] != chan:
        expected = f"[images, height, width, {chan}]" + (" or [images, height, width]" if chan == 1 else "")
        hint = ": move the channels last" if image.ndim == 4 and image.shape[1] == chan else ""
        raise DataError(
            f"`image` of `{name}` has shape {image.shape}, expected {expected} for {preprocessing.colour_order}{hint}"
        )
    kind = target_kind or _kind_of(label, no_label)
    target = None
    if kind in ("class map", "image"):
        target, label = _checked_target(label, kind, len(image), chan, name), np.full(len(image), -1)
    if label.shape != image.shape[:1]:
        raise DataError(f"`label` of `{name}` has shape {label.shape}, expected one per image, {image.shape[:1]}")
    if label.dtype.kind not in "ui":
        raise DataError(f"`label` of `{name}` is {label.dtype}, expected integers")
    if not len(image):
        raise DataError(f"`{name}` holds no images, expected at least one")
    ids = [str(i) for i in range(len(image))] if ids is None else ids
    if not len(ids) == len(set(ids)) == len(image):
        raise DataError(
            f"`ids` of `{name}` holds {len(set(ids))} different names, expected one per image, {len(image)}"
        )
    return ArrayImages(
        name=name,
        image=image,
        preprocessing=preprocessing,
        labels=output_labels(label, preprocessing, f"`label` of `{name}`")
        if kind == "class"
        else label.astype(np.int32),
        ids=ids,
        classes=classes,
        parts=dict(parts or {}),
        target_kind=kind,
        target=target,
    )


def _kind_of(label: np.ndarray, missing: bool) -> TargetKind:
    if missing:
        return "none"
    if label.ndim < 3:
        return "class"
    return "class map" if label.ndim == 3 and label.dtype.kind in "ui" else "image"


def _checked_target(target: np.ndarray, kind: TargetKind, count: int, chan: int, name: str) -> np.ndarray:
    """Return the targets, with an axis of channels where they are images."""
    if kind == "image" and target.ndim == 3:
        target = target[..., None]
    classes = kind == "class map"
    right = target.dtype.kind in "uib" if classes else target.dtype.kind in "uif" and target.shape[-1:] == (chan,)
    if not right or target.ndim != (3 if classes else 4) or len(target) != count:
        wanted = f"integers [{count}, height, width]" if classes else f"numbers [{count}, height, width, {chan}]"
        raise DataError(f"the targets of `{name}` are {target.dtype} of shape {target.shape}, expected {wanted}")
    return target


#: Names of arrays in an `.npz`, in order of preference.
_IMAGE_NAMES, _LABEL_NAMES = ("image", "images"), ("label", "labels", "target", "targets")


def load_npz(
    path: str | PathLike[str], preprocessing: Preprocessing, target_kind: TargetKind | None = None
) -> ArrayImages:
    """Return the images of an `.npz` file with `image[n, h, w, c]` (or `[n, h, w]` for grey) and `label[n]`.

    They may be called `images`, and `labels`, `target` or `targets`, which may hold a class per pixel or images, see
    `from_arrays`. The raw arrays are read at once (an `.npz` is no random-access file); converting to float32 is
    streamed.

    Raises:
        DataError: a file that is damaged or no `.npz`, arrays missing, or shapes, types or labels that do not
            fit.
    """
    path = expect_path("path", path, error=DataError)
    expect("preprocessing", preprocessing, "Preprocessing", error=DataError)
    try:
        # Opened here, since np.load leaves a damaged file open.
        with path.open("rb") as stream:
            stored = np.load(stream, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise DataError(f"`{path}` is one array, expected an .npz with `image` and `label`")
            wanted = (_IMAGE_NAMES,) if target_kind == "none" else (_IMAGE_NAMES, _LABEL_NAMES)
            found = [next((name for name in names if name in stored), None) for names in wanted]
            if missing := [names[0] for names, name in zip(wanted, found, strict=True) if name is None]:
                shown = ", ".join(stored.files[:5]) + (", …" if len(stored.files) > 5 else "")
                missing = ["target" if n == "label" and target_kind in ("class map", "image") else n for n in missing]
                raise DataError(f"`{path}` holds {shown or 'nothing'}, but no `{'` and no `'.join(missing)}`")
            image, *labels = (stored[str(name)] for name in found)
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"`{path}` cannot be read as .npz with `image` and `label` ({error}): write it again by `numpy.savez`"
        ) from error
    label = labels[0] if labels else None
    return from_arrays(image, label, preprocessing, name=str(path), target_kind=target_kind)
