"""The embedded default: a small residual network for 8×8 digits, with its trained weights."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from flax import nnx

from ggdjax.zoo._blocks import ConvBlock, global_average, max_pool
from ggdjax.zoo._weights import load_weights

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from ggdjax.zoo._blocks import FeatureMap


class ResidualBlock(nnx.Module):
    """Two convolutions and the identity added: relu(x + block(block(x)))."""

    def __init__(self, chan: int, *, rngs: nnx.Rngs):
        self.first = ConvBlock(chan, chan, 3, rngs=rngs)
        self.second = ConvBlock(chan, chan, 3, activation=None, rngs=rngs)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Return the block's feature map, of the same shape."""
        return nnx.relu(x + self.second(self.first(x)))


class DigitsNet(nnx.Module):
    """conv – residual – max pool – conv – residual – global average pool – dense; logits of ten digits."""

    def __init__(self, chan: int = 12, *, num_classes: int = 10, rngs: nnx.Rngs):
        self.stem = ConvBlock(1, chan, 3, rngs=rngs)
        self.residual1 = ResidualBlock(chan, rngs=rngs)
        self.widen = ConvBlock(chan, 2 * chan, 3, rngs=rngs)
        self.residual2 = ResidualBlock(2 * chan, rngs=rngs)
        self.head = nnx.Linear(2 * chan, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch 8 8 1"]) -> Float[Array, "batch 10"]:
        """Return the logits of images with values in [0, 1]."""
        x = self.residual1(self.stem(x))
        x = self.residual2(self.widen(max_pool(x, 2, 2)))
        return self.head(global_average(x))


def digits_net(*, pretrained: bool = True, seed: int = 0) -> DigitsNet:
    """Return the network, in inference mode with the shipped weights, or untrained in training mode.

    The weights were made by `python -m ggdjax.zoo.train_digits`; they carry their accuracy in the file's metadata.

    Example:
        >>> net = gd.trace(gd.zoo.digits_net(), jnp.zeros((1, 8, 8, 1)))
        >>> gd.network.count_parameters(net)
        16126
    """
    if not pretrained:
        return nnx.jit(lambda: DigitsNet(rngs=nnx.Rngs(seed)))()
    net = nnx.eval_shape(lambda: DigitsNet(rngs=nnx.Rngs(seed)))
    with resources.as_file(resources.files("ggdjax.zoo") / "_digits.safetensors") as path:
        load_weights(net, path)
    net.eval()
    return net
