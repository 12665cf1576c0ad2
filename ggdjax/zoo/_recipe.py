"""How a network is trained: one frozen dataclass, its optimizer, and what it does to each image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import jax
import jax.numpy as jnp

from ggdjax._errors import GgdjaxError

if TYPE_CHECKING:
    import optax
    from jaxtyping import Array, Float, PRNGKeyArray

Optimizer = Literal["adamw", "sgd"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How `fit` trains; the defaults are those of the shipped digits network."""

    epochs: int = 30
    """Passes over the training images."""
    batch_size: int = 64
    """Images per step; what an epoch leaves over is skipped (another remainder each epoch)."""
    optimizer: Optimizer = "adamw"
    """AdamW, or SGD with Nesterov momentum 0.9."""
    learning_rate: float = 1e-2
    """Peak of the cosine cycle."""
    warmup: float = 0.1
    """Share of all steps over which the learning rate rises from 0 to its peak."""
    weight_decay: float = 1e-2
    """On kernels only (not on biases and batch normalization); decoupled for AdamW, added to SGD's gradient."""
    label_smoothing: float = 0.05
    """Share of the target spread over all classes."""
    shift: int = 1
    """Zeros around each image before its window is cut at a random place, anew in each epoch, in pixels."""
    crop: int | None = None
    """Side of the window in pixels; None cuts the image's own size. A smaller window makes an epoch cheaper."""
    full_size_epochs: int = 0
    """Last epochs that cut the image's own size whatever ``crop`` says, so that training ends on images of the size
    that is tested (Touvron et al. 2019)."""
    flip: bool = False
    """Whether each image is mirrored left to right, half of the times."""
    seed: int = 0
    """Of the order of the images, of the windows and of the mirroring."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("shift", 0), ("full_size_epochs", 0)):
            if getattr(self, name) < least:
                raise GgdjaxError(f"`{name}` is {getattr(self, name)}, expected at least {least}")
        if not 0 <= self.seed < 2**63:
            raise GgdjaxError(f"`seed` is {self.seed}, expected an integer from 0 to 2^63 − 1")
        if self.optimizer not in get_args(Optimizer):
            raise GgdjaxError(f"`optimizer` is {self.optimizer!r}, expected one of {', '.join(get_args(Optimizer))}")
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise GgdjaxError(f"`{name}` is {value}, expected a number of at least 0")
        for name in ("warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise GgdjaxError(f"`{name}` is {getattr(self, name)}, expected a share of at least 0 and below 1")
        if self.crop is not None and self.crop < 1:
            raise GgdjaxError(f"`crop` is {self.crop}, expected a number of pixels of at least 1")

    def crop_in(self, epoch: int) -> int | None:
        """Return the side of the window in ``epoch`` (from 0 on), None for the image's own size."""
        return self.crop if epoch < self.epochs - self.full_size_epochs else None


def learning_rate(recipe: Recipe, steps: int) -> optax.Schedule:
    """Return the learning rate of each of ``steps`` steps: from 0 up to the peak, then one cosine down to 0."""
    import optax

    warmup = max(int(recipe.warmup * steps), 1)
    return optax.warmup_cosine_decay_schedule(0.0, recipe.learning_rate, warmup, max(steps, warmup + 1))


def make_optimizer(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    """Return the recipe's optimizer for ``steps`` steps in all."""
    import optax

    schedule = learning_rate(recipe, steps)
    kernels_only = lambda params: jax.tree.map(lambda p: jnp.ndim(p) > 1, params)  # noqa: E731
    if recipe.optimizer == "adamw":
        return optax.adamw(schedule, weight_decay=recipe.weight_decay, mask=kernels_only)
    decay = optax.add_decayed_weights(recipe.weight_decay, kernels_only)
    return optax.chain(decay, optax.sgd(schedule, momentum=0.9, nesterov=True))


def augment(
    key: PRNGKeyArray,
    images: Float[Array, "batch height width chan"],
    *,
    shift: int = 0,
    crop: int | None = None,
    flip: bool = False,
) -> Float[Array, "batch crop_height crop_width chan"]:
    """Return one random window of each image, mirrored half of the times where ``flip``.

    Each image gets ``shift`` zeros on every side; the window, of ``crop`` × ``crop`` pixels or of the image's own
    size, lies anywhere in that, every place equally likely.

    Raises:
        GgdjaxError: a ``crop`` larger than the image with its zeros.
    """
    place_key, flip_key = jax.random.split(key)
    batch, height, width, chan = images.shape
    size = (height, width) if crop is None else (crop, crop)
    if shift or size != (height, width):
        padded = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
        if max(size) > min(padded.shape[1:3]) and crop is not None:
            raise GgdjaxError(
                f"`crop` is {crop}, but images of {height}×{width} with `shift` = {shift} are {padded.shape[1]}×"
                f"{padded.shape[2]}: lower it"
            )
        places = jnp.asarray([height + 2 * shift - size[0] + 1, width + 2 * shift - size[1] + 1])
        corners = jax.random.randint(place_key, (batch, 2), 0, places[None, :])

        def cut(image: Array, corner: Array) -> Array:
            return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (*size, chan))

        images = jax.vmap(cut)(padded, corners)
    if flip:
        mirrored = jax.random.bernoulli(flip_key, 0.5, (batch, 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    return images
