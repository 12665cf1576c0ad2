"""How images differ from each other: sums of even powers per image, of which a calibration keeps means and products.

A step of least squared error at b bits moves with ``E[x^b] / E[x^(b−2)]``: the weights x^(b/2) of the fit put the tail
in the place where clipping and rounding balance. By the delta method the standard error of log Δ over n images is
``sd(ψ)/√n``, ``ψ = ½ (S_b/mean S_b − S_(b−2)/mean S_(b−2))``, S_k the sum of x^k over the values of one image. For
odd b the even orders around it; (2, 0) at 2 bits, (8, 6) above 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jax import lax

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Array, Float, Int

#: Powers whose sums are kept; 0 counts the values that are not zero.
_POWERS = np.array([0, 2, 4, 6, 8])
#: An image whose largest magnitude is less has no inverse in float32, and counts as zeros.
_LEAST = 1e-30


@dataclass(frozen=True, kw_only=True)
class ImageMoments:
    """Sums over images of S_k and of S_j·S_k, where S_k is the sum of x^k over one image, k = 0, 2, 4, 6, 8.

    NaN for a feature map whose first axis is not that of the images.
    """

    images: int
    """How many were added up."""
    sums: Float[np.ndarray, "tensor 5"]
    """float64."""
    products: Float[np.ndarray, "tensor 5 5"]
    """float64; memory does not depend on the number of images."""

    def add(self, power_sums: Float[np.ndarray, "tensor image 6"]) -> ImageMoments:
        """Return the sums with more images, given by `power_sums` of each feature map."""
        found = np.asarray(power_sums, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            per_image = found[..., 1:] * found[..., :1] ** _POWERS
            return ImageMoments(
                images=self.images + found.shape[1],
                sums=self.sums + per_image.sum(1),
                products=self.products + np.einsum("tij,tik->tjk", per_image, per_image),
            )

    @classmethod
    def empty(cls, tensors: int) -> ImageMoments:
        """Return the sums over no images."""
        return cls(images=0, sums=np.zeros((tensors, 5)), products=np.zeros((tensors, 5, 5)))

    def step_error(self, bits: Int[np.ndarray, " tensor"], images: int) -> Float[np.ndarray, " tensor"]:
        """Return the standard error of log Δ over ``images`` images, for a width each; NaN where nothing tells it."""
        high = np.clip(bits + bits % 2, 2, 8) // 2
        rows = np.arange(len(self.sums))
        with np.errstate(all="ignore"):
            means, weights = self.sums / self.images, np.zeros_like(self.sums)
            weights[rows, high] = 0.5 / means[rows, high]
            weights[rows, high - 1] = -0.5 / means[rows, high - 1]
            return np.sqrt(self._variance(weights) / images)

    def design_effect(self, order: float) -> Float[np.ndarray, " tensor"]:
        """Return the variance of the mean of x^order over that which independent values would give it; at least 1."""
        k = 1 if order < 3 else 2  # sums of twice the power are needed
        with np.errstate(all="ignore"):
            means, weights = self.sums / self.images, np.zeros_like(self.sums)
            mean = means[:, k] / means[:, 0]
            weights[:, k], weights[:, 0] = 1.0, -mean
            independent = means[:, 2 * k] - mean**2 * means[:, 0]
            effect = np.maximum(self._variance(weights) / independent, 1.0)
        # Zeros alone, or one magnitude alone: no fit.
        return np.where((means[:, 0] == 0) | (independent <= 0), 1.0, effect)

    def _variance(self, weights: Float[np.ndarray, "tensor 5"]) -> Float[np.ndarray, " tensor"]:
        """Return the variance over images of a combination of the sums whose mean is 0."""
        square = np.einsum("ti,tij,tj->t", weights, self.products, weights)
        return np.maximum(square, 0.0) / (self.images - 1) if self.images > 1 else np.full(len(square), np.nan)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return what a file holds."""
        return {"images": np.array([self.images], np.int64), "sums": self.sums, "products": self.products}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ImageMoments | None:
        """Undo `to_arrays`; None: a file of a version that kept none."""
        if not arrays:
            return None
        return cls(images=int(arrays["images"][0]), sums=arrays["sums"], products=arrays["products"])


def power_sums(x: Float[Array, "image ..."], each: int = 1) -> Float[Array, "image 6"]:
    """Return of every image its largest magnitude c, and the sums of (x/c)^k over its values for k = 0, 2, 4, 6, 8.

    ``each`` is how many values every one of a sample stands for.
    """
    size = math.prod(x.shape[1:])
    # XLA on a CPU adds up the axis before the last by vector instructions, and the last one number by number.
    width = math.gcd(size, 64)
    x = x.astype(jnp.float32).reshape(x.shape[0], size // width, width)
    largest = jnp.max(jnp.max(jnp.abs(x), axis=1, initial=0.0), axis=1)
    usable = largest >= _LEAST
    scale = jnp.where(usable, 1.0 / jnp.where(usable, largest, 1.0), 0.0)
    square = jnp.square(x * scale[:, None, None])
    fourth = jnp.square(square)
    powers = ((x != 0).astype(jnp.float32), square, fourth, fourth * square, jnp.square(fourth))

    def add(one: tuple[Array, ...], other: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(a + b for a, b in zip(one, other, strict=True))

    # All of them in one pass.
    sums = lax.reduce(powers, (jnp.float32(0),) * len(powers), add, (1,))
    return jnp.stack([largest, *(each * jnp.sum(part, axis=1) for part in sums)], axis=1)
