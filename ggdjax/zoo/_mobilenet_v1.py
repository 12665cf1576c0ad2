"""MobileNet V1: depthwise separable convolutions (Howard et al. 2017, Table 1), padded as in the authors' code."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from flax import nnx

from ggdjax.zoo._blocks import ConvBlock, global_average, relu6

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Array, Float

    from ggdjax.zoo._blocks import FeatureMap

#: (channels, stride) of the separable convolutions.
TABLE1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))

_block = partial(ConvBlock, padding="SAME", activation=relu6)


class Separable(nnx.Module):
    """3×3 depthwise, then 1×1."""

    def __init__(self, chan_in: int, chan_out: int, *, stride: int, rngs: nnx.Rngs):
        self.depthwise = _block(chan_in, chan_in, 3, stride=stride, groups=chan_in, rngs=rngs)
        self.pointwise = _block(chan_in, chan_out, 1, rngs=rngs)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Return the block's feature map."""
        return self.pointwise(self.depthwise(x))


class MobileNetV1(nnx.Module):
    """Stem, separable convolutions by ``table``, global average, linear; ``width`` scales all channels (§3.3)."""

    def __init__(
        self, table: Sequence[tuple[int, int]] = TABLE1, *, width: float = 1.0, num_classes: int, rngs: nnx.Rngs
    ):
        chan = int(32 * width)
        self.stem = _block(3, chan, 3, stride=2, rngs=rngs)
        blocks = []
        for wide, stride in table:
            chan_out = int(wide * width)
            blocks.append(Separable(chan, chan_out, stride=stride, rngs=rngs))
            chan = chan_out
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(chan, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width 3"]) -> Float[Array, "batch classes"]:
        """Return the logits."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(global_average(x))
