"""LeNet-5 for 32×32 digits (LeCun et al. 1998, §II.B)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import nnx

from ggdjax.zoo._blocks import ConvBlock, average_pool

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class LeNet5(nnx.Module):
    """Three convolutions 5×5 with tanh, two averaging subsamplings, two dense layers.

    As is usual, C3 reads all maps of S2, the subsamplings have no parameters, and the output is linear; the original
    connects part of the maps and ends in radial basis functions.
    """

    def __init__(self, *, num_classes: int, rngs: nnx.Rngs):
        chans = (1, 6, 16, 120)
        self.c1, self.c3, self.c5 = (
            ConvBlock(chan_in, chan_out, 5, padding=0, norm=False, activation=jnp.tanh, rngs=rngs)
            for chan_in, chan_out in pairwise(chans)
        )
        self.f6 = nnx.Linear(120, 84, rngs=rngs)
        self.head = nnx.Linear(84, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch 32 32 1"]) -> Float[Array, "batch classes"]:
        """Return the logits."""
        x = average_pool(self.c1(x), 2)
        x = average_pool(self.c3(x), 2)
        x = self.c5(x).reshape(x.shape[0], 120)
        return self.head(jnp.tanh(self.f6(x)))
