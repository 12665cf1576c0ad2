"""Unpack a tar archive of images once, into a cache folder: whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ggdjax._atomic import replaced
from ggdjax._errors import DataError, GgdjaxError, expect_path
from ggdjax._lock import exclusive

if TYPE_CHECKING:
    from collections.abc import Callable

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
#: A progress callback is called once per this many members.
_REPORT_EVERY = 500


def is_archive(path: Path) -> bool:
    """Return whether ``path`` is named as a tar archive."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def default_cache_dir() -> Path:
    """Return where archives and downloads are kept: `$GGDJAX_CACHE`, `$XDG_CACHE_HOME/ggdjax` or `~/.cache/ggdjax`.

    ``off``, which turns the cache of compiled programs off, names no folder here.
    """
    own = os.environ.get("GGDJAX_CACHE", "")
    if own and own.lower() != "off":
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ggdjax"


def extract(
    archive: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Return the folder that holds the members of ``archive``, unpacking it on first use.

    The folder's name carries the archive's name, size and modification time, so that a changed archive is
    unpacked again. It appears by one rename after the last member: an interrupted run leaves nothing that a
    later one would take for whole; of several processes one unpacks and the others wait. Members that
    lead out of the folder, links and devices are refused.

    Args:
        archive: a tar file, compressed or not.
        cache_dir: where the folder is kept; default: `default_cache_dir()`.
        progress: called with (bytes of the archive read so far, all bytes).

    Raises:
        DataError: a file that is missing, damaged, no tar archive or holds a refused member; a cache that
            cannot be written.
    """
    archive = expect_path("archive", archive, error=DataError)
    cache = default_cache_dir() if cache_dir is None else expect_path("cache_dir", cache_dir, "the name of a folder")
    try:
        stat = archive.stat()
    except OSError as error:
        raise DataError(f"`{archive}` cannot be read: {error.strerror}") from error
    mark = hashlib.sha256(f"{archive.name}/{stat.st_size}/{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    target = cache / f"{archive.name.split('.')[0]}-{mark}"
    if target.is_dir():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with exclusive(target, "cache_dir", wait=True):
            # Another process may have been first.
            if not target.is_dir():
                with replaced(target) as partial:
                    _unpack(archive, partial, stat.st_size, progress)
    except GgdjaxError:
        raise
    except Exception as error:  # of many kinds, by the compression
        if isinstance(error, OSError) and error.strerror is not None:
            raise DataError(
                f"`{archive}` cannot be unpacked into `{cache}` ({error.strerror}): free space, or set GGDJAX_CACHE or "
                "XDG_CACHE_HOME"
            ) from error
        reason = str(error).partition("\n")[0].rstrip(": ") or type(error).__name__
        raise DataError(f"`{archive}` cannot be unpacked: {reason}: it is damaged or no tar archive") from error
    return target


def _unpack(archive: Path, folder: Path, total: int, progress: Callable[[int, int], None] | None) -> None:
    made: set[Path] = set()
    with archive.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as tar:
        for number, member in enumerate(tar):
            name = PurePosixPath(member.name.lstrip("/"))
            if ".." in name.parts or Path(name).drive:
                raise DataError(f"`{archive}` holds `{member.name}`, which leads outside: pack relative names")
            if member.isdir():
                continue
            content = tar.extractfile(member) if member.isfile() else None
            if content is None:
                raise DataError(f"`{archive}` holds `{member.name}`, which is no plain file: pack plain files only")
            # Without links nothing leads outside by any other way; `tar.extract` asks the disk that of every part of
            # every name, and takes twice as long for a data set of small files.
            file = folder / name
            if file.parent not in made:
                file.parent.mkdir(parents=True, exist_ok=True)
                made.add(file.parent)
            with file.open("wb") as whole:
                shutil.copyfileobj(content, whole)
            if progress is not None and number % _REPORT_EVERY == 0:
                progress(raw.tell(), total)
        if progress is not None:
            progress(total, total)
