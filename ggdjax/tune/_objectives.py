"""What tuning maximises: one score per image, and a loss that breaks ties."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import DataError, GgdjaxError
from ggdjax._ranking import rank_of_label
from ggdjax.quantization import METRICS, Metric, metric
from ggdjax.quantization._metrics import check_targets, class_axis_of, ignored_class

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Num

#: Objective -> does it need labels?
OBJECTIVES = {"top1": True, "top5": True, "cross_entropy": True, "agreement": False, "kl": False, "sqnr": False}


#: Metrics that have an objective of their own.
_AS_OBJECTIVES = {"top-1": "top1", "top-5": "top5", "output-sqnr": "sqnr"}


def resolved(objective: str | Metric) -> str | Metric:
    """Return one of `OBJECTIVES`, or the metric that is meant.

    Raises:
        GgdjaxError: it is neither.
    """
    if isinstance(objective, str) and objective in OBJECTIVES:
        return objective
    try:
        found = metric(objective)
    except GgdjaxError as error:
        if isinstance(objective, str) and "setting" not in str(error):
            known = ", ".join((*OBJECTIVES, *(name for name in METRICS if name not in _AS_OBJECTIVES)))
            raise GgdjaxError(f"`objective` is {objective!r}; expected one of {known}") from None
        raise GgdjaxError(str(error).replace("`metric`", "`objective`")) from None
    return _AS_OBJECTIVES.get(found.name, found)


@partial(jax.jit, static_argnames=("objective", "shape"))
def score_and_loss(
    logits: Float[Array, "row class"],
    labels: Num[Array, "row ..."],
    reference: Float[Array, "row class"],
    *,
    objective: str | Metric,
    shape: tuple[int, ...] = (),
) -> tuple[Float[Array, " row"], Float[Array, " row"]]:
    """Return what to maximise, and what to minimise among equals, per row.

    ``top1``, ``top5``: 1 where the label is among the largest logits (`rank_of_label`); ties by cross-entropy.
    ``cross_entropy``: minus it. ``agreement``: 1 where the largest logit is the float network's; ties by
    KL(float ‖ quantized). ``kl``: minus that. ``sqnr``: minus the squared error of the logits, whose sum orders
    candidates as their SQNR does. A metric: its score of the image (which lower is better, minus that), ties by the
    cross-entropy of pixels where it is of maps of classes; ``shape`` is that of an image's output.
    """
    if isinstance(objective, Metric):
        return _metric_and_loss(logits, labels, reference, objective, shape)
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


def _metric_and_loss(
    logits: Array, targets: Array, reference: Array, chosen: Metric, shape: tuple[int, ...]
) -> tuple[Array, Array]:
    outputs = logits.reshape(len(logits), *shape)
    compared = reference.reshape(outputs.shape) if chosen.compares == "float output" else targets
    score = statistics = chosen.function(outputs, compared).astype(jnp.float32)
    if chosen.aggregate is not None:
        score = chosen.aggregate(statistics).astype(jnp.float32)
        # An image without anything to score, as a mask whose pixels all do not count, favours no candidate.
        score = jnp.where(jnp.isnan(score) & jnp.isfinite(statistics).all(axis=1), 0.0, score)
    score = score if chosen.higher_is_better else -score
    axis = class_axis_of(outputs.shape, targets.shape) if chosen.compares == "class map" else None
    if axis is None or outputs.shape[axis] == 1:
        return score, -score
    log_p = jnp.moveaxis(jax.nn.log_softmax(outputs, axis=axis), axis, -1).reshape(len(logits), -1, outputs.shape[axis])
    labels = targets.reshape(len(targets), -1)
    counted = labels != ignored_class(chosen)
    own = jnp.take_along_axis(log_p, jnp.where(counted, labels, 0)[..., None], axis=-1)[..., 0]
    return score, -jnp.where(counted, own, 0.0).mean(axis=1)


def kl_divergence(logits: Float[Array, "row class"], reference: Float[Array, "row class"]) -> Float[Array, " row"]:
    """Return KL(reference ‖ logits) of each row, nats."""
    log_p = jax.nn.log_softmax(reference)
    return jnp.sum(jax.nn.softmax(reference) * (log_p - jax.nn.log_softmax(logits)), axis=-1)


def cross_entropy(logits: Float[Array, "row class"], labels: Int[Array, " row"]) -> Float[Array, " row"]:
    """Return −log p(label) of each row, nats."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]


def check_objective(
    objective: str | Metric,
    labels: np.ndarray | None,
    images: int,
    classes: int,
    *,
    few: bool,
    shape: tuple[int, ...] = (),
) -> None:
    """Raise where the objective is unknown, or cannot be evaluated on these labels and outputs of ``shape``."""
    objective = resolved(objective)
    if isinstance(objective, Metric):
        if objective.compares == "float output":
            return
        if labels is None or len(labels) != images:
            given = "are missing" if labels is None else f"are {len(labels)}"
            raise DataError(
                f"`labels` {given}: objective {objective.name!r} needs a target for each of {images} images"
            )
        check_targets(objective, (images, *shape), np.asarray(labels))
        return
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
