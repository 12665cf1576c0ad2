"""Tiny YOLO v2: a detector's backbone with leaky ReLU (Redmon and Farhadi 2017; Darknet's `yolov2-tiny-voc.cfg`)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from flax import nnx

from ggdjax.zoo.blocks import ConvBlock, leaky_relu, max_pool

if TYPE_CHECKING:
    from jaxtyping import Array, Float

#: Channels of the convolutions that a max pooling follows; the last of these poolings has stride 1.
POOLED = (16, 32, 64, 128, 256, 512)
ANCHORS = 5


class TinyYoloV2(nnx.Module):
    """Eight convolutions 3×3 and a 1×1 that predicts, per cell and anchor, a box, its objectness and the classes."""

    def __init__(self, *, num_classes: int, rngs: nnx.Rngs):
        chans = (3, *POOLED, 1024, 1024)
        self.convs = nnx.List(
            [ConvBlock(chan_in, chan_out, 3, activation=leaky_relu, rngs=rngs) for chan_in, chan_out in pairwise(chans)]
        )
        self.head = ConvBlock(chans[-1], ANCHORS * (5 + num_classes), 1, norm=False, activation=None, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width 3"]) -> Float[Array, "batch rows cols boxes"]:
        """Return the raw predictions: 5 + classes numbers for each anchor of each cell of 32×32 pixels."""
        for k, conv in enumerate(self.convs):
            x = conv(x)
            if k < len(POOLED) - 1:
                x = max_pool(x, 2, 2)
            elif k == len(POOLED) - 1:
                x = nnx.max_pool(x, (2, 2), (1, 1), ((0, 1), (0, 1)))
        return self.head(x)
