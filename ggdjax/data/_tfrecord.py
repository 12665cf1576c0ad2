"""TFRecord files, TFDS's default format, with random access and without TensorFlow.

A file is a row of records: length (uint64, little endian), its checksum (4 bytes), the bytes, their checksum (4 bytes).
The lengths alone lead from record to record, so that a file is indexed by reading 8 bytes per record.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jaxtyping import Int

_HEADER, _FOOTER = 12, 4


class TfRecords:
    """The records of several files, one after the other; ``lengths[i]`` is the number of records in ``files[i]``.

    A file is indexed when its first record is asked for. Reading from several threads is safe.
    """

    def __init__(self, files: Sequence[Path], lengths: Sequence[int]):
        self._files = list(files)
        self._starts = np.cumsum([0, *lengths])
        self._offsets: dict[int, Int[np.ndarray, " record"]] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> bytes:
        """Return the bytes of record ``index``.

        Raises:
            DataError: a file that is missing, cut short or holds another number of records.
        """
        place = int(np.searchsorted(self._starts, index, side="right")) - 1
        file = self._files[place]
        try:
            with file.open("rb") as stream:
                if place not in self._offsets:
                    self._offsets[place] = _index(stream, int(self._starts[place + 1] - self._starts[place]))
                stream.seek(self._offsets[place][index - self._starts[place]])
                (length,) = struct.unpack("<Q", stream.read(_HEADER)[:8])
                return stream.read(length)
        except (OSError, struct.error) as error:
            raise DataError(f"`{file}` is missing or damaged ({error}): prepare the set anew") from None


def _index(stream, count: int) -> Int[np.ndarray, " record"]:
    """Return where each record of an open file begins."""
    size = stream.seek(0, 2)
    offsets, here = [], 0
    while here < size and len(offsets) <= count:
        offsets.append(here)
        stream.seek(here)
        here += _HEADER + struct.unpack("<Q", stream.read(8))[0] + _FOOTER
    if len(offsets) != count or here != size:
        raise OSError(f"it does not hold {count} whole records")
    return np.asarray(offsets, np.int64)
