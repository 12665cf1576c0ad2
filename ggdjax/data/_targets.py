"""Targets that are no class: a class per pixel, or another image; in the geometry of the images that they belong to."""

from __future__ import annotations

import dataclasses
import struct
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ggdjax._errors import DataError
from ggdjax.data._pixels import UnreadableImage, apply_geometry, as_array, decode_whole, to_float

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Float, Int, Num

    from ggdjax.data._preprocessing import Preprocessing

#: What belongs to an image: its class, a class per pixel, another image, or nothing.
TargetKind = Literal["class", "class map", "image", "none"]
#: Class of pixels that do not count, whatever `label_offset` is.
IGNORED = 255
_MASK_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")
#: Grey samples of 2 and 4 bits are scaled to 8 by Pillow; classes are what the file holds.
_DEPTHS = {"L;2": 85, "L;4": 17}


def read_target(file: Path, kind: TargetKind, size: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray:
    """Return the target in an image file: classes ``[height, width]``, or an image in the network's layout.

    Args:
        file: for classes grey of up to 16 bits, or a palette, whose indices are the classes.
        kind: "class map" or "image".
        size: (width, height) of its image before the preprocessing.
        preprocessing: of its image.

    Raises:
        UnreadableImage: Pillow cannot read the file.
        DataError: a mask in colour, or a size that the preprocessing cannot bring to that of its image.
    """
    if kind == "image":
        return target_image(as_array(decode_whole(file, preprocessing)), size, preprocessing)
    from PIL import Image

    try:
        with Image.open(file) as mask:
            depth = _DEPTHS.get(str(mask.tile[0][3]), 1) if mask.tile else 1
            mode, classes = mask.mode, np.asarray(mask) // depth
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"target {file.name}: {error}") from error
    if mode not in _MASK_MODES:
        raise DataError(
            f"its target {file.name} has mode {mode}; expected one class index per pixel: write masks as grey or "
            "palette PNG"
        )
    return class_map(classes, size, preprocessing)


def class_map(
    classes: Num[np.ndarray, "height width"], size: tuple[int, int], preprocessing: Preprocessing
) -> Int[np.ndarray, "below right"]:
    """Return the classes of pixels after the geometry of their image (nearest neighbour), numbered as the outputs."""
    from PIL import Image

    classes = classes.astype(np.int32)
    if _moves(classes, size, preprocessing):
        classes = np.asarray(apply_geometry(Image.fromarray(classes), preprocessing, Image.Resampling.NEAREST))
    return np.where(classes == IGNORED, classes, classes + np.int32(preprocessing.label_offset))


def target_image(
    pixels: Num[np.ndarray, "height width chan"], size: tuple[int, int], preprocessing: Preprocessing
) -> Float[np.ndarray, "..."]:
    """Return ``scale · u`` in the network's layout, without mean and deviation, after the geometry of its image."""
    from PIL import Image

    if _moves(pixels, size, preprocessing):
        if pixels.dtype != np.uint8:
            raise DataError(f"`resize`, `crop` and `size` need targets of 8 bits, these are {pixels.dtype}")
        image: Any = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        pixels = as_array(apply_geometry(image, preprocessing))
    return to_float(pixels[None], dataclasses.replace(preprocessing, mean=(0.0,), std=(1.0,)))[0]


def _moves(target: np.ndarray, size: tuple[int, int], preprocessing: Preprocessing) -> bool:
    """Return whether the preprocessing changes the geometry of a target whose image has ``size``."""
    if (preprocessing.resize, preprocessing.crop, preprocessing.size) == (None, None, None):
        return False
    height, width = target.shape[:2]
    if (width, height) != size:
        raise DataError(
            f"its target is {width}×{height}, the image {size[0]}×{size[1]}: `resize`, `crop` and `size` need targets "
            "of the image's size; leave them out or give such targets"
        )
    return True
