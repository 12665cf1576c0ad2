"""DenseNet (Huang et al. 2017, Table 1), as torchvision builds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import nnx

from ggdjax.zoo._blocks import ConvBlock, average_pool, global_average, max_pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Array, Float

    from ggdjax.zoo._blocks import FeatureMap


class PreActivated(nnx.Module):
    """conv(relu(norm(x))): the order of this family; the convolution is 1×1, without bias."""

    def __init__(self, chan_in: int, chan_out: int, *, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(chan_in, momentum=0.9, rngs=rngs)
        self.conv = nnx.Conv(chan_in, chan_out, (1, 1), use_bias=False, rngs=rngs)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Return the block's feature map."""
        return self.conv(nnx.relu(self.norm(x)))


class DenseLayer(nnx.Module):
    """x followed by ``growth`` new channels, made by 1×1 to 4 · growth and 3×3."""

    def __init__(self, chan_in: int, growth: int, *, rngs: nnx.Rngs):
        self.reduce = PreActivated(chan_in, 4 * growth, rngs=rngs)
        self.norm = nnx.BatchNorm(4 * growth, momentum=0.9, rngs=rngs)
        self.conv = nnx.Conv(4 * growth, growth, (3, 3), use_bias=False, rngs=rngs)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Return x with the new channels behind it."""
        new = self.conv(nnx.relu(self.norm(self.reduce(x))))
        return jnp.concatenate((x, new), axis=-1)


class DenseNet(nnx.Module):
    """Stem, dense blocks of ``depths`` layers with halving transitions between, global average, linear."""

    def __init__(self, depths: Sequence[int], *, growth: int = 32, num_classes: int, rngs: nnx.Rngs):
        chan = 2 * growth
        self.stem = ConvBlock(3, chan, 7, stride=2, rngs=rngs)
        blocks, transitions = [], []
        for k, depth in enumerate(depths):
            if k > 0:
                transitions.append(PreActivated(chan, chan // 2, rngs=rngs))
                chan //= 2
            blocks.append(nnx.List([DenseLayer(chan + j * growth, growth, rngs=rngs) for j in range(depth)]))
            chan += depth * growth
        self.blocks, self.transitions = nnx.List(blocks), nnx.List(transitions)
        self.norm = nnx.BatchNorm(chan, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(chan, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width 3"]) -> Float[Array, "batch classes"]:
        """Return the logits."""
        x = max_pool(self.stem(x), 3, 2, padding=1)
        for k, block in enumerate(self.blocks):
            if k > 0:
                x = average_pool(self.transitions[k - 1](x), 2)
            for layer in block:
                x = layer(x)
        return self.head(global_average(nnx.relu(self.norm(x))))
