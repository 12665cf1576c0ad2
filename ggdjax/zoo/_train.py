"""Train a network of the zoo on any image set: one jitted step, data-parallel, resumable after a kill."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ggdjax._errors import GgdjaxError
from ggdjax.data._image_set import expect_images
from ggdjax.zoo._cpu_training import with_fast_convolutions
from ggdjax.zoo._modules import expect_module
from ggdjax.zoo._recipe import augment, make_optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from os import PathLike

    from jaxtyping import Array, Float, Int, PRNGKeyArray

    from ggdjax.data import ImageSet
    from ggdjax.zoo._recipe import Recipe

#: Steps between two checkpoints: a kill costs up to this many.
CHECKPOINT_EVERY = 100


class TrainState(NamedTuple):
    """Everything that one step changes."""

    params: nnx.State
    batch_stats: nnx.State
    optimizer: optax.OptState
    sums: Float[Array, " 2"]
    """Sums over the steps of the current epoch: loss, share of right answers."""


def loss_and_changes(
    graph: nnx.GraphDef,
    params: nnx.State,
    batch_stats: nnx.State,
    batch: tuple[Float[Array, "batch height width chan"], Int[Array, " batch"]],
    label_smoothing: float,
) -> tuple[Float[Array, ""], tuple[nnx.State, Float[Array, ""]]]:
    """Return the mean smoothed cross-entropy on (images, labels), the batch statistics after them, and the top-1."""
    images, labels = batch
    net = nnx.merge(graph, params, batch_stats, copy=True)
    logits = net(images)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    loss = jnp.mean(optax.softmax_cross_entropy(logits, targets))
    top1 = jnp.mean(jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels)
    return loss, (nnx.state(net, nnx.BatchStat), top1)


def fit(
    net: nnx.Module,
    images: ImageSet,
    recipe: Recipe,
    *,
    indices: Iterable[int] | None = None,
    mesh: Mesh | None = None,
    checkpoints: str | PathLike[str] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    measure: Callable[[nnx.Module], dict[str, float]] | None = None,
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
) -> nnx.Module:
    """Return a trained copy of ``net``, in inference mode.

    The result is a function of the arguments alone: a run that was killed and resumes from its checkpoints ends with
    the same numbers. Over a mesh the batch is spread along its axis `data`; batch statistics are those of the whole
    batch, so that the result does not depend on the mesh but for the order in which floats are added.

    Args:
        net: the untrained network, in training mode; it is not changed.
        images: the images, as the network reads them (channels last); they are streamed, never held as a whole.
        recipe: how to train.
        indices: the training images among them; None: all.
        mesh: devices to spread each batch over, along an axis `data`; None: JAX's default device.
        checkpoints: folder to keep checkpoints in, and to go on from where it holds any; None keeps none.
        on_step: called after each step with (steps done, all steps).
        measure: called after each epoch with the network in inference mode; what it returns joins the epoch's record.
        on_epoch: called after each epoch with the records of all epochs so far: `epoch` (from 1 on), `loss` (mean
            smoothed cross-entropy) and `train_top1`, both on the augmented images while the network was learning.

    Raises:
        GgdjaxError: fewer images than one batch, a batch that the mesh cannot split evenly, checkpoints of another
            run, or a loss that is no longer finite.
    """
    expect_module("net", net)
    expect_images("images", images)
    chosen = np.arange(len(images)) if indices is None else np.asarray(list(indices))
    batch_size = recipe.batch_size
    if len(chosen) < batch_size:
        raise GgdjaxError(f"`batch_size` is {batch_size}, but there are {len(chosen)} training images: lower it")
    # Rebuilt, since its axes must be automatic ones: the compiler then inserts the sums over devices.
    mesh = Mesh(np.asarray(jax.devices()[:1]), ("data",)) if mesh is None else Mesh(mesh.devices, mesh.axis_names)
    if "data" not in mesh.shape or batch_size % mesh.shape["data"]:
        raise GgdjaxError(
            f"`batch_size` is {batch_size}, expected a multiple of the mesh's axis `data` (the mesh is "
            f"{dict(mesh.shape)}): change one of them"
        )
    steps_per_epoch = len(chosen) // batch_size
    steps = recipe.epochs * steps_per_epoch
    plain, params, batch_stats = nnx.split(net, nnx.Param, nnx.BatchStat)
    # On one device only: the images that `convolve` sums over one by one would be spread over several.
    one_cpu = mesh.size == 1 and mesh.devices.item().platform == "cpu"
    graph = nnx.graphdef(with_fast_convolutions(net)) if one_cpu else plain
    optimizer = make_optimizer(recipe, steps)
    state = TrainState(params, batch_stats, optimizer.init(params), jnp.zeros(2))
    everywhere, over_data = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    state = jax.device_put(jax.tree.map(jnp.copy, state), everywhere)

    # No scan over the steps: XLA's convolutions on a CPU run several times slower inside a loop of its own.
    @jax.jit(static_argnames="crop", donate_argnums=0, out_shardings=everywhere)
    def one_step(state: TrainState, key: PRNGKeyArray, batch: tuple[Array, Array], crop: int | None) -> TrainState:
        augmented = augment(key, batch[0], shift=recipe.shift, crop=crop, flip=recipe.flip)
        batch = jax.lax.with_sharding_constraint((augmented, batch[1]), over_data)
        gradient_of = jax.value_and_grad(loss_and_changes, argnums=1, has_aux=True)
        (loss, (stats, top1)), gradient = gradient_of(
            graph, state.params, state.batch_stats, batch, recipe.label_smoothing
        )
        # Optax's bias correction raises a float to an integer count, which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        sums = state.sums + jnp.stack([loss, top1])
        return TrainState(optax.apply_updates(state.params, updates), stats, optimizer_state, sums)

    def inference(state: TrainState, graph: nnx.GraphDef) -> nnx.Module:
        now = nnx.merge(graph, state.params, state.batch_stats, copy=True)
        now.eval()
        return now

    history: list[dict[str, Any]] = []
    done = 0
    keeper = None
    if checkpoints is not None:
        from ggdjax.zoo._checkpoints import Checkpoints

        shapes = [list(leaf.shape) for leaf in jax.tree.leaves(params)]
        run = {
            **dataclasses.asdict(recipe),
            "images": len(chosen),
            "image_ids_sha256": hashlib.sha256("\n".join(images.ids[i] for i in chosen.tolist()).encode()).hexdigest(),
            "preprocessing": images.preprocessing.to_dict(),
            "shapes": shapes,
        }
        keeper = Checkpoints(checkpoints, run)
        if (kept := keeper.restore(state)) is not None:
            state, notes = kept
            done, history = notes["steps"], notes["history"]
    key = jax.random.key(recipe.seed)
    for epoch in range(done // steps_per_epoch, recipe.epochs):
        first = done - epoch * steps_per_epoch
        order_key, augment_key = jax.random.split(jax.random.fold_in(key, epoch))
        order = chosen[np.asarray(jax.random.permutation(order_key, len(chosen)))]
        for batch in _batches(images, order[first * batch_size : steps_per_epoch * batch_size], batch_size):
            step_key = jax.random.fold_in(augment_key, done % steps_per_epoch)
            state = one_step(state, step_key, jax.device_put(batch, over_data), recipe.crop_in(epoch))
            done += 1
            if on_step is not None:
                on_step(done, steps)
            if done % steps_per_epoch == 0:
                loss, top1 = (np.asarray(state.sums, np.float64) / steps_per_epoch).tolist()
                if not np.isfinite(loss):
                    raise GgdjaxError(
                        f"the loss is {loss} after {epoch + 1} epochs: lower `learning_rate` ({recipe.learning_rate})"
                    )
                measured = {} if measure is None else measure(inference(state, graph))
                history.append({"epoch": epoch + 1, "loss": loss, "train_top1": top1, **measured})
                state = state._replace(sums=jax.device_put(jnp.zeros(2), everywhere))
            if keeper is not None and (done % CHECKPOINT_EVERY == 0 or done % steps_per_epoch == 0):
                keeper.save(done, state, {"steps": done, "history": history})
        if on_epoch is not None:
            on_epoch(history)
    if keeper is not None:
        keeper.close()
    return inference(state, plain)


def _batches(images: ImageSet, order: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield whole batches; an unreadable image would shift all later ones, so it is an error here."""
    for x, labels in images.batches(order, batch_size):
        # Others than these images may have been found unreadable before.
        if images.unreadable and (lost := [i for i in order if images.ids[i] in images.unreadable]):
            id_ = images.ids[lost[0]]
            reason = images.unreadable[id_]
            raise GgdjaxError(f"image `{id_}` of `{images.name}` cannot be read ({reason}): repair or remove it")
        yield x, labels


def top1(net: nnx.Module, images: ImageSet, indices: Iterable[int] | None = None, batch_size: int = 100) -> float:
    """Return the share of the images ``indices`` (None: all) whose largest logit of ``net`` is their label.

    ``net`` is in inference mode; unreadable images do not count.

    Raises:
        GgdjaxError: no images.
    """
    expect_module("net", net)
    expect_images("images", images)
    from ggdjax.data import padded

    graph, state = nnx.split(net)
    right = count = 0
    for x, labels, rows in padded(images.batches(indices, batch_size), batch_size):
        right += int(np.sum(np.asarray(_predict(graph, state, x)) == labels))
        count += rows
    if not count:
        raise GgdjaxError(f"`indices` names no readable images of `{images.name}`: give at least one")
    return right / count


@partial(jax.jit, static_argnums=0)
def _predict(
    graph: nnx.GraphDef, state: nnx.State, images: Float[Array, "batch height width chan"]
) -> Int[Array, " batch"]:
    """Return the class of the largest logit; compiled once per network, whatever its weights."""
    return jnp.argmax(nnx.merge(graph, state)(images), axis=-1)
