"""SqueezeNet 1.0 and 1.1 (Iandola et al. 2016), as torchvision builds them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import nnx

from ggdjax.zoo._blocks import ConvBlock, global_average, max_pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Array, Float

    from ggdjax.zoo._blocks import FeatureMap

#: (squeeze, expand) of the fire modules between max poolings; the paper's Table 1, and the authors' version 1.1.
V1_0 = (((16, 64), (16, 64), (32, 128)), ((32, 128), (48, 192), (48, 192), (64, 256)), ((64, 256),))
V1_1 = (((16, 64), (16, 64)), ((32, 128), (32, 128)), ((48, 192), (48, 192), (64, 256), (64, 256)))


class Fire(nnx.Module):
    """1×1 squeeze, then 1×1 and 3×3 expansions side by side."""

    def __init__(self, chan_in: int, squeeze: int, expand: int, *, rngs: nnx.Rngs):
        conv = partial(ConvBlock, norm=False, rngs=rngs)
        self.squeeze = conv(chan_in, squeeze, 1)
        self.expand1 = conv(squeeze, expand, 1)
        self.expand3 = conv(squeeze, expand, 3)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Return the two expansions, concatenated."""
        x = self.squeeze(x)
        return jnp.concatenate((self.expand1(x), self.expand3(x)), axis=-1)


class SqueezeNet(nnx.Module):
    """Stem of ``chan`` channels, fire modules by ``stages``, a 1×1 convolution per class, global average."""

    def __init__(
        self,
        stages: Sequence[Sequence[tuple[int, int]]],
        *,
        chan: int,
        kernel: int,
        num_classes: int,
        rngs: nnx.Rngs,
    ):
        self.stem = ConvBlock(3, chan, kernel, stride=2, padding=0, norm=False, rngs=rngs)
        modules = []
        for stage in stages:
            fires = []
            for squeeze, expand in stage:
                fires.append(Fire(chan, squeeze, expand, rngs=rngs))
                chan = 2 * expand
            modules.append(nnx.List(fires))
        self.stages = nnx.List(modules)
        self.head = ConvBlock(chan, num_classes, 1, norm=False, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width 3"]) -> Float[Array, "batch classes"]:
        """Return the logits (not negative: a ReLU precedes the average, as in the paper)."""
        x = self.stem(x)
        for stage in self.stages:
            x = max_pool(x, 3, 2, ceil=True)
            for fire in stage:
                x = fire(x)
        return global_average(self.head(x))
