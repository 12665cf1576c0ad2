"""What a run of a recipe returns; and evaluations as files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ggdjax import _files
from ggdjax.quantization import Accuracy, Evaluation, Score, metric

if TYPE_CHECKING:
    from pathlib import Path

    from ggdjax.quantization import Metric, QuantizedNetwork
    from ggdjax.recipe._recipe import Recipe
    from ggdjax.tune import Sensitivity


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A quantized network, what it is worth, and how it came to be."""

    network: QuantizedNetwork
    """Its record has every stage with its settings and figures."""
    evaluation: Evaluation
    """On the held-out images; accuracies have their `interval`."""
    untuned: QuantizedNetwork | None
    """The network before the search and gradient tuning; None where nothing was tuned."""
    untuned_evaluation: Evaluation | None
    recipe: Recipe
    """The recipe with the budgets that tuning had: run again it gives the same bits."""
    ids: dict[str, tuple[str, ...]]
    """Ids of the images of each part: ``calibration``, ``tune``, ``held_out`` (in the order of the evaluation's
    ``…_correct``, unreadable images left out)."""
    seconds: dict[str, float]
    """Wall time by stage; of a stage that an earlier start finished, the time to load it."""
    sensitivity: Sensitivity | None = None
    """What each rounding alone does to the output, where the recipe has ``sensitivity_images``."""


_ACCURACIES, _CORRECT = ("float_accuracy", "quantized_accuracy"), ("float_correct", "quantized_correct")
_SCORES = ("float_scores", "quantized_scores")


def save_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write an evaluation as one file."""
    fields = dict(vars(evaluation))
    scores = fields.pop("metric_scores")
    arrays = {name: found for name in _CORRECT if (found := fields.pop(name)) is not None}
    record = {name: value for name, value in fields.items() if value is not None}
    for name in _ACCURACIES:
        if name in record:
            record[name] = asdict(record[name])
    if scores is not None:
        arrays |= {name: score.statistics for name, score in zip(_SCORES, scores, strict=True)}
        record["not_finite"] = [score.not_finite for score in scores]
    _files.write(path, "evaluation", record, arrays)


def save_images(images: np.ndarray, path: Path) -> None:
    """Write distilled images as one file."""
    _files.write(path, "images", {}, {"images": images})


def load_images(path: Path) -> np.ndarray:
    """Return what `save_images` wrote."""
    _, _, arrays = _files.read(path, ("images",))
    with _files.decoding(path):
        return np.asarray(arrays["images"])


def load_evaluation(path: Path, measured: str | Metric | None = None) -> Evaluation:
    """Return what `save_evaluation` wrote of an evaluation by the metric ``measured``."""
    _, record, arrays = _files.read(path, ("evaluation",))
    with _files.decoding(path):
        for name in _ACCURACIES:
            record[name] = Accuracy(**record[name]) if name in record else None
        scores = None
        if measured is not None:
            each = zip(_SCORES, record.pop("not_finite"), strict=True)
            chosen = metric(measured)
            scores = tuple(Score(metric=chosen, statistics=arrays.pop(name), not_finite=n) for name, n in each)
        return Evaluation(**record, **{name: arrays.get(name) for name in _CORRECT}, metric_scores=scores)
