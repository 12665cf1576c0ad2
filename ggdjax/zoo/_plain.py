"""Networks of convolutions in a row with a dense classifier: AlexNet and VGG, as torchvision builds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flax import nnx

from ggdjax.zoo._blocks import ConvBlock, max_pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Array, Float

#: Channels of the 3×3 convolutions between max poolings (Simonyan and Zisserman 2015, Table 1: A and D).
VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class _Plain(nnx.Module):
    """What both share: ``stages`` of convolutions, each followed by max pooling, then the classifier.

    ``size`` is the height and width of the image, on which the first dense layer's width depends.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[ConvBlock]],
        window: int,
        features: int,
        hidden: int,
        num_classes: int,
        rngs: nnx.Rngs,
    ):
        self.window = window
        self.stages = nnx.List([nnx.List(stage) for stage in stages])
        self.dense1 = nnx.Linear(features, hidden, rngs=rngs)
        self.dense2 = nnx.Linear(hidden, hidden, rngs=rngs)
        self.head = nnx.Linear(hidden, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width 3"]) -> Float[Array, "batch classes"]:
        """Return the logits."""
        for stage in self.stages:
            for conv in stage:
                x = conv(x)
            x = max_pool(x, self.window, 2)
        x = x.reshape(x.shape[0], -1)
        return self.head(nnx.relu(self.dense2(nnx.relu(self.dense1(x)))))


class AlexNet(_Plain):
    """The one-column form (Krizhevsky 2014, "One weird trick", §5): no groups, no response normalization."""

    def __init__(self, *, size: int = 224, hidden: int = 4096, num_classes: int, rngs: nnx.Rngs):
        def conv(chan_in: int, chan_out: int, kernel: int, **options: int) -> ConvBlock:
            return ConvBlock(chan_in, chan_out, kernel, norm=False, rngs=rngs, **options)

        stages = (
            [conv(3, 64, 11, stride=4, padding=2)],
            [conv(64, 192, 5)],
            [conv(192, 384, 3), conv(384, 256, 3), conv(256, 256, 3)],
        )
        side = (size + 4 - 11) // 4 + 1
        for _ in stages:
            side = (side - 3) // 2 + 1
        super().__init__(stages, 3, 256 * side**2, hidden, num_classes, rngs)


class VGG(_Plain):
    """3×3 convolutions by ``plan`` (`VGG11`, `VGG16`), max pooling 2×2 after each group."""

    def __init__(
        self,
        plan: Sequence[Sequence[int]],
        *,
        size: int = 224,
        hidden: int = 4096,
        num_classes: int,
        rngs: nnx.Rngs,
    ):
        stages, chan_in = [], 3
        for chans in plan:
            stage = []
            for chan in chans:
                stage.append(ConvBlock(chan_in, chan, 3, norm=False, rngs=rngs))
                chan_in = chan
            stages.append(stage)
        super().__init__(stages, 2, chan_in * (size >> len(plan)) ** 2, hidden, num_classes, rngs)
