"""MobileNet V2: inverted residuals with linear bottlenecks (Sandler et al. 2018), and a small form for CIFAR."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from flax import nnx

from ggdjax.zoo._blocks import ConvBlock, global_average, relu6, rounded_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Array, Float

    from ggdjax.zoo._blocks import FeatureMap


class Stage(NamedTuple):
    """One line of the paper's Table 2."""

    expansion: int
    """t: the inner channels per channel that enters a block."""
    chan: int
    """c: channels that leave a block."""
    blocks: int
    """n: how many blocks."""
    stride: int
    """s: of the first block; the others have 1."""


#: Table 2 of the paper.
IMAGENET = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)

#: The small form for 32×32 images: two strides fewer than five, the last (widest) stages left out.
CIFAR_SMALL = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 1),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 3, 2),
    Stage(6, 96, 2, 1),
)


class InvertedResidual(nnx.Module):
    """1×1 expansion, 3×3 depthwise, 1×1 linear projection; x is added where the shapes agree."""

    def __init__(self, chan_in: int, chan_out: int, *, expansion: int, stride: int, rngs: nnx.Rngs):
        inner = chan_in * expansion
        self.expand = None if expansion == 1 else ConvBlock(chan_in, inner, 1, activation=relu6, rngs=rngs)
        self.depthwise = ConvBlock(inner, inner, 3, stride=stride, groups=inner, activation=relu6, rngs=rngs)
        self.project = ConvBlock(inner, chan_out, 1, activation=None, rngs=rngs)
        self.residual = stride == 1 and chan_in == chan_out

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Return the block's feature map."""
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


class MobileNetV2(nnx.Module):
    """Stem, inverted residuals by ``stages``, 1×1 convolution, global average, linear.

    ``width`` scales all channels (rounded to multiples of 8), the last convolution's only upwards (paper, §6.1).
    """

    def __init__(
        self,
        stages: Sequence[Stage] = IMAGENET,
        *,
        width: float = 1.0,
        stem: int = 32,
        stem_stride: int = 2,
        last: int = 1280,
        num_classes: int,
        rngs: nnx.Rngs,
    ):
        chan = rounded_width(stem * width)
        self.stem = ConvBlock(3, chan, 3, stride=stem_stride, activation=relu6, rngs=rngs)
        blocks = []
        for stage in stages:
            wider = rounded_width(stage.chan * width)
            for j in range(stage.blocks):
                stride = stage.stride if j == 0 else 1
                blocks.append(InvertedResidual(chan, wider, expansion=stage.expansion, stride=stride, rngs=rngs))
                chan = wider
        self.blocks = nnx.List(blocks)
        chan_last = rounded_width(last * max(width, 1.0))
        self.last = ConvBlock(chan, chan_last, 1, activation=relu6, rngs=rngs)
        self.head = nnx.Linear(chan_last, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width 3"]) -> Float[Array, "batch classes"]:
        """Return the logits."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(global_average(self.last(x)))


def mobilenet_v2_small(*, num_classes: int, rngs: nnx.Rngs) -> MobileNetV2:
    """Return the form for 32×32 images: stride 1 until the third stage, 16 channels first, 320 last."""
    return MobileNetV2(CIFAR_SMALL, stem=16, stem_stride=1, last=320, num_classes=num_classes, rngs=rngs)
