"""Images on disk, of whatever kind: the one function that opens them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggdjax._errors import DataError, expect, expect_path
from ggdjax.data._archive import ARCHIVE_SUFFIXES, extract, is_archive
from ggdjax.data._arrays import load_npz
from ggdjax.data._folder import (
    LABELS_FILE,
    PART_NAMES,
    class_folders,
    folder_with_targets,
    holds_images,
    labelled_folder,
)
from ggdjax.data._image_set import UNREADABLE_SHARE
from ggdjax.data._tfds import PREFIX, open_tfds

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike
    from pathlib import Path

    from ggdjax.data._image_set import StreamedImages
    from ggdjax.data._preprocessing import Preprocessing
    from ggdjax.data._targets import TargetKind


def open_images(
    path: str | PathLike[str],
    preprocessing: Preprocessing,
    *,
    targets: str | PathLike[str] | None = None,
    target_kind: TargetKind | None = None,
    cache_dir: str | PathLike[str] | None = None,
    unreadable_share: float = UNREADABLE_SHARE,
    progress: Callable[[int, int], None] | None = None,
) -> StreamedImages:
    """Open a folder of class folders, a flat folder with `labels.csv`, an `.npz`, a tar archive of such a folder, or a
    set that TensorFlow Datasets has prepared.

    Nothing is decoded yet. The order of the images is fixed by their names (or by `labels.csv`, or by TFDS).

    Args:
        path: the folder or file; or `tfds:NAME`, `tfds:NAME/SPLIT`.
        preprocessing: how an image becomes an input.
        targets: folder of one target per image of a folder, of the same relative name: masks with a class per pixel as
            grey or palette PNG (255 does not count), which get the geometry of their images by nearest neighbour; or
            images, which become ``scale · u`` without mean and deviation.
        target_kind: "class map" (default with ``targets``) or "image"; "none": images alone, in any folders; "class";
            of an `.npz` None goes by the shape of its array.
        cache_dir: where archives are unpacked; default: `default_cache_dir()`.
        unreadable_share: share of unreadable images, 0 to 1, above which a stream stops.
        progress: called with (bytes read, all bytes) while an archive is unpacked.

    Raises:
        DataError: nothing there, no images, or a kind of file that is not supported.
    """
    expect("preprocessing", preprocessing, "Preprocessing", error=DataError)
    if not 0 <= unreadable_share <= 1:
        raise DataError(f"`unreadable_share` is {unreadable_share}, expected a share from 0 to 1")
    if str(path).startswith(PREFIX):
        if targets is not None or target_kind in ("class map", "image"):
            raise DataError(f"`{path}` brings classes alone: targets go with a folder of images, or an .npz with both")
        return open_tfds(str(path).removeprefix(PREFIX), preprocessing, unreadable_share=unreadable_share)
    path = expect_path("path", path, "the name of a folder or file", DataError)
    if targets is not None and not path.is_dir():
        raise DataError(f"`targets` goes with a folder of images, `{path}` is none: an .npz holds its own `targets`")
    if targets is not None and target_kind in ("class", "none"):
        raise DataError(f"`targets` are given, but `target_kind` is {target_kind!r}: leave one out")
    if not path.exists():
        raise DataError(f"no images at `{path}`: there is no such file or folder")
    if path.suffix.lower() == ".npz" and not path.is_dir():
        return load_npz(path, preprocessing, target_kind)
    if targets is None and target_kind in ("class map", "image"):
        raise DataError(f"`targets` is missing: name the folder of the targets of `{path}`, or give an .npz with both")
    if targets is not None or (path.is_dir() and target_kind == "none"):
        kind = target_kind or "class map"
        return folder_with_targets(path, targets, preprocessing, kind, unreadable_share=unreadable_share)
    if path.is_dir():
        return _open_folder(path, preprocessing, unreadable_share)
    if is_archive(path):
        folder = _top(extract(path, cache_dir, progress))
        try:
            if target_kind == "none":
                return folder_with_targets(folder, None, preprocessing, "none", unreadable_share=unreadable_share)
            return _open_folder(folder, preprocessing, unreadable_share)
        except DataError as error:
            raise DataError(f"`{path}`, unpacked: {error}") from None
    raise DataError(
        f"`{path}` is no image set: expected a folder, an .npz, or an archive ({', '.join(ARCHIVE_SUFFIXES)})"
    )


def _open_folder(root: Path, preprocessing: Preprocessing, unreadable_share: float) -> StreamedImages:
    if (root / LABELS_FILE).is_file():
        return labelled_folder(root, preprocessing, unreadable_share=unreadable_share)
    if holds_images(root):
        raise DataError(
            f"`{root}` holds images but no `{LABELS_FILE}`: add one (columns `file`, `label`) or sort them "
            "into class folders"
        )
    return class_folders(root, preprocessing, unreadable_share=unreadable_share)


def _top(folder: Path) -> Path:
    """Go below the single folder that many archives wrap their content in."""
    # Hidden files do not count, here as elsewhere: some systems pack one beside each folder.
    inside = [f for f in folder.iterdir() if not f.name.startswith(".")]
    if len(inside) == 1 and inside[0].is_dir() and inside[0].name not in PART_NAMES:
        below = list(inside[0].iterdir())
        if any(f.is_dir() or f.name == LABELS_FILE for f in below):
            return inside[0]
    return folder
