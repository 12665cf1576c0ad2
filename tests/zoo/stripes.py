"""A task that a network of three layers learns in seconds: rows or columns of an image are bright."""

from __future__ import annotations

import numpy as np
from flax import nnx

from ggdjax.data import Preprocessing, from_arrays
from ggdjax.zoo._blocks import ConvBlock, global_average


class Tiny(nnx.Module):
    """Two convolutions and a dense layer; logits of two classes."""

    def __init__(self, chan: int = 1, *, rngs: nnx.Rngs):
        self.conv1 = ConvBlock(chan, 4, 3, rngs=rngs)
        self.conv2 = ConvBlock(4, 4, 3, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(global_average(self.conv2(self.conv1(x))))


def striped_pixels(count: int):
    """Return ``count`` images 8×8, striped along one axis or the other, with noise; and which axis."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    bright = rng.integers(0, 2, (count, 8, 1)) * 160 + rng.integers(0, 90, (count, 8, 8))
    pixels = np.where(labels[:, None, None] == 1, bright, bright.swapaxes(1, 2)).astype(np.uint8)
    return pixels, labels


def stripes(count: int):
    """Return `striped_pixels` as an image set."""
    preprocessing = Preprocessing(colour_order="GRAY", layout="NHWC", mean=(0.5,), std=(0.25,))
    return from_arrays(*striped_pixels(count), preprocessing, name="stripes")
