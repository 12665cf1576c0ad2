"""What a run of a recipe returns; and evaluations as files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ggdjax import _files
from ggdjax.quantization import Accuracy, Evaluation

if TYPE_CHECKING:
    from pathlib import Path

    from ggdjax.quantization import QuantizedNetwork
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


def save_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write an evaluation as one file."""
    arrays = {name: getattr(evaluation, name) for name in ("float_correct", "quantized_correct")}
    record = {name: value for name, value in vars(evaluation).items() if name not in arrays}
    for name in ("float_accuracy", "quantized_accuracy"):
        record[name] = asdict(record[name])
    _files.write(path, "evaluation", record, arrays)


def load_evaluation(path: Path) -> Evaluation:
    """Return what `save_evaluation` wrote."""
    _, record, arrays = _files.read(path, ("evaluation",))
    with _files.decoding(path):
        for name in ("float_accuracy", "quantized_accuracy"):
            record[name] = Accuracy(**record[name])
        return Evaluation(**record, **arrays)
