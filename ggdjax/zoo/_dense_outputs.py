"""Networks that give a value per pixel: a small U-Net for classes of pixels, ESPCN for super-resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import nnx

from ggdjax.zoo._blocks import ConvBlock, max_pool

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class UNet(nnx.Module):
    """Encoder and decoder of ``len(chans)`` scales, joined by concatenation (Ronneberger et al. 2015, figure 1).

    Smaller than the paper's, with padded convolutions, so that outputs are as large as images. Transposed convolutions
    2×2 of stride 2 go back up. Height and width are multiples of 2^(len(chans) − 1).
    """

    def __init__(self, *, num_classes: int, rngs: nnx.Rngs, chans: tuple[int, ...] = (8, 16, 32), chan_in: int = 3):
        self.down, self.up, self.join = nnx.List(), nnx.List(), nnx.List()
        for chan in chans:
            self.down.append(_Pair(chan_in, chan, rngs=rngs))
            chan_in = chan
        for chan in chans[-2::-1]:
            self.up.append(nnx.ConvTranspose(chan_in, chan, (2, 2), strides=(2, 2), rngs=rngs))
            self.join.append(_Pair(2 * chan, chan, rngs=rngs))
            chan_in = chan
        self.head = nnx.Conv(chan_in, num_classes, (1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width chan"]) -> Float[Array, "batch height width classes"]:
        """Return the logits of every pixel."""
        kept = []
        for level, pair in enumerate(self.down):
            x = pair(x if level == 0 else max_pool(x, 2, 2))
            kept.append(x)
        for up, join, skip in zip(self.up, self.join, kept[-2::-1], strict=True):
            x = join(jnp.concatenate([skip, up(x)], axis=-1))
        return self.head(x)


class _Pair(nnx.Module):
    """Two convolutions 3×3 with normalization and ReLU."""

    def __init__(self, chan_in: int, chan: int, *, rngs: nnx.Rngs):
        self.first = ConvBlock(chan_in, chan, 3, rngs=rngs)
        self.second = ConvBlock(chan, chan, 3, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width chan"]) -> Float[Array, "batch height width out"]:
        return self.second(self.first(x))


class ESPCN(nnx.Module):
    """Super-resolution whose last step moves channels into pixels (Shi et al. 2016, figure 1), with ReLU.

    Three convolutions 5×5, 3×3 and 3×3 on the small image; r² channels per output channel become r × r pixels.
    """

    def __init__(self, *, factor: int = 2, rngs: nnx.Rngs, chan: int = 1):
        self.factor = factor
        self.features = ConvBlock(chan, 64, 5, norm=False, rngs=rngs)
        self.mapping = ConvBlock(64, 32, 3, norm=False, rngs=rngs)
        self.pixels = nnx.Conv(32, chan * factor**2, (3, 3), rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width chan"]) -> Float[Array, "batch up_height up_width chan"]:
        """Return images ``factor`` times as high and wide."""
        batch, height, width, chan = x.shape
        r = self.factor
        y = self.pixels(self.mapping(self.features(x))).reshape(batch, height, width, r, r, chan)
        return y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * r, width * r, chan)
