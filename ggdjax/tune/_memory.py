"""How much memory may be used where nobody said: a quarter of what there is."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import jax

#: Where neither the device nor the system tells.
_UNKNOWN = 8 << 30
#: Limits of containers: control groups of version 2 and 1.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@cache
def quarter_of_host() -> int:
    """Return a quarter of the memory of this machine, or of its container, in bytes."""
    known = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        known.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _LIMITS:
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():  # "max": no limit
            known.append(int(text))
    return min(known, default=_UNKNOWN) // 4


@cache
def quarter_of_device() -> int:
    """Return a quarter of the memory of JAX's default device, in bytes; of a CPU, that of the machine."""
    device = jax.local_devices()[0]
    stats = None if device.platform == "cpu" else device.memory_stats()
    limit = (stats or {}).get("bytes_limit", 0)
    return limit // 4 if limit else quarter_of_host()
