"""Tensors to try schemes on, and the quantizer in NumPy."""

from __future__ import annotations

import numpy as np


def samples() -> dict[str, np.ndarray]:
    """Ordinary tensors and every kind that leaves little or nothing to choose."""
    rng = np.random.default_rng(7)
    rectified = np.maximum(rng.normal(size=20_000), 0)
    tensors = {
        "rectified": rectified,
        "two-sided": rng.laplace(size=20_000),
        "bounded": rng.uniform(-2.1, 2.6, size=20_000),
        "heavy": rng.gamma(0.4, size=20_000) ** 2,
        "negative": -rectified,
        "huge": rectified * 1e37,
        "tiny": rectified * 1e-34,
        "not finite": np.append(rectified, [np.inf, -np.inf, np.nan]),
        "two values": np.repeat([0.25, 3.0], 500),
        "zeros and one outlier": np.append(np.zeros(10_000), 7.5),
        "constant": np.full(1000, 3.7),
        "both signs of one value": np.repeat([-1.5, 0.0, 1.5], 100),
        "single value": np.array([-0.3]),
        "all zero": np.array([0.0, -0.0, 0.0]),
        "empty": np.array([]),
    }
    return {name: values.astype(np.float32) for name, values in tensors.items()}


def quantize(x: np.ndarray, chosen, index: int | tuple[int, ...] = ()) -> np.ndarray:
    """Reconstruct float64 samples by one element of a Choice: its documented formula, in NumPy."""
    zero_point = np.zeros_like(chosen.step) if chosen.zero_point is None else chosen.zero_point
    step, low, high, zero = (
        np.asarray(field)[index].astype(np.float64) for field in (chosen.step, chosen.qmin, chosen.qmax, zero_point)
    )
    return step * (np.clip(np.round(x.astype(np.float64) / step) + zero, low, high) - zero)


def sqnr_db(x: np.ndarray, x_hat: np.ndarray) -> float:
    """Return 10 log10(Σ x² / Σ (x − x_hat)²)."""
    return 10 * np.log10(np.sum(x.astype(np.float64) ** 2) / np.sum((x - x_hat) ** 2))
