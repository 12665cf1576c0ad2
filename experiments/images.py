"""What benchmarks do with parts of images: choose some, read them behind a bar, calibrate on them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import track

from ggdjax import data, quantization

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ggdjax.data import ImageSet
    from ggdjax.network import Network
    from ggdjax.quantization import Calibration


def some(images: ImageSet, part: np.ndarray, count: int | None) -> np.ndarray:
    """Return up to ``count`` images of a part (all where None), chosen by their ids alone."""
    return part[np.sort(data.hash_order([images.ids[i] for i in part], seed=0)[:count])]


def read(images: ImageSet, part: np.ndarray, size: int, what: str) -> Iterable[Any]:
    """Yield batches of a part with their labels behind a bar."""
    return track(images.batches(part, size), what, math.ceil(len(part) / size))


def calibrate(
    net: Network, images: ImageSet, part: np.ndarray, size: int, what: str, *, per_channel: bool = False
) -> Calibration:
    """Return the calibration of a network on a part, counted behind a bar."""
    batches = (x for x, _ in read(images, part, size, what))
    return quantization.calibrate(net, batches, preprocessing=images.preprocessing, per_channel=per_channel)
