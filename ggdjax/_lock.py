"""One process at a time on one output: an operating system's lock, which goes with the process that holds it.

By hand, because the package `filelock` leaves its file beside every result on POSIX systems; POSIX only.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ggdjax._errors import GgdjaxError

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def exclusive(place: os.PathLike[str] | str, argument: str, *, wait: bool = False) -> Generator[None]:
    """Hold ``place``, a file or folder that need not be there yet, for this process alone while the block runs.

    The lock is on the file `.NAME.lock` beside it, which goes when the block ends; a killed process leaves the file,
    but no lock. Folders above ``place`` are made, and go again if the block leaves them empty.

    Args:
        place: what is about to be written.
        argument: how messages call it.
        wait: wait for a process that holds the place, instead of refusing.

    Raises:
        GgdjaxError: another process holds the place (unless ``wait``), or nothing can be written there.
    """
    place = Path(place).resolve()
    lock = place.with_name(f".{place.name}.lock")
    made = [folder for folder in place.parents if not folder.exists()]
    try:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _locked(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise GgdjaxError(
                f"`{argument}` {place} cannot be written: {error.strerror}; choose a place with permission and space"
            ) from None
        if descriptor is None:
            raise GgdjaxError(
                f"`{argument}` {place} is being written by another process: wait until that ends, or choose another"
            )
        try:
            yield
        finally:
            # Removed while it is held: whoever opened it before looks whether it is still there.
            lock.unlink(missing_ok=True)
            os.close(descriptor)
    finally:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def _locked(lock: Path, how: int) -> int | None:
    """Return a descriptor of the file, locked, or None where another process has it."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, how)
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        # The file was removed between opening and locking: another one may stand in its place.
        os.close(descriptor)
