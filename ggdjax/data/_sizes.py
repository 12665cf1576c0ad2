"""Whether images become inputs of one size, found from the headers of their files before any is decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggdjax._errors import DataError, is_image_set, refusal
from ggdjax.data._folder import FolderImages
from ggdjax.data._image_set import sizes_message
from ggdjax.data._pixels import UnreadableImage, crop_box, header_size, resized

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ggdjax.data._image_set import ImageSet


def check_sizes(images: ImageSet, indices: Iterable[int], shape: Sequence[int | None]) -> None:
    """Refuse images that do not become inputs of ``shape`` (batch first; None: any size).

    Of image files only the headers are read, and only where the preprocessing does not fix the size; unreadable ones
    are passed over, as a stream of the images passes them over. Of other sets the first image tells the size.

    Raises:
        DataError: images of different sizes, smaller than the crop, or of another size than the network reads.
    """
    if not is_image_set(images):
        raise refusal("images", images, "an image set", "`gd.data.open_images(path, preprocessing)` returns one")
    rule = images.preprocessing
    indices = [int(i) for i in indices]
    fixed = rule.output_size is not None and (rule.crop is None or rule.resize is not None)
    found: tuple[int, int] | None = None
    for index in indices[:1] if fixed or not isinstance(images, FolderImages) else indices:
        try:
            if isinstance(images, FolderImages) and not fixed:
                size = resized(header_size(images.root / images.ids[index]), rule)
                if rule.crop is not None:
                    crop_box(*size, rule.crop)
                    size = (rule.crop, rule.crop)
                if rule.size is not None:
                    size = (rule.size, rule.size)
            else:
                height, width, _ = images.load(index).shape
                size = (width, height)
        except UnreadableImage:
            continue
        except DataError as error:
            raise DataError(f"image `{images.ids[index]}` of `{images.name}`: {error}") from None
        if found is not None and size != found:
            raise DataError(sizes_message(images.name))
        found = size
    if found is None:
        return
    given, wanted = rule.batch_shape(1, found[1], found[0]), tuple(shape)
    if len(wanted) != 4 or any(w is not None and w != g for w, g in zip(wanted[1:], given[1:], strict=True)):
        numbers = ", ".join("batch" if n is None else str(n) for n in wanted)
        raise DataError(
            f"images of `{images.name}` become inputs of shape {('batch', *given[1:])}; the network expects "
            f"({numbers}): give `size`, `crop` or `layout`".replace("'", "")
        )
