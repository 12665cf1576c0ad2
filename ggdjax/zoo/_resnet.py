"""ResNets: for ImageNet as torchvision builds them, for CIFAR as the paper does (He et al. 2016, §3.3 and §4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import nnx

from ggdjax.zoo._blocks import ConvBlock, global_average, max_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Array, Float

    from ggdjax.zoo._blocks import FeatureMap


class Projection(ConvBlock):
    """Option B of the paper: where the shape changes, the shortcut is a 1×1 convolution with normalization."""

    def __init__(self, chan_in: int, chan_out: int, stride: int, *, rngs: nnx.Rngs):
        super().__init__(chan_in, chan_out, 1, stride=stride, activation=None, rngs=rngs)


class Padding(nnx.Module):
    """Option A of the paper: every ``stride``-th pixel, and half of the missing channels as zeros on either side."""

    def __init__(self, chan_in: int, chan_out: int, stride: int, *, rngs: nnx.Rngs):
        del rngs  # no parameters
        self.stride, self.more = stride, chan_out - chan_in

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Return the shortcut's feature map."""
        before = self.more // 2
        return jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (before, self.more - before)))


class BasicBlock(nnx.Module):
    """relu(shortcut(x) + two convolutions 3×3); the first of them strides."""

    expansion = 1

    def __init__(self, chan_in: int, chan: int, stride: int, shortcut: Callable[..., nnx.Module], *, rngs: nnx.Rngs):
        self.conv1 = ConvBlock(chan_in, chan, 3, stride=stride, rngs=rngs)
        self.conv2 = ConvBlock(chan, chan, 3, activation=None, rngs=rngs)
        self.shortcut = None if (chan_in, stride) == (chan, 1) else shortcut(chan_in, chan, stride, rngs=rngs)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Return the block's feature map."""
        kept = x if self.shortcut is None else self.shortcut(x)
        return nnx.relu(kept + self.conv2(self.conv1(x)))


class Bottleneck(nnx.Module):
    """relu(shortcut(x) + convolutions 1×1, 3×3, 1×1); the 3×3 strides, as in torchvision ("v1.5")."""

    expansion = 4

    def __init__(self, chan_in: int, chan: int, stride: int, shortcut: Callable[..., nnx.Module], *, rngs: nnx.Rngs):
        chan_out = chan * self.expansion
        self.conv1 = ConvBlock(chan_in, chan, 1, rngs=rngs)
        self.conv2 = ConvBlock(chan, chan, 3, stride=stride, rngs=rngs)
        self.conv3 = ConvBlock(chan, chan_out, 1, activation=None, rngs=rngs)
        self.shortcut = None if (chan_in, stride) == (chan_out, 1) else shortcut(chan_in, chan_out, stride, rngs=rngs)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Return the block's feature map."""
        kept = x if self.shortcut is None else self.shortcut(x)
        return nnx.relu(kept + self.conv3(self.conv2(self.conv1(x))))


def _stages(
    block: type[BasicBlock | Bottleneck],
    depths: Sequence[int],
    chan: int,
    shortcut: Callable[..., nnx.Module],
    rngs: nnx.Rngs,
) -> nnx.List:
    """Return stages of ``depths`` blocks; each but the first halves the image and doubles the channels."""
    stages, chan_in = [], chan
    for k, depth in enumerate(depths):
        blocks = []
        for j in range(depth):
            blocks.append(block(chan_in, chan << k, 2 if k > 0 and j == 0 else 1, shortcut, rngs=rngs))
            chan_in = (chan << k) * block.expansion
        stages.append(nnx.List(blocks))
    return nnx.List(stages)


class _Residual(nnx.Module):
    """What both kinds share: ``stem``, ``stages``, global average, ``head``."""

    def __call__(self, x: Float[Array, "batch height width 3"]) -> Float[Array, "batch classes"]:
        """Return the logits."""
        x = self.features(x)
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return self.head(global_average(x))


class ResNet(_Residual):
    """The ImageNet form: 7×7 stride 2, max pooling, stages from 64 channels, projections as shortcuts."""

    def __init__(
        self, block: type[BasicBlock | Bottleneck], depths: Sequence[int], *, num_classes: int, rngs: nnx.Rngs
    ):
        self.stem = ConvBlock(3, 64, 7, stride=2, rngs=rngs)
        self.stages = _stages(block, depths, 64, Projection, rngs)
        self.head = nnx.Linear((64 << (len(depths) - 1)) * block.expansion, num_classes, rngs=rngs)

    def features(self, x: FeatureMap) -> FeatureMap:
        """Return the feature map that enters the first stage."""
        return max_pool(self.stem(x), 3, 2, padding=1)


class CifarResNet(_Residual):
    """The CIFAR form of ``depth`` = 6n + 2 layers: 3×3, three stages of n blocks from 16 channels, padded shortcuts."""

    def __init__(self, depth: int, *, num_classes: int, rngs: nnx.Rngs):
        self.stem = ConvBlock(3, 16, 3, rngs=rngs)
        self.stages = _stages(BasicBlock, [(depth - 2) // 6] * 3, 16, Padding, rngs)
        self.head = nnx.Linear(64, num_classes, rngs=rngs)

    def features(self, x: FeatureMap) -> FeatureMap:
        """Return the feature map that enters the first stage."""
        return self.stem(x)
