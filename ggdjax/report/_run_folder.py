"""The folder that one run leaves, whole or not at all, and what a later command reads from it."""

from __future__ import annotations

import json
import math
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._atomic import atomic_directory, atomic_write
from ggdjax._errors import GgdjaxError, expect, expect_path
from ggdjax._fields import settings_of
from ggdjax._load import load
from ggdjax.recipe import Recipe
from ggdjax.report._comparison import HISTOGRAMS_FILE
from ggdjax.report._record import environment, result_record
from ggdjax.tune import History
from ggdjax.tune._statistics import compare_scores

if TYPE_CHECKING:
    from collections.abc import Generator

    from ggdjax.data import ImageSet
    from ggdjax.network import Network
    from ggdjax.quantization import Evaluation, QuantizedNetwork
    from ggdjax.recipe import Outcome

#: The file that makes a folder a run folder, and the key in it that only ggdjax writes.
RESULT_FILE, RESULT_KEY = "result.json", "ggdjax_result"
NETWORK_FILE, RECIPE_FILE = "network.safetensors", "recipe.toml"
_WANTED = "give a folder that `ggdjax quantize --out` wrote"
#: Bytes of a plot, and of a histogram in a file: upper bounds, to ask for space.
_PLOT, _HISTOGRAM = 100_000, 300_000


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """A run folder, read."""

    folder: Path
    result: dict[str, Any]
    """What result.json holds."""

    @property
    def recipe(self) -> Recipe:
        """The recipe that made the run, budgets filled in."""
        return Recipe.load(self._file(RECIPE_FILE))

    @property
    def network(self) -> QuantizedNetwork:
        """The quantized network, the last one of the run."""
        return load(self._file(NETWORK_FILE))

    @property
    def targets(self) -> str | None:
        """Where the targets of the images are; None: with the images."""
        return self.result.get("targets")

    @property
    def data(self) -> str | None:
        """Where the images are; None: those of the embedded network."""
        return self.result["data"]

    def _file(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise GgdjaxError(f"{self.folder} holds no {name}, as runs of older versions do not: quantize again")
        return path


def load_run(folder: Path) -> SavedRun:
    """Return the run in ``folder``.

    Raises:
        GgdjaxError: ``folder`` is no run folder of ggdjax, or its result.json is damaged.
    """
    folder = expect_path("folder", folder, "the name of a folder")
    path = folder / RESULT_FILE
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise GgdjaxError(f"{folder} holds no {RESULT_FILE}: {_WANTED}") from None
    except (OSError, ValueError) as error:
        raise GgdjaxError(f"{path} cannot be read ({error}): {_WANTED}") from None
    if not isinstance(result, dict) or RESULT_KEY not in result:
        raise GgdjaxError(f"{path} was not written by ggdjax: {_WANTED}")
    return SavedRun(folder=folder, result=result)


def write_run(
    folder: Path,
    outcome: Outcome,
    images: ImageSet,
    *,
    model: str,
    data: str | None,
    targets: str | None = None,
    beside: Outcome | None = None,
) -> None:
    """Write what a run leaves: the network, the recipe, result.json and histograms.

    Args:
        folder: where; it exists.
        outcome: what `ggdjax.recipe.run` returned.
        images: of the run.
        model: what was quantized, for people.
        data: where the images are, for later commands; None: those of the embedded network.
        targets: folder of their targets; None: with the images.
        beside: the same with one step per feature map, where the outcome has one per channel.
    """
    folder = expect_path("folder", folder, "the name of a folder")
    expect("outcome", outcome, "Outcome", hint="`gd.recipe.run(net, images, recipe)` returns one")
    quantized, evaluation, recipe = outcome.network, outcome.evaluation, outcome.recipe
    quantized.save(folder / NETWORK_FILE)
    recipe.save(folder / RECIPE_FILE)
    calibration = None if quantized.record is None else quantized.record.calibration
    if calibration is not None and (rounded := quantized.quantizers.activations):
        rows = np.flatnonzero([name in rounded for name in calibration.names])
        calibration.histograms[rows].save(folder / HISTOGRAMS_FILE)
    others: dict[str, Any] = {}
    if beside is not None:
        others["steps_per_tensor"] = result_record(beside.network, beside.evaluation)
    if outcome.untuned is not None and outcome.untuned_evaluation is not None:
        others["untuned"] = result_record(outcome.untuned, outcome.untuned_evaluation)
        others["tuning"] = _tuning_record(outcome)
    if outcome.sensitivity is not None:
        others["sensitivity"] = {"images": outcome.sensitivity.images, "rows": outcome.sensitivity.rows()}
    write_result(
        folder,
        {
            "model": model,
            "data": data,
            "targets": targets,
            **result_record(quantized, evaluation),
            **others,
            "options": _options(recipe),
            "preprocessing": images.preprocessing.to_dict(),
            "images": {"seed": recipe.seed, **{f"{name}_ids": list(ids) for name, ids in outcome.ids.items()}},
            **_per_image(evaluation),
            "unreadable_images": dict(images.unreadable),
            "seed": recipe.seed,
            "seconds": outcome.seconds,
            **environment(),
        },
    )


def _per_image(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Return which held-out images are right by top-1, and the score of each by any other metric."""
    found: dict[str, dict[str, Any]] = {}
    if evaluation.float_correct is not None and evaluation.quantized_correct is not None:
        each = {"float": evaluation.float_correct, "quantized": evaluation.quantized_correct}
        found["correct"] = {name: "".join("01"[int(hit)] for hit in hits) for name, hits in each.items()}
    if evaluation.metric.name != "top-1":
        scores = {"float": evaluation.float_score, "quantized": evaluation.quantized_score}
        found["scores"] = {name: [float(f"{value:.6g}") for value in score.per_image] for name, score in scores.items()}
    return found


def check_space(out: Path, network: Network) -> None:
    """Refuse an ``out`` on a disk without space for a run of ``network``, its unfinished stages included.

    Raises:
        GgdjaxError: how much is free and how much is needed.
    """
    out = expect_path("out", out, "the name of a folder")
    expect("network", network, "Network")
    maps = len(network.graph.feature_maps())
    weights = sum(value.size * 4 for value in network.params.values())
    needed = 8 * weights + maps * (8 * _HISTOGRAM + _PLOT)
    above = next(folder for folder in out.resolve().parents if folder.exists())
    free = shutil.disk_usage(above).free
    if free < needed:
        raise GgdjaxError(
            f"`--out` {out}: a run of this network takes up to {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free: "
            "choose a place with more"
        )


def _options(recipe: Recipe) -> dict[str, Any]:
    """Return the settings as one flat table."""
    search, gradient = recipe.search, recipe.gradient
    names = ("mean_bits", "equalize", "weights_first", "bias_correction", "calibration_images", "distilled_images")
    return {
        **asdict(recipe.quantization),
        **{name: getattr(recipe, name) for name in (*names, "tune_images", "held_out_images", "seed", "batch_size")},
        "metric": settings_of(recipe)["metric"],
        "tune_objective": None if search is None else settings_of(search)["objective"],
        "tune_sweeps": 0 if search is None else search.sweeps,
        "gradient_steps": 0 if gradient is None else gradient.steps,
    }


def _search_of(outcome: Outcome) -> History | None:
    """Return the history of the backward-forward search, where the recipe had one."""
    if outcome.recipe.search is None or outcome.network.record is None:
        return None
    details = [stage.details for stage in outcome.network.record.stages if isinstance(stage.details, History)]
    return details[-1] if details else None


def _tuning_record(outcome: Outcome) -> dict[str, Any]:
    before, after, gradient = outcome.untuned_evaluation, outcome.evaluation, outcome.recipe.gradient
    assert before is not None
    search = _search_of(outcome)
    return {
        "images": list(outcome.ids["tune"]),
        **compare_scores(before.quantized_score, after.quantized_score),
        "backward_forward": None if search is None else search.to_dict(),
        "gradient_steps": 0 if gradient is None else gradient.steps,
    }


def check_run_folder(out: Path) -> None:
    """Refuse an ``out`` that exists and was not left by an earlier run; a missing or empty folder is fine.

    Raises:
        GgdjaxError: ``out`` is a file, or a folder with other content.
    """
    out = expect_path("--out", out, "the name of a folder")
    if out.is_dir():
        if any(out.iterdir()) and not _is_run_folder(out):
            raise GgdjaxError(f"`--out` {out} exists and is no run folder of ggdjax: choose another folder")
    elif out.exists():
        raise GgdjaxError(f"`--out` {out} is a file: choose a folder")


@contextmanager
def new_run_folder(out: Path) -> Generator[Path]:
    """Yield an empty folder beside ``out`` that takes its place when the block ends well, and vanishes otherwise.

    An earlier run at ``out`` is replaced as a whole. While the block runs, no other process may write the same ``out``.

    Raises:
        GgdjaxError: ``out`` is another process's, or see :func:`check_run_folder`.
    """
    out = expect_path("--out", out, "the name of a folder")
    check_run_folder(out)
    with atomic_directory(out, "--out") as folder:
        yield folder


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write ``result.json``; NaN and infinity, which JSON lacks, become null."""
    folder = expect_path("folder", folder, "the name of a folder")
    text = to_json({RESULT_KEY: 1, **result})
    with atomic_write(folder / RESULT_FILE, "folder") as part:
        part.write_text(text, encoding="utf-8")


def to_json(value: Any) -> str:
    """Return a value as the JSON of a run folder; NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_plain(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _is_run_folder(folder: Path) -> bool:
    try:
        return RESULT_KEY in json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
