"""Images held as arrays: an `.npz` file with `image` and `label`, or arrays in memory."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import DataError, expect, expect_array, expect_path
from ggdjax.data._image_set import StreamedImages, output_labels
from ggdjax.data._pixels import reshape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from jaxtyping import Int, Num

    from ggdjax.data._preprocessing import Preprocessing


@dataclass(kw_only=True, eq=False)
class ArrayImages(StreamedImages):
    """Images of one size in one array ``image[n, height, width, chan]``, converted batch by batch."""

    image: Num[np.ndarray, "image height width chan"]

    def load(self, index: int) -> np.ndarray:
        """Return the pixels of image ``index`` after resize and crop."""
        return reshape(self.image[index], self.preprocessing)


def from_arrays(
    image: Num[np.ndarray, "image height width *chan"],
    label: Int[np.ndarray, " image"],
    preprocessing: Preprocessing,
    *,
    ids: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    parts: Mapping[str, Int[np.ndarray, " part"]] | None = None,
    name: str = "arrays",
) -> ArrayImages:
    """Return arrays in memory as an image set.

    Args:
        image: channels last (RGB), or without a channel axis for grey images; any real type. `resize` and
            `size` need uint8.
        label: the class of each image, integers from 0 on.
        preprocessing: its channels must be those of ``image``.
        ids: a name per image, each its own; default: its number.
        classes: a name per class.
        parts: index arrays of the parts `train`, `calibration`, `test`.
        name: how messages call the set.

    Raises:
        DataError: shapes, types, labels or names that do not fit.

    Example:
        >>> images = gd.data.from_arrays(np.zeros((3, 8, 8, 3), np.uint8), np.array([0, 1, 2]), gd.data.Preprocessing())
        >>> next(images.batches())[0].shape
        (3, 3, 8, 8)
    """
    expect("preprocessing", preprocessing, "Preprocessing", error=DataError)
    image = np.asarray(expect_array("image", image, "an array of images", error=DataError))
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
        labels=output_labels(label, preprocessing, f"`label` of `{name}`"),
        ids=ids,
        classes=classes,
        parts=dict(parts or {}),
    )


def load_npz(path: str | PathLike[str], preprocessing: Preprocessing) -> ArrayImages:
    """Return the images of an `.npz` file with `image[n, h, w, c]` (or `[n, h, w]` for grey) and `label[n]`.

    The raw arrays are read at once (an `.npz` is no random-access file); converting to float32 is streamed.

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
            missing = [key for key in ("image", "label") if key not in stored]
            if missing:
                shown = ", ".join(stored.files[:5]) + (", …" if len(stored.files) > 5 else "")
                raise DataError(f"`{path}` holds {shown or 'nothing'}, but no `{'` and no `'.join(missing)}`")
            image, label = stored["image"], stored["label"]
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"`{path}` cannot be read as .npz with `image` and `label` ({error}): write it again by `numpy.savez`"
        ) from error
    return from_arrays(image, label, preprocessing, name=str(path))
