"""A frozen dataclass from the fields of a file; whatever is wrong names the file."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

from ggdjax._errors import GgdjaxError, near_matches

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")


def from_fields(cls: type[T], fields: dict[str, Any], path: Path | str) -> T:
    """Return ``cls(**fields)``.

    Raises:
        GgdjaxError: a field is unknown or refused by ``cls``.
    """
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in fields:
        if name not in known:
            raise GgdjaxError(f"{path}: unknown field `{name}`; {near_matches(name, known)}")
    try:
        return cls(**fields)
    except GgdjaxError as error:
        raise GgdjaxError(f"{path}: {error}") from None
