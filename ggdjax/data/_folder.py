"""Image folders: `<class>/<image>`, also below `train/` and `test/`, and flat ones with a `labels.csv`."""

from __future__ import annotations

import csv
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import DataError, expect, expect_path
from ggdjax.data._image_set import UNREADABLE_SHARE, StreamedImages, output_labels
from ggdjax.data._pixels import decode, header_size
from ggdjax.data._targets import read_target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike

    from ggdjax.data._preprocessing import Preprocessing
    from ggdjax.data._targets import TargetKind

_IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
LABELS_FILE = "labels.csv"
#: Names of `labels.csv`'s columns, in order of preference.
_FILE_COLUMNS = ("file", "filename", "image", "path")
_LABEL_COLUMNS = ("label", "index")
#: Folder name -> part of the set; data sets call their held-out part either way.
PART_NAMES = {"train": "train", "test": "test", "val": "test", "validation": "test"}


@dataclass(kw_only=True, eq=False)
class FolderImages(StreamedImages):
    """Image files below ``root``; ids are their paths relative to it, with `/`."""

    root: Path

    def load(self, index: int) -> np.ndarray:
        """Return the pixels of image ``index`` after resize and crop, or raise `UnreadableImage`."""
        return decode(self.root / self.ids[index], self.preprocessing)


@dataclass(kw_only=True, eq=False)
class FolderTargets(FolderImages):
    """Image files below ``root``, whose targets, if any, are ``files`` below ``folder``."""

    folder: Path | None = None
    files: Sequence[str] = ()

    def load_labelled(self, index: int) -> tuple[np.ndarray, Any]:
        """Return the pixels and the target of image ``index``, or raise `UnreadableImage`."""
        pixels = self.load(index)
        if self.folder is None:
            return pixels, -1
        size = header_size(self.root / self.ids[index])
        return pixels, read_target(self.folder / self.files[index], self.target_kind, size, self.preprocessing)

    def target_mark(self, index: int) -> Any:
        """Return name, size and time of the target's file."""
        if self.folder is None:
            return None
        stat = (self.folder / self.files[index]).stat()
        return [self.files[index], stat.st_size, stat.st_mtime_ns]


def folder_with_targets(
    root: str | PathLike[str],
    targets: str | PathLike[str] | None,
    preprocessing: Preprocessing,
    kind: TargetKind,
    *,
    unreadable_share: float = UNREADABLE_SHARE,
) -> FolderTargets:
    """Return all images below ``root`` with the targets of the same relative names below ``targets``.

    Of ``a/b.jpg`` the target is ``a/b.png``, or ``a/b`` with the suffix of any other image file. The parts `train` and
    `test` are those of `class_folders`.

    Args:
        root: folder of the images.
        targets: folder of their targets, which may lie in ``root``; None: they have none.
        preprocessing: how an image becomes an input.
        kind: "class map", "image" or "none".
        unreadable_share: share of unreadable images, 0 to 1, above which a stream stops.

    Raises:
        DataError: no images, or images without a target.
    """
    root = _root(root, preprocessing)
    ids, files = _image_files(root), ()
    folder = None if targets is None else expect_path("targets", targets, "the name of a folder", DataError)
    if folder is not None:
        if not folder.is_dir():
            raise DataError(f"no targets at `{folder}`: there is no such folder")
        if folder.resolve().is_relative_to(root.resolve()):
            inside = folder.resolve().relative_to(root.resolve()).as_posix()
            ids = [id_ for id_ in ids if not id_.startswith(f"{inside}/")]
        found = {os.path.splitext(name)[0]: name for name in sorted(_image_files(folder), key=_is_png)}
        stems = [os.path.splitext(id_)[0] for id_ in ids]
        if missing := [id_ for id_, stem in zip(ids, stems, strict=True) if stem not in found]:
            raise DataError(
                f"`{folder}` lacks the targets of {len(missing)} of {len(ids)} images, first of `{missing[0]}`: name "
                "each as its image, .png"
            )
        files = tuple(found[stem] for stem in stems)
    if not ids:
        raise DataError(f"`{root}` holds no images ({', '.join(sorted(_IMAGE_SUFFIXES))})")
    part_of = [PART_NAMES.get(id_.partition("/")[0]) if "/" in id_ else None for id_ in ids]
    names = set() if None in part_of else {name for name in part_of if name is not None}
    parts = {name: np.flatnonzero([p == name for p in part_of]) for name in names}
    return FolderTargets(
        name=str(root),
        root=root,
        preprocessing=preprocessing,
        labels=np.full(len(ids), -1, np.int32),
        ids=ids,
        parts=parts,
        unreadable_share=unreadable_share,
        target_kind=kind,
        folder=folder,
        files=files,
    )


def _is_png(name: str) -> bool:
    return name.lower().endswith(".png")


def class_folders(
    root: str | PathLike[str], preprocessing: Preprocessing, *, unreadable_share: float = UNREADABLE_SHARE
) -> FolderImages:
    """Return the images of ``root/<class>/…``, or of ``root/train/<class>/…`` and ``root/test/<class>/…``.

    Classes are numbered by their sorted names, over all parts together, as torchvision's `ImageFolder`
    numbers them (`10` before `2`: write a `labels.csv` for any other numbering). Images are in sorted order
    within each class.

    Raises:
        DataError: no images, or parts whose classes do not match.
    """
    root = _root(root, preprocessing)
    folders = _subfolders(root)
    part_folders = [f for f in folders if f.name in PART_NAMES]
    if part_folders and len(part_folders) == len(folders):
        names_by_part = {f: [c.name for c in _subfolders(f)] for f in part_folders}
        classes = sorted({name for names in names_by_part.values() for name in names})
        for folder, names in names_by_part.items():
            if missing := sorted(set(classes) - set(names)):
                raise DataError(
                    f"`{root}`: `{folder.name}` has no folder for {len(missing)} of {len(classes)} classes "
                    "(first "
                    f"`{missing[0]}`): every part must have the same class folders"
                )
        part_of = [(f, PART_NAMES[f.name]) for f in part_folders]
    else:
        classes = [f.name for f in folders]
        part_of = [(root, "")]
    number = {name: i for i, name in enumerate(classes)}
    ids: list[str] = []
    labels: list[int] = []
    parts: dict[str, list[int]] = {}
    for folder, part in part_of:
        for class_folder in _subfolders(folder):
            files = _image_files(class_folder)
            if part:
                parts.setdefault(part, []).extend(range(len(ids), len(ids) + len(files)))
            inside = class_folder.relative_to(root).as_posix()
            ids.extend(f"{inside}/{file}" for file in files)
            labels.extend([number[class_folder.name]] * len(files))
    if not ids:
        raise DataError(f"`{root}` holds no images: expected <class>/<image> ({', '.join(sorted(_IMAGE_SUFFIXES))})")
    return FolderImages(
        name=str(root),
        root=root,
        preprocessing=preprocessing,
        labels=output_labels(labels, preprocessing, f"`{root}`"),
        ids=ids,
        classes=classes,
        parts={name: np.asarray(indices, np.int64) for name, indices in parts.items()},
        unreadable_share=unreadable_share,
    )


def labelled_folder(
    root: str | PathLike[str], preprocessing: Preprocessing, *, unreadable_share: float = UNREADABLE_SHARE
) -> FolderImages:
    """Return the images that ``root/labels.csv`` names, in its order.

    The file has a header; the image's path relative to ``root`` is in column `file` (or `filename`, `image`,
    `path`), the class, an integer, in `label` (or `index`). Other columns and files that it does not name
    are ignored.

    Raises:
        DataError: columns or rows missing, a label that is no integer, a file named twice, or files that
            are not there.
    """
    root = _root(root, preprocessing)
    path = root / LABELS_FILE
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = [c for c in reader.fieldnames or [] if c]
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"`{path}` cannot be read as comma-separated text: {error}") from error
    file_column = _column(path, columns, _FILE_COLUMNS, "the image's file")
    label_column = _column(path, columns, _LABEL_COLUMNS, "its class")
    ids, labels = [], []
    for line, row in enumerate(rows, start=2):
        file, label = row[file_column], row[label_column]
        if not file:
            raise DataError(f"`{path}` line {line} names no file: give one in column `{file_column}`")
        try:
            labels.append(int(label))
        except (TypeError, ValueError):
            raise DataError(f"`{path}` line {line}: `{label_column}` is {label!r}, expected an integer") from None
        ids.append(file)
    if not ids:
        raise DataError(f"`{path}` names no images: expected one line per image below the header")
    if twice := sorted(id_ for id_, count in Counter(ids).items() if count > 1):
        raise DataError(f"`{path}` names {len(twice)} files more than once, first `{twice[0]}`")
    missing = [id_ for id_ in ids if not (root / id_).is_file()]
    if missing:
        raise DataError(
            f"`{path}` names {len(missing)} of {len(ids)} files that are not there, first `{missing[0]}`: "
            "paths are "
            f"relative to `{root}`"
        )
    return FolderImages(
        name=str(root),
        root=root,
        preprocessing=preprocessing,
        labels=output_labels(labels, preprocessing, f"`{path}`"),
        ids=ids,
        unreadable_share=unreadable_share,
    )


def _root(root: str | PathLike[str], preprocessing: Preprocessing) -> Path:
    """Return the folder, which must be there; ``preprocessing`` must be one."""
    expect("preprocessing", preprocessing, "Preprocessing", error=DataError)
    root = expect_path("root", root, "the name of a folder", DataError)
    if not root.is_dir():
        raise DataError(f"no images at `{root}`: there is no such folder")
    return root


def holds_images(folder: Path) -> bool:
    """Return whether image files lie in ``folder`` itself (not below)."""
    with os.scandir(folder) as entries:
        return any(map(_is_image, entries))


def _column(path: Path, columns: list[str], wanted: tuple[str, ...], meaning: str) -> str:
    for name in wanted:
        if name in columns:
            return name
    raise DataError(
        f"`{path}` has columns {', '.join(columns) or 'none'}, but none for {meaning}: expected "
        f"`{'` or `'.join(wanted)}`"
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted((f for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".")), key=lambda f: f.name)


def _image_files(folder: Path) -> list[str]:
    """Return the paths of the images below ``folder``, relative to it, with `/`, sorted."""

    # Strings, and what the directory already says of each entry: a million paths as objects take a minute.
    def below(path: str, prefix: str) -> Iterator[str]:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from below(entry.path, f"{prefix}{entry.name}/")
                elif _is_image(entry):
                    yield prefix + entry.name

    return sorted(below(str(folder), ""))


def _is_image(file: os.DirEntry[str]) -> bool:
    name = file.name
    return name[name.rfind(".") :].lower() in _IMAGE_SUFFIXES and name[0] != "." and file.is_file()
