"""Rows of a benchmark's results file: lines that outlive a kill."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Row = dict[str, Any]


def read_lines(path: Path) -> list[Row]:
    """Return the rows of a JSON-lines file; what follows the last line feed is a torn line, or nothing."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.is_file() else []


def append_line(path: Path, row: Row) -> None:
    """Add a row to a JSON-lines file, in place of a torn last line."""
    with path.open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(row).encode() + b"\n")
