"""From a file or an array to pixels, and from pixels to the network's numbers: pure functions.

Pillow decodes and resizes; torchvision's transforms would bring PyTorch along for the few lines of arithmetic.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ggdjax._errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Float, Num, UInt8

    from ggdjax.data._preprocessing import Preprocessing

#: Modes in which Pillow holds 16 bits per sample, which it would clip instead of scaling them.
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
#: Mode and format in which it holds 16 bits per sample in 32, scaled to the range of 16.
_SIXTEEN_BITS_AS_32 = ("I", "PPM")
#: Modes in which samples have no range that a file states.
_DEEP_MODES = ("I", "F")
#: The tag of EXIF that says how a camera was held.
_ORIENTATION = 0x0112
#: Orientations from here on exchange width and height.
_TURNED = 5


class UnreadableImage(Exception):
    """One image cannot be decoded; the stream counts it and continues."""


def decode(file: Path | BinaryIO, preprocessing: Preprocessing) -> UInt8[np.ndarray, "height width chan"]:
    """Return the pixels of one image file after the geometry of ``preprocessing``, in RGB (or grey) order.

    Grey images, palettes and CMYK become what the network takes, as Pillow converts them; samples of 16 bits are scaled
    to 8; transparency is left out, as torchvision leaves it out; of an animated file the first image counts; an image
    that EXIF turns is turned, as a viewer shows it (torchvision does not turn it).

    Raises:
        UnreadableImage: Pillow cannot read the file, or it holds 32 bits per channel.
        DataError: an image smaller than the crop.
    """
    return as_array(apply_geometry(decode_whole(file, preprocessing), preprocessing))


def decode_whole(file: Path | BinaryIO, preprocessing: Preprocessing) -> Any:
    """Return one image file as a Pillow image, RGB or grey, in its own geometry; errors are those of `decode`."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            sixteen = image.mode in _SIXTEEN_BITS or (image.mode, image.format) == _SIXTEEN_BITS_AS_32
            if image.mode in _DEEP_MODES and not sixteen:
                raise UnreadableImage(f"mode {image.mode} holds samples of 32 bits, whose range is unknown")
            if _orientation(image) != 1:
                image = ImageOps.exif_transpose(image)  # noqa: PLW2901
            if sixteen:
                image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))  # noqa: PLW2901
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")  # noqa: PLW2901  (a palette's transparency warns)
            pixels = image.convert("L" if preprocessing.channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        # Pillow's message repeats the path, which the caller names already.
        reason = "cannot identify image file" if "cannot identify" in str(error) else str(error)
        raise UnreadableImage(reason) from error
    return pixels


def _orientation(image: Any) -> int:
    """Return how EXIF says that an open image is to be turned, 1 to 8; 1, as it is stored, where it cannot be read."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # whatever a damaged EXIF block raises: the pixels do not need it
        return 1
    return found if found in range(1, 9) else 1


def reshape(
    pixels: Num[np.ndarray, "height width chan"], preprocessing: Preprocessing
) -> Num[np.ndarray, "height width chan"]:
    """Return one image, held as an array, after the geometry of ``preprocessing``.

    Raises:
        DataError: resizing asked for on values that are no 8-bit pixels; an image smaller than the crop.
    """
    if preprocessing.resize is None and preprocessing.size is None:
        if preprocessing.crop is None:
            return pixels
        left, top, right, bottom = crop_box(pixels.shape[1], pixels.shape[0], preprocessing.crop)
        return pixels[top:bottom, left:right]
    if pixels.dtype != np.uint8:
        raise DataError(
            f"`resize` and `size` need 8-bit pixels, the images are {pixels.dtype}: leave both out or give uint8"
        )
    from PIL import Image

    return as_array(apply_geometry(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), preprocessing))


def to_float(
    images: Num[np.ndarray, "batch height width chan"], preprocessing: Preprocessing
) -> Float[np.ndarray, "..."]:
    """Return ``(scale · u − mean) / std`` in the channel order and layout of ``preprocessing``, float32.

    8-bit pixels go through a table of 256 values per channel, computed in double precision and rounded once;
    other types are computed in double precision and rounded once, so both give the same number.
    """
    if preprocessing.colour_order == "BGR":
        images = images[..., ::-1]
    chan = preprocessing.channels
    mean = np.resize(np.asarray(preprocessing.mean, np.float64), chan)
    std = np.resize(np.asarray(preprocessing.std, np.float64), chan)
    # 1 / (1/255) is 255 exactly: dividing by it gives u/255 rounded once, as the conventions state it.
    divisor = 1.0 / preprocessing.scale
    batch, height, width, _ = images.shape
    channels_first = preprocessing.layout == "NCHW"
    out = np.empty(preprocessing.batch_shape(batch, height, width), np.float32)
    for c in range(chan):
        target = out[:, c] if channels_first else out[..., c]
        if images.dtype == np.uint8:
            table = ((np.arange(256) / divisor - mean[c]) / std[c]).astype(np.float32)
            target[...] = table[images[..., c]]
        else:
            target[...] = (images[..., c].astype(np.float64) / divisor - mean[c]) / std[c]
    return out


def apply_geometry(image: Any, preprocessing: Preprocessing, resampling: Any = None) -> Any:
    """Return a Pillow image after resize, crop and size; ``resampling`` is bilinear where None."""
    from PIL import Image

    resampling = Image.Resampling.BILINEAR if resampling is None else resampling
    if preprocessing.resize is not None:
        scaled = resized(image.size, preprocessing)
        if scaled != image.size:
            image = image.resize(scaled, resampling)
    if preprocessing.crop is not None:
        width, height = image.size
        image = image.crop(crop_box(width, height, preprocessing.crop))
    if preprocessing.size is not None and image.size != (preprocessing.size, preprocessing.size):
        image = image.resize((preprocessing.size, preprocessing.size), resampling)
    return image


def resized(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the (width, height) of an image after ``resize``."""
    if preprocessing.resize is None:
        return size
    short, target = min(size), preprocessing.resize
    # The longer side is rounded down, as torchvision does.
    return target * size[0] // short, target * size[1] // short


def header_size(file: Path) -> tuple[int, int]:
    """Return the (width, height) of an image file, upright, from its header.

    Raises:
        UnreadableImage: Pillow does not know the file.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            # Of a PNG without EXIF in its header Pillow would look behind all pixels.
            stored = image.format == "PNG" and "exif" not in image.info
            return image.size if stored or _orientation(image) < _TURNED else image.size[::-1]
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise UnreadableImage(str(error)) from error


def crop_box(width: int, height: int, crop: int) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of the centred square; halves round to even, as in torchvision."""
    if crop > min(width, height):
        raise DataError(
            f"an image is {width}×{height}, smaller than `crop` = {crop}: give `resize`, or a smaller `crop`"
        )
    left, top = round((width - crop) / 2), round((height - crop) / 2)
    return (left, top, left + crop, top + crop)


def as_array(image: Any) -> UInt8[np.ndarray, "height width chan"]:
    """Return the pixels of a Pillow image, with an axis of channels."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
