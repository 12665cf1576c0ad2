"""What made a result: code, versions, device."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from ggdjax import __version__

_ROOT = Path(__file__).resolve().parents[1]


def code_version() -> dict[str, Any]:
    """Return the commit and whether tracked files differ from it; without git, the version of the package."""
    if not (_ROOT / ".git").exists():
        return {"version": __version__}
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(_ROOT), *what], capture_output=True, text=True, check=True).stdout.strip()
            for what in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return {"version": __version__}
    return {"commit": commit, "dirty": bool(changes)}
