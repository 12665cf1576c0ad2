"""Signal to quantization noise ratio."""

from __future__ import annotations

import math


def sqnr_db(energy: float, error: float) -> float:
    """Return ``10 log10(energy / error)``: infinite without error, NaN without signal."""
    if energy == 0.0:
        return math.nan
    return math.inf if error == 0.0 else 10.0 * math.log10(energy / error)
