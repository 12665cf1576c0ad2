"""Batches of one size, so that each program compiles once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import GgdjaxError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Shaped


def pad_batch(rows: Shaped[np.ndarray, "row ..."], size: int) -> Shaped[np.ndarray, "{size} ..."]:
    """Return up to ``size`` rows, at least one, padded with copies of the first to ``size``."""
    short = size - len(rows)
    return np.concatenate([rows, np.repeat(rows[:1], short, axis=0)]) if short else rows


def batches_of(
    images: Shaped[np.ndarray, "image ..."], size: int
) -> Iterator[tuple[Shaped[np.ndarray, "{size} ..."], int]]:
    """Yield all images in batches of ``size``, and how many rows of each are images: the last one is padded.

    Raises:
        GgdjaxError: ``size``, a caller's ``batch_size``, is less than 1.
    """
    if size < 1:
        raise GgdjaxError(f"`batch_size` must be at least 1, got {size}")
    for first in range(0, len(images), size):
        batch = images[first : first + size]
        yield pad_batch(batch, size), len(batch)
