"""The blocks that the zoo's networks share: convolution with normalization and activation, pooling, rounded widths.

Everything is channels last. Paddings are symmetric, as in PyTorch, except where a network says otherwise. Dropout and
stochastic depth are left out of all networks: in inference they are the identity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
from flax import nnx

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Array, Float

    FeatureMap = Float[Array, "batch height width chan"]


class ConvBlock(nnx.Module):
    """``activation(norm(conv(x)))`` with a square kernel.

    With ``norm`` the convolution has no bias and batch normalization follows; without, it has a bias. ``padding`` is
    on each side, by default ``kernel // 2``: at stride 1 an odd kernel then keeps height and width. "SAME" is
    TensorFlow's: as much as keeps size / stride, rounded up, the odd pixel behind. ``activation=None`` leaves the
    result linear.
    """

    def __init__(
        self,
        chan_in: int,
        chan_out: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int | Literal["SAME"] | None = None,
        groups: int = 1,
        norm: bool = True,
        activation: Callable[[Array], Array] | None = nnx.relu,
        rngs: nnx.Rngs,
    ):
        each = kernel // 2 if padding is None else padding
        self.conv = nnx.Conv(
            chan_in,
            chan_out,
            (kernel, kernel),
            strides=stride,
            padding=each if isinstance(each, str) else ((each, each), (each, each)),
            feature_group_count=groups,
            use_bias=not norm,
            rngs=rngs,
        )
        # Momentum 0.9 (Flax's default is 0.99): the running averages settle within the epochs of a small data set.
        self.norm = nnx.BatchNorm(chan_out, momentum=0.9, rngs=rngs) if norm else None
        self.activation = activation

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Return the block's feature map."""
        x = self.conv(x)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


def max_pool(x: FeatureMap, window: int, stride: int, *, padding: int = 0, ceil: bool = False) -> FeatureMap:
    """Return the maximum of each window; ``padding`` on each side never wins.

    With ``ceil`` a last window that overhangs the image counts (PyTorch's and Caffe's ceil mode).
    """
    over = [-(size + 2 * padding - window) % stride if ceil else 0 for size in x.shape[1:3]]
    pads = tuple((padding, padding + more) for more in over)
    return nnx.max_pool(x, (window, window), (stride, stride), pads)


def average_pool(x: FeatureMap, window: int) -> FeatureMap:
    """Return the mean of each window, windows side by side; what they do not cover is left out."""
    # Flax's own divides by an integer array, which strict promotion refuses.
    size = (1, window, window, 1)
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, size, size, "VALID") / float(window**2)


def global_average(x: FeatureMap) -> Float[Array, "batch chan"]:
    """Return the mean of each channel over the image."""
    return jnp.mean(x, axis=(1, 2))


def relu6(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return x limited to [0, 6]."""
    return jax.nn.relu6(x)


def leaky_relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return x where x ≥ 0, x / 10 elsewhere (the slope of Darknet)."""
    return jax.nn.leaky_relu(x, 0.1)


def local_response_norm(x: FeatureMap) -> FeatureMap:
    """Return x / (1 + 10⁻⁴/5 · Σ squares over 5 channels)^¾: normalization over neighbours with Caffe's constants."""
    squares = jax.lax.reduce_window(x * x, 0.0, jax.lax.add, (1, 1, 1, 5), (1, 1, 1, 1), "SAME")
    return x / (1.0 + (1e-4 / 5) * squares) ** 0.75


def rounded_width(chan: float) -> int:
    """Return ``chan`` rounded to a multiple of 8, never down by more than 10 % (Sandler et al. 2018, their code)."""
    rounded = max(8, int(chan + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * chan else rounded
