"""The configuration of gradient tuning, and its objectives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from ggdjax._errors import GgdjaxError, near_matches
from ggdjax.quantization import Metric, metric
from ggdjax.tune._objectives import cross_entropy, kl_divergence

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Array


def _output_error(logits: Array, real: Array) -> Array:
    """Return the mean squared error of each image's logits."""
    return jnp.mean(jnp.square(logits - real), axis=-1)


#: By name: each maps (logits, targets) to the loss of every image.
OBJECTIVES: dict[str, Callable[[Any, Any], Any]] = {
    "kl": kl_divergence,
    "cross_entropy": cross_entropy,
    "output": _output_error,
}


@dataclass(frozen=True, kw_only=True)
class GradientConfig:
    """What is minimised, how far things may move, and the budget.

    Raises:
        GgdjaxError: a field outside its range, or an unknown objective.
    """

    objective: str = "kl"
    """``"kl"``: divergence of the quantized network's classes from the float network's (distillation: no labels);
    ``"cross_entropy"`` with the labels; ``"output"``: mean squared error of the logits."""
    metric: str | Metric | None = None
    """What decides on the images held back which changes stay, by name (``mean-iou``) or a `Metric`: the labels are its
    targets. None: the objective itself."""
    per_layer: bool = False
    """Instead of the whole network at once, each layer after the other: mean squared error of its output (after the
    ReLU that alone reads it) on the inputs that the quantized network gives it (AdaRound, BRECQ). ``objective``
    then only compares the end against the start."""
    steps: int | None = None
    """Gradient steps in all; with ``per_layer`` divided evenly among the layers. None: as many as take about a minute
    on this machine, up to 1,000; the history and the record have the number."""
    batch_size: int = 64
    """Images per gradient step: bounds the memory."""
    step_rate: float = 0.003
    """Adam's rate for the logarithms of steps, at the start of its cosine decay to 0; likewise the next two."""
    offset_rate: float = 0.01
    """Rate for the rounding offsets, in codes."""
    bias_rate: float = 0.002
    """Rate for the biases, in standard deviations of the channel's output."""
    offset_bound: float = 2.0
    """Largest rounding offset, in codes: 0 keeps the weights, 1 lets each go to a neighbouring code, as AdaRound."""
    held_back: float = 1 / 3
    """Share of the images that tune nothing, as far as one batch is left to tune on: a layer is put back to the start
    where they lose less without its change, and the whole where they gain nothing. 0: every image tunes and
    evaluates."""
    seed: int = 0
    """Seed of the order of the images."""

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise GgdjaxError(
                f"no `objective` is called `{self.objective}`: {near_matches(self.objective, OBJECTIVES)}"
            )
        if self.metric is not None:
            metric(self.metric)
        for name in ("steps", "batch_size"):
            value = getattr(self, name)
            if name == "steps" and value is None:
                continue
            if not isinstance(value, int) or value < 1:
                raise GgdjaxError(f"`{name}` must be an integer of at least 1, got {value!r}")
        if not 0 <= self.held_back < 1:
            raise GgdjaxError(f"`held_back` must be a share from 0 to below 1, got {self.held_back!r}")
        if self.seed < 0:
            raise GgdjaxError(f"`seed` must be at least 0, got {self.seed!r}")
        for name in ("step_rate", "offset_rate", "bias_rate", "offset_bound"):
            if not 0 <= getattr(self, name) < np.inf:
                raise GgdjaxError(f"`{name}` must be at least 0 and finite, got {getattr(self, name)!r}")


def fields_for(measured: str | Metric | None) -> dict[str, Any]:
    """Return the fields of a config that follow from what is measured: outputs that are no classes have no KL."""
    if measured is None or metric(measured).compares == "class":
        return {}
    return {"objective": "output", "metric": measured}
