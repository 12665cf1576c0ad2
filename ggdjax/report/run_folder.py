"""The folder that one run leaves: whole or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggdjax._errors import GgdjaxError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The file that makes a folder a run folder, and the key in it that only ggdjax writes.
RESULT_FILE, RESULT_KEY = "result.json", "ggdjax_result"


def check_run_folder(out: Path) -> None:
    """Refuse an ``out`` that exists and was not left by an earlier run; a missing or empty folder is fine.

    Raises:
        GgdjaxError: ``out`` is a file, a folder with other content, or lies in a place that cannot be written.
    """
    if out.is_dir():
        if any(out.iterdir()) and not _is_run_folder(out):
            raise GgdjaxError(f"`--out` {out} exists and is no run folder of ggdjax: choose another folder")
    elif out.exists():
        raise GgdjaxError(f"`--out` {out} is a file: choose a folder")
    parent = next(p for p in out.resolve().parents if p.exists())
    if not os.access(parent, os.W_OK):
        raise GgdjaxError(f"`--out` {out} cannot be created: no permission to write in {parent}")


@contextmanager
def new_run_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``out`` that takes its place when the block ends well, and vanishes otherwise.

    An earlier run at ``out`` is replaced as a whole.

    Raises:
        GgdjaxError: see :func:`check_run_folder`.
    """
    check_run_folder(out)
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if out.exists():
            # A rename cannot replace a full folder: the old run steps aside first, and goes when the new one stands.
            aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
            out.rename(aside / out.name)
            partial.rename(out)
            shutil.rmtree(aside)
        else:
            partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write ``result.json``; NaN and infinity, which JSON lacks, become null."""
    text = json.dumps({RESULT_KEY: 1, **_plain(result)}, indent=1, allow_nan=False, ensure_ascii=False)
    (folder / RESULT_FILE).write_text(text + "\n", encoding="utf-8")


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
