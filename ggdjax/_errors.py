"""Errors that a user can cause. The command line prints each as one line and exits with status 2."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class GgdjaxError(ValueError):
    """What was given, what was expected, what to do: in one line."""


class UnsupportedError(GgdjaxError):
    """A network holds something outside the supported set; the message names it and the alternatives."""


class ModelError(GgdjaxError):
    """A model file is missing, damaged, or not what its name says."""


class DataError(GgdjaxError):
    """Images or labels are missing, unreadable, or do not fit the network."""


def near_matches(name: str, known: Iterable[str]) -> str:
    """Return `did you mean …? known: …` for an unknown ``name``."""
    known = sorted(known)
    close = get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(f'`{c}`' for c in close)}? " if close else ""
    return f"{hint}known: {', '.join(known)}"
