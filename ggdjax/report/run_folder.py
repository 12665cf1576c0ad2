"""The folder that one run leaves: whole or not at all."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggdjax._errors import GgdjaxError, expect_path
from ggdjax._whole import whole_file, whole_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The file that makes a folder a run folder, and the key in it that only ggdjax writes.
RESULT_FILE, RESULT_KEY = "result.json", "ggdjax_result"


def check_run_folder(out: Path) -> None:
    """Refuse an ``out`` that exists and was not left by an earlier run; a missing or empty folder is fine.

    Raises:
        GgdjaxError: ``out`` is a file, or a folder with other content.
    """
    out = expect_path("--out", out, "the name of a folder")
    if out.is_dir():
        if any(out.iterdir()) and not _is_run_folder(out):
            raise GgdjaxError(f"`--out` {out} exists and is no run folder of ggdjax: choose another folder")
    elif out.exists():
        raise GgdjaxError(f"`--out` {out} is a file: choose a folder")


@contextmanager
def new_run_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``out`` that takes its place when the block ends well, and vanishes otherwise.

    An earlier run at ``out`` is replaced as a whole. While the block runs, no other process may write the same ``out``.

    Raises:
        GgdjaxError: ``out`` is another process's, or see :func:`check_run_folder`.
    """
    out = expect_path("--out", out, "the name of a folder")
    check_run_folder(out)
    with whole_folder(out, "--out") as folder:
        yield folder


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write ``result.json``; NaN and infinity, which JSON lacks, become null."""
    folder = expect_path("folder", folder, "the name of a folder")
    text = json.dumps({RESULT_KEY: 1, **_plain(result)}, indent=1, allow_nan=False, ensure_ascii=False)
    with whole_file(folder / RESULT_FILE, "folder") as part:
        part.write_text(text + "\n", encoding="utf-8")


def _is_run_folder(folder: Path) -> bool:
    try:
        return RESULT_KEY in json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
