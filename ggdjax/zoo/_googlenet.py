"""GoogLeNet, the first Inception network (Szegedy et al. 2015, Table 1), without its auxiliary classifiers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
from flax import nnx

from ggdjax.zoo._blocks import ConvBlock, global_average, local_response_norm, max_pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Array, Float

    from ggdjax.zoo._blocks import FeatureMap


class Widths(NamedTuple):
    """Channels of one inception module, in the order of the columns of the paper's Table 1."""

    one: int
    reduce3: int
    three: int
    reduce5: int
    five: int
    pool: int


#: Modules between max poolings: 3a 3b, 4a … 4e, 5a 5b.
TABLE1 = (
    (Widths(64, 96, 128, 16, 32, 32), Widths(128, 128, 192, 32, 96, 64)),
    (
        Widths(192, 96, 208, 16, 48, 64),
        Widths(160, 112, 224, 24, 64, 64),
        Widths(128, 128, 256, 24, 64, 64),
        Widths(112, 144, 288, 32, 64, 64),
        Widths(256, 160, 320, 32, 128, 128),
    ),
    (Widths(256, 160, 320, 32, 128, 128), Widths(384, 192, 384, 48, 128, 128)),
)


class Inception(nnx.Module):
    """1×1, 3×3, 5×5 convolutions and a projected max pooling, side by side."""

    def __init__(self, chan_in: int, widths: Widths, *, rngs: nnx.Rngs):
        conv = partial(ConvBlock, norm=False, rngs=rngs)
        self.one = conv(chan_in, widths.one, 1)
        self.reduce3 = conv(chan_in, widths.reduce3, 1)
        self.three = conv(widths.reduce3, widths.three, 3)
        self.reduce5 = conv(chan_in, widths.reduce5, 1)
        self.five = conv(widths.reduce5, widths.five, 5)
        self.pool = conv(chan_in, widths.pool, 1)
        self.chan_out = widths.one + widths.three + widths.five + widths.pool

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Return the four branches, concatenated."""
        pooled = self.pool(max_pool(x, 3, 1, padding=1))
        branches = (self.one(x), self.three(self.reduce3(x)), self.five(self.reduce5(x)), pooled)
        return jnp.concatenate(branches, axis=-1)


class GoogLeNet(nnx.Module):
    """Three convolutions with response normalization, inception modules by ``table``, global average, linear."""

    def __init__(self, table: Sequence[Sequence[Widths]] = TABLE1, *, num_classes: int, rngs: nnx.Rngs):
        self.conv1 = ConvBlock(3, 64, 7, stride=2, norm=False, rngs=rngs)
        self.reduce2 = ConvBlock(64, 64, 1, norm=False, rngs=rngs)
        self.conv2 = ConvBlock(64, 192, 3, norm=False, rngs=rngs)
        stages, chan = [], 192
        for rows in table:
            modules = []
            for widths in rows:
                modules.append(Inception(chan, widths, rngs=rngs))
                chan = modules[-1].chan_out
            stages.append(nnx.List(modules))
        self.stages = nnx.List(stages)
        self.head = nnx.Linear(chan, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width 3"]) -> Float[Array, "batch classes"]:
        """Return the logits."""
        x = local_response_norm(max_pool(self.conv1(x), 3, 2, ceil=True))
        x = local_response_norm(self.conv2(self.reduce2(x)))
        for stage in self.stages:
            x = max_pool(x, 3, 2, ceil=True)
            for module in stage:
                x = module(x)
        return self.head(global_average(x))
