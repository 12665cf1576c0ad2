"""EfficientNet-B0 (Tan and Le 2019, Table 1), as torchvision builds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from ggdjax.zoo._blocks import ConvBlock, global_average

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Array, Float

    from ggdjax.zoo._blocks import FeatureMap


class Stage(NamedTuple):
    """One line of the paper's Table 1."""

    expansion: int
    kernel: int
    chan: int
    blocks: int
    stride: int


B0 = (
    Stage(1, 3, 16, 1, 1),
    Stage(6, 3, 24, 2, 2),
    Stage(6, 5, 40, 2, 2),
    Stage(6, 3, 80, 3, 2),
    Stage(6, 5, 112, 3, 1),
    Stage(6, 5, 192, 4, 2),
    Stage(6, 3, 320, 1, 1),
)


class SqueezeExcite(nnx.Module):
    """x · sigmoid(expand(silu(squeeze(mean of x)))): a gate per channel (Hu et al. 2018)."""

    def __init__(self, chan: int, squeezed: int, *, rngs: nnx.Rngs):
        self.squeeze = ConvBlock(chan, squeezed, 1, norm=False, activation=nnx.silu, rngs=rngs)
        self.expand = ConvBlock(squeezed, chan, 1, norm=False, activation=jax.nn.sigmoid, rngs=rngs)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Return the gated feature map."""
        return x * self.expand(self.squeeze(jnp.mean(x, axis=(1, 2), keepdims=True)))


class MBConv(nnx.Module):
    """1×1 expansion, depthwise, squeeze-and-excitation, 1×1 linear projection; x is added where the shapes agree."""

    def __init__(self, chan_in: int, chan_out: int, *, expansion: int, kernel: int, stride: int, rngs: nnx.Rngs):
        inner = chan_in * expansion
        self.expand = None if expansion == 1 else ConvBlock(chan_in, inner, 1, activation=nnx.silu, rngs=rngs)
        self.depthwise = ConvBlock(inner, inner, kernel, stride=stride, groups=inner, activation=nnx.silu, rngs=rngs)
        self.excite = SqueezeExcite(inner, chan_in // 4, rngs=rngs)
        self.project = ConvBlock(inner, chan_out, 1, activation=None, rngs=rngs)
        self.residual = stride == 1 and chan_in == chan_out

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Return the block's feature map."""
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.excite(self.depthwise(y)))
        return x + y if self.residual else y


class EfficientNet(nnx.Module):
    """Stem, MBConv ``stages``, 1×1 convolution, global average, linear."""

    def __init__(self, stages: Sequence[Stage] = B0, *, num_classes: int, rngs: nnx.Rngs):
        chan = 32
        self.stem = ConvBlock(3, chan, 3, stride=2, activation=nnx.silu, rngs=rngs)
        blocks = []
        for stage in stages:
            for j in range(stage.blocks):
                stride = stage.stride if j == 0 else 1
                options = {"expansion": stage.expansion, "kernel": stage.kernel, "stride": stride}
                blocks.append(MBConv(chan, stage.chan, **options, rngs=rngs))
                chan = stage.chan
        self.blocks = nnx.List(blocks)
        self.last = ConvBlock(chan, 1280, 1, activation=nnx.silu, rngs=rngs)
        self.head = nnx.Linear(1280, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width 3"]) -> Float[Array, "batch classes"]:
        """Return the logits."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(global_average(self.last(x)))
