"""Rows of a benchmark's results file: some measured again while others stay, and lines that outlive a kill."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Row = dict[str, Any]


def merged(path: Path, new: list[Row], *keys: str) -> list[Row]:
    """Return the ``rows`` of a JSON file but for those that agree with a new one in all ``keys``, then the new ones."""
    old = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    replaced = {tuple(row[key] for key in keys) for row in new}
    return [row for row in old if tuple(row[key] for key in keys) not in replaced] + new


def read_lines(path: Path) -> list[Row]:
    """Return the rows of a JSON-lines file; what follows the last line feed is a torn line, or nothing."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.is_file() else []


def append_line(path: Path, row: Row) -> None:
    """Add a row to a JSON-lines file, in place of a torn last line."""
    with path.open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(row).encode() + b"\n")
