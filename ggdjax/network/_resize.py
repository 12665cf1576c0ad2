"""Resizing by nearest neighbour, linear or cubic interpolation, one axis at a time, as ONNX Resize.

By hand, because `jax.image.resize` has one of ONNX's rules for coordinates alone.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def resize(
    x: Array,
    *,
    sizes: tuple[int | None, ...],
    scales: tuple[float, ...],
    method: str,
    coordinates: str,
    rounding: str,
    cubic: float = -0.75,
    exclude_outside: bool = False,
) -> Array:
    """Resize the axes of ``x``.

    Args:
      x: any rank.
      sizes: size of each axis of the result; None leaves the axis as it is.
      scales: result size over input size as the model states it (the quotient of sizes need not be exactly
        that).
      method: ``nearest``, ``linear`` or ``cubic``.
      coordinates: where a result sample lies in the input: ``half_pixel``, ``pytorch_half_pixel``,
        ``asymmetric``,
        ``align_corners``, ``half_pixel_symmetric``.
      rounding: of nearest: ``round_prefer_floor``, ``round_prefer_ceil``, ``floor``, ``ceil``.
      cubic: coefficient of the cubic kernel (Keys 1981).
      exclude_outside: whether a cubic kernel leaves out samples beyond the ends instead of repeating the last.
    """
    for axis, (size, scale) in enumerate(zip(sizes, scales, strict=True)):
        if size is None:
            continue
        index, weight = taps(x.shape[axis], size, scale, method, coordinates, rounding, cubic, exclude_outside)
        taken = [jnp.take(x, jnp.asarray(at), axis=axis) for at in index]
        if method == "nearest":
            (x,) = taken
            continue
        others = tuple(k for k in range(x.ndim) if k != axis)
        terms = [value * np.expand_dims(factor, others) for value, factor in zip(taken, weight, strict=True)]
        x = sum(terms[1:], terms[0])
    return x


def taps(
    length: int,
    size: int,
    scale: float,
    method: str,
    coordinates: str,
    rounding: str,
    cubic: float = -0.75,
    exclude_outside: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the input samples of which each result sample is a weighted sum, and the weights, float32: [tap, size]."""
    at = _coordinates(length, size, scale, coordinates)
    if method == "nearest":
        index = np.clip(_ROUNDING[rounding](at), 0, length - 1).astype(np.int32)
        return index[None], np.ones((1, size), np.float32)
    if method == "linear":
        at = np.clip(at, 0, length - 1)
        low = np.floor(at).astype(np.int32)
        weight = (at - low).astype(np.float32)
        return np.stack([low, np.minimum(low + 1, length - 1)]), np.stack([np.float32(1) - weight, weight])
    low = np.floor(at).astype(np.int32)
    index = low + np.arange(-1, 3, dtype=np.int32)[:, None]
    away = np.abs(at - index)
    inner = ((cubic + 2) * away - (cubic + 3)) * away**2 + 1
    outer = ((away - 5) * away + 8) * away * cubic - 4 * cubic
    weight = np.where(away <= 1, inner, outer)
    if exclude_outside:
        weight = np.where((index >= 0) & (index < length), weight, 0.0)
        weight = weight / weight.sum(0)
    return np.clip(index, 0, length - 1), weight.astype(np.float32)


def _coordinates(length: int, size: int, scale: float, coordinates: str) -> np.ndarray:
    """Return where each result sample lies in the input, in float32 as runtimes compute it: it decides ties."""
    k, scale = np.arange(size, dtype=np.float32), np.float32(scale)
    if coordinates == "asymmetric":
        return k / scale
    if coordinates == "align_corners":
        return k * (length - 1) / (size - 1) if size > 1 else 0 * k
    if coordinates == "pytorch_half_pixel" and size == 1:
        return 0 * k
    centred = (k + np.float32(0.5)) / scale - np.float32(0.5)
    if coordinates == "half_pixel_symmetric":
        # The result is centred on the input even where scale · length is not an integer.
        centred = centred + np.float32(length / 2) * (1 - np.float32(size) / (scale * np.float32(length)))
    return centred


_ROUNDING = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
