"""A small training recipe in pure functions: AdamW over one cosine cycle, each image shifted anew each epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ggdjax._errors import GgdjaxError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Array, Float, Int, PRNGKeyArray


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How `fit` trains; the defaults are those of the shipped digits network."""

    epochs: int = 30
    """Passes over the training images."""
    batch_size: int = 64
    """Images per step; what an epoch leaves over is skipped (another remainder each epoch)."""
    learning_rate: float = 1e-2
    """Peak of the cosine cycle, reached after a tenth of the steps."""
    weight_decay: float = 1e-2
    """AdamW's decoupled decay, on kernels only (not on biases and batch normalization)."""
    label_smoothing: float = 0.05
    """Share of the target spread over all classes."""
    shift: int = 1
    """Each image is moved by up to so many pixels each way, zeros coming in, anew in each epoch."""
    seed: int = 0
    """Of the order of the images and of the shifts."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("shift", 0)):
            if getattr(self, name) < least:
                raise GgdjaxError(f"`{name}` is {getattr(self, name)}, expected at least {least}")


class TrainState(NamedTuple):
    """Everything that one step changes."""

    params: nnx.State
    batch_stats: nnx.State
    optimizer: optax.OptState


def loss_and_stats(
    graph: nnx.GraphDef,
    params: nnx.State,
    batch_stats: nnx.State,
    batch: tuple[Float[Array, "batch height width chan"], Int[Array, " batch"]],
    label_smoothing: float,
) -> tuple[Float[Array, ""], nnx.State]:
    """Return the mean smoothed cross-entropy on (images, labels), and the batch statistics after them."""
    images, labels = batch
    net = nnx.merge(graph, params, batch_stats, copy=True)
    logits = net(images)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    loss = jnp.mean(optax.softmax_cross_entropy(logits, targets))
    return loss, nnx.state(net, nnx.BatchStat)


def random_shift(
    key: PRNGKeyArray, images: Float[Array, "batch height width chan"], shift: int
) -> Float[Array, "batch height width chan"]:
    """Move each image by −shift … shift pixels along both axes, independently; zeros come in."""
    if shift == 0:
        return images
    padded = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    offsets = jax.random.randint(key, (images.shape[0], 2), 0, 2 * shift + 1)

    def cut(image: Array, offset: Array) -> Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), images.shape[1:])

    return jax.vmap(cut)(padded, offsets)


def make_optimizer(recipe: Recipe, images: int) -> optax.GradientTransformation:
    """Return AdamW with warm-up and one cosine cycle over all epochs of ``images`` images."""
    steps = recipe.epochs * (images // recipe.batch_size)
    schedule = optax.warmup_cosine_decay_schedule(0.0, recipe.learning_rate, max(steps // 10, 1), steps)
    kernels_only = lambda params: jax.tree.map(lambda p: jnp.ndim(p) > 1, params)  # noqa: E731
    return optax.adamw(schedule, weight_decay=recipe.weight_decay, mask=kernels_only)


def fit(
    net: nnx.Module,
    images: Float[Array, "image height width chan"],
    labels: Int[Array, " image"],
    recipe: Recipe,
    progress: Callable[[int, float], None] | None = None,
) -> nnx.Module:
    """Return a trained copy of ``net``, in inference mode.

    Args:
        net: the untrained network, in training mode; it is not changed.
        images: all training images, as the network reads them.
        labels: the class of each.
        recipe: how to train.
        progress: called after each epoch with (epochs done, mean loss of the epoch).

    Raises:
        GgdjaxError: fewer images than one batch.
    """
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    count = images.shape[0]
    if count < recipe.batch_size:
        raise GgdjaxError(f"`batch_size` is {recipe.batch_size}, but there are {count} training images")
    graph, params, batch_stats = nnx.split(net, nnx.Param, nnx.BatchStat)
    optimizer = make_optimizer(recipe, count)
    steps = count // recipe.batch_size

    # No scan over the steps: XLA's convolutions on a CPU run several times slower inside a loop of its own.
    @jax.jit
    def one_step(state: TrainState, batch: tuple[Array, Array]) -> tuple[TrainState, Array]:
        gradient_of = jax.value_and_grad(loss_and_stats, argnums=1, has_aux=True)
        (loss, stats), gradient = gradient_of(graph, state.params, state.batch_stats, batch, recipe.label_smoothing)
        # Optax's bias correction raises a float to an integer count, which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        return TrainState(optax.apply_updates(state.params, updates), stats, optimizer_state), loss

    @jax.jit
    def one_order(key: PRNGKeyArray) -> tuple[Array, Array]:
        """Return the images of one epoch, moved and shuffled, and their labels: leading axes step, batch."""
        order_key, shift_key = jax.random.split(key)
        order = jax.random.permutation(order_key, count)[: steps * recipe.batch_size]
        shape = (steps, recipe.batch_size)
        moved = random_shift(shift_key, images, recipe.shift)[order]
        return moved.reshape(shape + images.shape[1:]), labels[order].reshape(shape)

    state = TrainState(params, batch_stats, optimizer.init(params))
    for epoch, key in enumerate(jax.random.split(jax.random.key(recipe.seed), recipe.epochs)):
        losses = []
        for batch in zip(*one_order(key), strict=True):
            state, loss = one_step(state, batch)
            losses.append(loss)
        if progress is not None:
            progress(epoch + 1, float(jnp.mean(jnp.stack(losses))))
    trained = nnx.merge(graph, state.params, state.batch_stats)
    trained.eval()
    return trained


def top1(net: nnx.Module, images: Float[Array, "image height width chan"], labels: Int[Array, " image"]) -> float:
    """Return the share of ``images`` whose largest logit is their label."""
    logits = jax.jit(net.__call__)(images)
    return float(jnp.mean(jnp.argmax(logits, axis=-1) == labels))
