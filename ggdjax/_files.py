"""The file format: one safetensors file with arrays, a JSON record, and a SHA-256 over every byte.

The header's metadata holds ``format`` ("ggdjax"), ``version``, ``kind`` (what the file holds), ``sha256`` and
``record`` (JSON). ``sha256`` is that of the whole file with these 64 digits set to zeros.
`docs/reference/file_format.md` describes the record and the arrays of every kind.

A format of our own, because pickle runs code, ONNX holds neither histograms nor how a step was chosen, and Orbax writes
folders.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._atomic import atomic_write
from ggdjax._errors import GgdjaxError, expect_path
from ggdjax._lock import exclusive

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Mapping
    from io import BufferedReader

FORMAT, VERSION = "ggdjax", 1
#: What `safetensors` accepts, too.
_LARGEST_HEADER = 100_000_000
_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "|b1"},
    **{f"{letter}{8 * size}": f"<{letter.lower()}{size}" for letter in "IU" for size in (2, 4, 8)},
    **{"I8": "|i1", "U8": "|u1"},
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_UNSET = b"0" * 64
_METADATA = "__metadata__"


def write(
    path: os.PathLike[str] | str, kind: str, record: Any, arrays: Mapping[str, Any], argument: str = "path"
) -> None:
    """Write a record and arrays as one file; equal input gives equal bytes.

    The file appears as a whole or not at all: where writing fails or the process is killed, an earlier file stays.

    Args:
        path: the file, in a folder that exists; an earlier one is replaced.
        kind: what the file holds, e.g. "network".
        record: dicts with string keys, lists, tuples, strings, numbers, booleans and None; see `dumps`.
        arrays: by name, NumPy's or JAX's, of real numbers, integers or booleans.
        argument: how messages call the path.

    Raises:
        GgdjaxError: the folder does not exist, the file cannot be written, or the format cannot hold the record or an
            array.
    """
    path = _target(path, argument)
    found = {name: _storable(name, array) for name, array in arrays.items()}
    # Widest elements first: all arrays are aligned.
    order = sorted(found, key=lambda name: (-found[name].itemsize, name))
    metadata = {"format": FORMAT, "version": str(VERSION), "kind": kind, "sha256": _UNSET.decode()}
    header: dict[str, Any] = {_METADATA: metadata | {"record": dumps(record)}}
    start = 0
    for name in order:
        array = found[name]
        stop = start + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype], "shape": array.shape, "data_offsets": (start, stop)}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _LARGEST_HEADER:
        raise GgdjaxError(
            f"`{argument}` {_shown(path)}: the record takes {len(text)} bytes, more than {_LARGEST_HEADER}"
        )
    size = len(text).to_bytes(8, "little")
    contents = [found[name].reshape(-1).view(np.uint8).data for name in order]
    digest = hashlib.sha256(size + text)
    for content in contents:
        digest.update(content)
    # Two writers would share the file that is not whole yet. Callers may hold a lock on `path` itself.
    part = path.with_name(path.name + ".part")
    with exclusive(part, argument, wait=True), atomic_write(path, argument) as new, new.open("wb") as stream:
        stream.write(size + text.replace(_UNSET, digest.hexdigest().encode(), 1))
        for content in contents:
            stream.write(content)


def read(
    path: os.PathLike[str] | str, kinds: Collection[str], argument: str = "path"
) -> tuple[str, Any, dict[str, np.ndarray]]:
    """Return kind, record and arrays of a file that `write` wrote; everything is checked before.

    Args:
        path: the file.
        kinds: which kinds are expected.
        argument: how messages call the path.

    Raises:
        GgdjaxError: the file cannot be read, is damaged, of another program, of a newer version or of another kind.
    """
    path = expect_path(argument, path)
    try:
        # Before it is opened: opening a pipe would wait for a writer.
        if not stat.S_ISREG(path.stat().st_mode):
            what = "is a folder" if path.is_dir() else "is no regular file"
            raise GgdjaxError(f"`{argument}` {_shown(path)} {what}: name a file that `save` wrote")
        with path.open("rb") as stream:
            return _read(path, stream, kinds, argument)
    except OSError as error:
        raise GgdjaxError(
            f"`{argument}` {_shown(path)} cannot be read ({error.strerror or error}): name a file that `save` wrote"
        ) from None


@contextmanager
def decoding(path: os.PathLike[str] | str, argument: str = "path") -> Generator[None]:
    """Turn what goes wrong while the block decodes a record or arrays of ``path`` into one line that names the file.

    Raises:
        GgdjaxError: the block raises one, or a `KeyError`, `TypeError` or the like.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        name = "" if isinstance(error, GgdjaxError) else f"{type(error).__name__}: "
        reason = " ".join(f"{name}{error}".split())
        raise GgdjaxError(
            f"`{argument}` {_shown(path)} does not hold what it should ({reason}): save it again with this version"
        ) from None


def dumps(record: Any, indent: int | None = None) -> str:
    """Return JSON: tuples become lists, NumPy's scalars numbers, and infinity ``{"float": "inf"}``; NaN likewise.

    Raises:
        GgdjaxError: the record holds something else.
    """
    try:
        return json.dumps(
            _plain(record), allow_nan=False, indent=indent, separators=(",", ":") if indent is None else None
        )
    except TypeError as error:
        raise GgdjaxError(f"`record` cannot be written as JSON: {error}") from None


def loads(text: str | bytes) -> Any:
    """Return what `dumps` wrote; tuples come back as lists."""
    return json.loads(text, object_hook=_floats)


def select(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names begin with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is no string")
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return {"float": str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _floats(value: dict[str, Any]) -> Any:
    return float(value["float"]) if value.keys() == {"float"} and value["float"] in ("inf", "-inf", "nan") else value


def _read(
    path: Path, stream: BufferedReader, kinds: Collection[str], argument: str
) -> tuple[str, Any, dict[str, np.ndarray]]:
    shown, size = _shown(path), os.fstat(stream.fileno()).st_size
    foreign = f"`{argument}` {shown} is no file of ggdjax, or cut off: name a file that `save` wrote"
    start = stream.read(9)
    length = int.from_bytes(start[:8], "little")
    if start[8:] != b"{" or length > min(_LARGEST_HEADER, size - 8):
        raise GgdjaxError(foreign)
    text = start[8:] + stream.read(length - 1)
    try:
        header = json.loads(text)
        metadata = header.pop(_METADATA, {})
        other = metadata.get("format") != FORMAT
    except (ValueError, RecursionError, AttributeError, TypeError):
        raise GgdjaxError(foreign) from None
    if other:
        raise GgdjaxError(
            f"`{argument}` {shown} is a safetensors file of another program: name a file that `save` wrote"
        )
    version, digest = str(metadata.get("version")), str(metadata.get("sha256"))
    if version.isdecimal() and len(version) < 10 and int(version) > VERSION:
        raise GgdjaxError(
            f"`{argument}` {shown} was written by a newer version (format {int(version)}; this one reads {VERSION}): "
            "upgrade ggdjax"
        )
    body = np.empty(size - 8 - length, np.uint8)
    got = stream.readinto(body.data)
    found = hashlib.sha256(start[:8] + text.replace(digest.encode("utf-8", "replace"), _UNSET, 1))
    found.update(body.data)
    if got != body.size or found.hexdigest() != digest or version != str(VERSION):
        raise GgdjaxError(f"`{argument}` {shown} is damaged or cut off (its SHA-256 differs): copy it or save it again")
    body.flags.writeable = False
    with decoding(path, argument):
        kind, record = metadata["kind"], loads(metadata["record"])
        arrays = {name: _array(body, **entry) for name, entry in header.items()}
    if kind not in kinds:
        raise GgdjaxError(f"`{argument}` {shown} holds a {kind}, expected a {' or a '.join(kinds)}: name another file")
    return kind, record, arrays


def _array(body: np.ndarray, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    start, stop = data_offsets
    return body[start:stop].view(_DTYPES[dtype]).reshape(shape)


def _storable(name: str, array: Any) -> np.ndarray:
    array = np.asarray(array, order="C")
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _NAMES or name == _METADATA:
        raise GgdjaxError(
            f"the array `{name}` of type {array.dtype} cannot be saved: convert it to float32, or rename it"
        )
    return array.astype(dtype, copy=False)


def _target(path: os.PathLike[str] | str, argument: str) -> Path:
    """Return the file to write, links followed."""
    path = expect_path(argument, path)
    try:
        taken = stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        taken = False
    except OSError as error:
        raise GgdjaxError(f"`{argument}` {_shown(path)} cannot be written: {error.strerror}; choose another") from None
    if taken:
        raise GgdjaxError(f"`{argument}` {_shown(path)} is a folder: name a file in it")
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise GgdjaxError(f"`{argument}` {_shown(path)} cannot be written: its folder does not exist; make it first")
    return path


def _shown(path: os.PathLike[str] | str) -> str:
    """Return a path for a message, which is one line."""
    text = str(path)
    return text if text.isprintable() else repr(text)
