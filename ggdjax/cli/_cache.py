"""JAX's persistent compilation cache, in the user's cache folder: a second run of a command compiles nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: All programs are kept, those of milliseconds as well: a network has dozens of them.
_LEAST_SECONDS = "0"


def enable_cache() -> Path | None:
    """Have JAX keep compiled programs between runs, and return the folder; None where they are not kept.

    The folder is ``$GGDJAX_CACHE/jax``, else ``$XDG_CACHE_HOME/ggdjax/jax``, else ``~/.cache/ggdjax/jax``;
    ``GGDJAX_CACHE=off`` keeps nothing. ``JAX_COMPILATION_CACHE_DIR``, where it is set, decides by itself, and a folder
    that cannot be written is left alone. JAX reads the variables that this sets when it is imported: call it before.
    """
    if own := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(own)
    folder = os.environ.get("GGDJAX_CACHE", "")
    if folder.lower() == "off" or "jax" in sys.modules:
        return None
    if not folder:
        folder = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join(Path.home(), ".cache"), "ggdjax")
    kept = Path(folder).absolute() / "jax"
    try:
        kept.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(kept, os.W_OK):
        return None
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(kept)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", _LEAST_SECONDS)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    return kept
