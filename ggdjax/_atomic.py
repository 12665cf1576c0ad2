"""Files and folders that appear whole or not at all, also where the process is killed.

By hand, because the package `atomicwrites`, no longer maintained, replaces files alone, not folders.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import GgdjaxError, expect_path
from ggdjax._lock import exclusive

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping


@contextmanager
def atomic_write(path: os.PathLike[str] | str, argument: str) -> Generator[Path]:
    """Yield where to write; the file takes its place at ``path`` when the block ends well, and vanishes otherwise.

    Args:
        path: the file; an earlier one is replaced.
        argument: how messages call it.

    Raises:
        GgdjaxError: the operating system refuses what the block does.
    """
    path = expect_path(argument, path).absolute()
    part = path.with_name(path.name + ".part")
    try:
        try:
            yield part
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise GgdjaxError(
            f"`{argument}` {path} cannot be written: {error.strerror}; choose a place with permission and space"
        ) from None


def write_safetensors(
    path: os.PathLike[str] | str, argument: str, arrays: Mapping[str, Any], metadata: Mapping[str, str]
) -> None:
    """Write arrays, and metadata in their header, as `atomic_write` does.

    Not by `safetensors.numpy.save_file`, whose files only their owner may read.
    """
    from safetensors.numpy import save

    with atomic_write(path, argument) as part:
        part.write_bytes(save({name: np.asarray(array) for name, array in arrays.items()}, dict(metadata)))


@contextmanager
def atomic_directory(folder: os.PathLike[str] | str, argument: str) -> Generator[Path]:
    """Yield an empty folder that takes the place of ``folder`` when the block ends well, and vanishes otherwise.

    The place is held for this process alone; what a killed one left beside it is removed first. Folders above are
    made where they are missing.

    Args:
        folder: what is written; it may exist, and is then replaced as a whole.
        argument: how messages call it.

    Raises:
        GgdjaxError: another process writes the folder, or nothing can be written there.
    """
    folder = expect_path(argument, folder, "the name of a folder")
    with exclusive(folder, argument), replaced(folder) as new:
        yield new


@contextmanager
def replaced(folder: os.PathLike[str] | str) -> Generator[Path]:
    """Do what `atomic_directory` does, for the owner of ``folder`` and where the folder above it is there."""
    folder = Path(folder).resolve()
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.partial"):
        _clear(left, folder)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    new = aside / "new"
    try:
        new.mkdir()
        yield new
        if folder.exists():
            # A rename cannot replace a full folder: the old one steps aside first.
            folder.rename(aside / "old")
        new.rename(folder)
    finally:
        _clear(aside, folder)


def _clear(aside: Path, folder: Path) -> None:
    """Remove what was set aside, but for an old folder whose successor never came."""
    if (aside / "old").exists() and not folder.exists():
        (aside / "old").rename(folder)
    shutil.rmtree(aside, ignore_errors=True)
