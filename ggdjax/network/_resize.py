"""Resizing by nearest neighbour or linear interpolation, one axis at a time, as ONNX Resize."""

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
) -> Array:
    """Resize the axes of ``x``.

    Args:
      x: any rank.
      sizes: size of each axis of the result; None leaves the axis as it is.
      scales: result size over input size as the model states it (the quotient of sizes need not be exactly
        that).
      method: ``nearest`` or ``linear``.
      coordinates: where a result sample lies in the input: ``half_pixel``, ``pytorch_half_pixel``,
        ``asymmetric``,
        ``align_corners``, ``half_pixel_symmetric``.
      rounding: of nearest: ``round_prefer_floor``, ``round_prefer_ceil``, ``floor``, ``ceil``.
    """
    for axis, (size, scale) in enumerate(zip(sizes, scales, strict=True)):
        if size is None:
            continue
        length = x.shape[axis]
        at = _coordinates(length, size, scale, coordinates)
        if method == "nearest":
            index = np.clip(_ROUNDING[rounding](at), 0, length - 1).astype(np.int32)
            x = jnp.take(x, jnp.asarray(index), axis=axis)
        else:
            at = np.clip(at, 0, length - 1)
            low = np.floor(at).astype(np.int32)
            high = np.minimum(low + 1, length - 1)
            weight = np.expand_dims((at - low).astype(np.float32), tuple(k for k in range(x.ndim) if k != axis))
            below, above = (jnp.take(x, jnp.asarray(index), axis=axis) for index in (low, high))
            x = below * (1.0 - weight) + above * weight
    return x


def _coordinates(length: int, size: int, scale: float, coordinates: str) -> np.ndarray:
    """Return where each result sample lies in the input (float64, computed while tracing)."""
    k = np.arange(size, dtype=np.float64)
    if coordinates == "asymmetric":
        return k / scale
    if coordinates == "align_corners":
        return k * (length - 1) / (size - 1) if size > 1 else 0 * k
    if coordinates == "pytorch_half_pixel" and size == 1:
        return 0 * k
    centred = (k + 0.5) / scale - 0.5
    if coordinates == "half_pixel_symmetric":
        # The result is centred on the input even where scale · length is not an integer.
        centred = centred + length / 2 * (1 - size / (scale * length))
    return centred


_ROUNDING = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
