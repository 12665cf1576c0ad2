"""A results folder: one JSON line per finished cell, kept through any kill, and one writer per file.

    FOLDER/cells-1-of-1.jsonl      what one process finished; with several, one file for each
    FOLDER/images/HASH.txt         ids of images, one a line, that rows name by the hash
    FOLDER/.lock                   held by whoever computes; the operating system lets go of it when a process ends

A line counts once its line feed is written: what a killed process left behind it is cut off when that file is next
opened for writing, and never read.

Lines, and neither SQLite nor a tracker such as MLflow: a commit shows them, and no server has to run.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggdjax import GgdjaxError
from ggdjax._atomic import atomic_write
from ggdjax._lock import exclusive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def read_rows(folder: Path | str, *, places: bool = False) -> list[dict[str, Any]]:
    """Return the finished cells of a results folder, those of all its files together, each cell once.

    With ``places`` each has its ``place``, such as ``cells-1-of-1.jsonl#L12``.

    A row is flat: ``experiment``, ``key``, the cell's own fields (``network``, ``bits``, ``scheme``, ``seed``, …),
    its figures, and the provenance (``config_hash``, ``settings``, ``code``, ``versions``, ``device``, ``machine``,
    ``images``, ``seconds``, ``setup_seconds``, ``finished``). A folder that is not there has no rows.

    Raises:
        GgdjaxError: a whole line is no JSON object: the file was changed by something else.
    """
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for path in sorted(Path(folder).glob("cells-*.jsonl")):
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line feed is a torn line, or nothing
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                row |= {"place": f"{path.name}#L{number}"} if places else {}
                rows.setdefault((row["experiment"], row["config_hash"], row["key"]), row)
            except (ValueError, TypeError, KeyError):
                raise GgdjaxError(f"{path}, line {number}, is no result: remove that line") from None
    return list(rows.values())


def image_ids(folder: Path | str, digest: str) -> list[str]:
    """Return the ids that a row of this folder names by their hash."""
    return (Path(folder) / "images" / f"{digest}.txt").read_text(encoding="utf-8").splitlines()


def keep_image_ids(folder: Path, ids: Sequence[str]) -> dict[str, Any]:
    """Write the ids beside the results, once, and return what a row says of them: their number and their hash."""
    text = "".join(f"{id_}\n" for id_ in ids)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / "images" / f"{digest}.txt"
    if not path.is_file():
        with exclusive(path, "--out", wait=True), atomic_write(path, "--out") as part:
            part.write_text(text, encoding="utf-8")
    return {"count": len(ids), "hash": digest}


def image_parts(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what a row says of its images, by part; a row with an axis of that name says it as ``image_ids``."""
    parts = row.get("image_ids", row.get("images"))
    return parts if isinstance(parts, dict) else {}  # older rows have a number alone


def evaluated_on(row: dict[str, Any]) -> str | None:
    """Return the hash of the images that a row was evaluated on; None where it does not say."""
    parts = image_parts(row)
    return parts.get("accuracy", parts.get("held_out", {})).get("hash")


@contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Hold the folder for this process and those it starts.

    Raises:
        GgdjaxError: another run, or a shard of one, holds it, or it cannot be written.
    """
    with _locked(folder / ".lock", fcntl.LOCK_EX, folder):
        yield


@contextmanager
def shared_folder(folder: Path) -> Iterator[None]:
    """Share the folder with the other shards of a run, and with no whole run.

    Raises:
        GgdjaxError: a whole run holds it, or it cannot be written.
    """
    with _locked(folder / ".lock", fcntl.LOCK_SH, folder):
        yield


@contextmanager
def appending(folder: Path, shard: tuple[int, int]) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Open the file of one shard, cut off a torn last line, and yield what appends a row: one write, on the disk.

    Raises:
        GgdjaxError: another process writes this file, or it cannot be written.
    """
    path = folder / f"cells-{shard[0]}-of-{shard[1]}.jsonl"
    with _locked(path, fcntl.LOCK_EX, folder) as file:
        whole = path.read_bytes().rfind(b"\n") + 1
        os.ftruncate(file, whole)

        def append(row: dict[str, Any]) -> None:
            line = (json.dumps(row, allow_nan=False) + "\n").encode()
            try:
                written = os.write(file, line)
                os.fsync(file)
            except OSError as error:
                raise GgdjaxError(f"{path} cannot be written ({error.strerror}): make room and start again") from None
            if written < len(line):
                raise GgdjaxError(f"{path} could not take a whole line: make room and start again")

        yield append


@contextmanager
def _locked(path: Path, how: int, folder: Path) -> Iterator[int]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise GgdjaxError(f"`--out` {folder} cannot be written ({error.strerror}): choose another folder") from None
    try:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GgdjaxError(
                f"`--out` {folder} is held by another run: wait until it ends, or choose another folder"
            ) from None
        yield file
    finally:
        os.close(file)
