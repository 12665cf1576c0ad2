"""Rows of a file of JSON lines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Row = dict[str, Any]


def read_lines(path: Path) -> list[Row]:
    """Return the rows of a JSON-lines file; what follows the last line feed is a torn line, or nothing."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.is_file() else []
