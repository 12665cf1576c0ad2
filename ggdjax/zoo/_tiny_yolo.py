"""Tiny YOLO v2: a detector's backbone with leaky ReLU (Redmon and Farhadi 2017; Darknet's `yolov2-tiny-voc.cfg`)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from flax import nnx

from ggdjax.zoo._blocks import ConvBlock, leaky_relu, max_pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Array, Float

#: Channels of the 3×3 convolutions. A max pooling follows all but the last two; the last pooling has stride 1.
CHANNELS = (16, 32, 64, 128, 256, 512, 1024, 1024)
ANCHORS = 5


class TinyYoloV2(nnx.Module):
    """Convolutions 3×3 and a 1×1 that predicts, per cell and anchor, a box, its objectness and the classes."""

    def __init__(self, channels: Sequence[int] = CHANNELS, *, num_classes: int, rngs: nnx.Rngs):
        self.convs = nnx.List(
            [
                ConvBlock(chan_in, chan_out, 3, activation=leaky_relu, rngs=rngs)
                for chan_in, chan_out in pairwise((3, *channels))
            ]
        )
        self.head = ConvBlock(channels[-1], ANCHORS * (5 + num_classes), 1, norm=False, activation=None, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width 3"]) -> Float[Array, "batch rows cols boxes"]:
        """Return the raw predictions: 5 + classes numbers for each anchor of each cell of 32×32 pixels."""
        last_pool = len(self.convs) - 3
        for k, conv in enumerate(self.convs):
            x = conv(x)
            if k < last_pool:
                x = max_pool(x, 2, 2)
            elif k == last_pool:
                x = nnx.max_pool(x, (2, 2), (1, 1), ((0, 1), (0, 1)))
        return self.head(x)
