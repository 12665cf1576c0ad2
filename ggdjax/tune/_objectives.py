"""What tuning maximises: one score per image, and a loss that breaks ties."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import DataError, GgdjaxError
from ggdjax._ranking import rank_of_label

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

#: Objective -> does it need labels?
OBJECTIVES = {"top1": True, "top5": True, "cross_entropy": True, "agreement": False, "kl": False, "sqnr": False}


@partial(jax.jit, static_argnames="objective")
def score_and_loss(
    logits: Float[Array, "row class"],
    labels: Int[Array, " row"],
    reference: Float[Array, "row class"],
    *,
    objective: str,
) -> tuple[Float[Array, " row"], Float[Array, " row"]]:
    """Return what to maximise, and what to minimise among equals, per row.

    ``top1``, ``top5``: 1 where the label is among the largest logits (`rank_of_label`); ties by cross-entropy.
    ``cross_entropy``: minus it. ``agreement``: 1 where the largest logit is the float network's; ties by
    KL(float ‖ quantized). ``kl``: minus that. ``sqnr``: minus the squared error of the logits, whose sum orders
    candidates as their SQNR does.
    """
    if objective in ("top1", "top5", "cross_entropy"):
        loss = cross_entropy(logits, labels)
        if objective == "cross_entropy":
            return -loss, loss
        return (rank_of_label(logits, labels) < (1 if objective == "top1" else 5)).astype(jnp.float32), loss
    if objective == "sqnr":
        loss = jnp.square(logits - reference).sum(axis=1)
        return -loss, loss
    loss = kl_divergence(logits, reference)
    if objective == "kl":
        return -loss, loss
    return (rank_of_label(logits, reference.argmax(axis=1)) == 0).astype(jnp.float32), loss


def kl_divergence(logits: Float[Array, "row class"], reference: Float[Array, "row class"]) -> Float[Array, " row"]:
    """Return KL(reference ‖ logits) of each row, nats."""
    log_p = jax.nn.log_softmax(reference)
    return jnp.sum(jax.nn.softmax(reference) * (log_p - jax.nn.log_softmax(logits)), axis=-1)


def cross_entropy(logits: Float[Array, "row class"], labels: Int[Array, " row"]) -> Float[Array, " row"]:
    """Return −log p(label) of each row, nats."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]


def check_objective(objective: str, labels: np.ndarray | None, images: int, classes: int, *, few: bool) -> None:
    """Raise where the objective is unknown, or cannot be evaluated on these labels."""
    if objective not in OBJECTIVES:
        raise GgdjaxError(f"`objective` is {objective!r}; expected one of {', '.join(OBJECTIVES)}")
    if not OBJECTIVES[objective]:
        return
    if labels is None:
        free = ", ".join(name for name, needed in OBJECTIVES.items() if not needed)
        raise DataError(f"`labels` are missing: objective {objective!r} needs them; without labels take {free}")
    labels = np.asarray(labels)
    if labels.shape != (images,):
        raise DataError(f"`labels` have shape {labels.shape}; expected ({images},), one per image")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"`labels` lie in [{labels.min()}, {labels.max()}], outside the network's {classes} classes: check them or "
            "`label_offset`"
        )
    if labels.min() == labels.max():
        raise DataError(
            f"`labels` are all {labels[0]}: objective {objective!r} cannot be evaluated on a single class; give several"
        )
    if images < classes and not few:
        raise DataError(
            f"{images} tuning images for {classes} classes: give at least one per class, tune for 'kl', or set "
            "`allow_few_images`"
        )
