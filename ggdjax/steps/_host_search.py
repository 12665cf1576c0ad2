"""The search of `best_fractional_length` in NumPy: for the layers of a network, each of a shape of its own.

Compiled, every shape is a program; computed here, a network of a million weights takes a fraction of a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ggdjax.steps._fixed_point import FRAC_BITS_MAX

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def fractional_lengths(rows: Float[np.ndarray, "row value"], bits: int) -> Int[np.ndarray, " row"]:
    """Return the fractional length of least squared error of every row; int32, as `best_fractional_length` does.

    Roundings are those of float32, sums of squares those of float64. Values that are not finite are left out.
    """
    rows = np.where(np.isfinite(rows), rows, np.float32(0.0)).astype(np.float32)
    peak = np.abs(rows).max(axis=1)
    # XLA takes subnormal numbers as zeros.
    peak = np.where(peak < np.finfo(np.float32).tiny, np.float32(0.0), peak)
    exponent = np.frexp(peak)[1].astype(np.int32)
    unit = np.ldexp(rows, -exponent[:, None])
    largest = np.float32(2.0) ** np.float32(bits - 1)
    best_frac_bits = np.clip(bits - 2 - exponent, -FRAC_BITS_MAX, FRAC_BITS_MAX)
    frac_bits, best = best_frac_bits.copy(), np.full(peak.shape, np.inf)
    open_ = np.flatnonzero(peak > 0)
    while open_.size:
        scale = (frac_bits + exponent)[open_, None]
        up, down = (np.ldexp(np.float32(1.0), shift) for shift in (scale, -scale))
        x = unit[open_] * up
        clipped = np.clip(x, -largest, largest - np.float32(1.0))
        error, overload = (_energy((x - to) * down) for to in (np.rint(clipped), clipped))
        better = error < best[open_]
        best_frac_bits[open_[better]] = frac_bits[open_[better]]
        best[open_] = np.minimum(error, best[open_])
        more = (overload < best[open_]) & (frac_bits[open_] < FRAC_BITS_MAX)
        frac_bits[open_] = np.minimum(frac_bits[open_] + 1, FRAC_BITS_MAX)
        open_ = open_[more]
    return np.where(peak > 0, best_frac_bits, bits - 1).astype(np.int32)


def _energy(x: Float[np.ndarray, "row value"]) -> Float[np.ndarray, " row"]:
    return np.square(x).sum(axis=1, dtype=np.float64)
