"""`run`: every stage of a recipe in order, each saved when it is done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np

from ggdjax import _files, tune
from ggdjax._atomic import atomic_write
from ggdjax._errors import GgdjaxError
from ggdjax._fields import settings_of
from ggdjax._load import load
from ggdjax.network import fold_batch_norm
from ggdjax.network._ops import STATISTICS
from ggdjax.network._serialize import graph_record
from ggdjax.quantization import (
    QuantizedNetwork,
    Stage,
    calibrate,
    calibrate_without_data,
    distill_images,
    evaluate,
    quantize,
    recalibrate,
)
from ggdjax.quantization._config import check_names
from ggdjax.quantization._record import image_hash
from ggdjax.quantization._serialize import quantizers_record
from ggdjax.recipe._outcome import Outcome, load_evaluation, load_images, save_evaluation, save_images
from ggdjax.recipe._parts import check_images, choose_parts, some
from ggdjax.recipe._recipe import Recipe
from ggdjax.recipe._target import target
from ggdjax.tune._backward_forward import search_passes
from ggdjax.tune._bits import check_budget
from ggdjax.tune._gradient import gradient_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from ggdjax.data import ImageSet
    from ggdjax.network import Network
    from ggdjax.quantization import Calibration, Evaluation
    from ggdjax.recipe._parts import Parts

T = TypeVar("T")
#: Calibration images that choose widths and correct biases: both need means alone, and hold their images in memory.
_FEW_HUNDRED = 256
#: Images that round weights, those that tune among them where fewer calibrate: more gain nothing, and all of them are
#: held in memory.
_MOST_ROUNDING = 512


def run(
    network: Network | QuantizedNetwork,
    images: ImageSet,
    recipe: Recipe | None = None,
    *,
    calibration: Calibration | None = None,
    folder: Path | str | None = None,
    progress: Callable[[str, int, int, str], None] | None = None,
) -> Outcome:
    """Quantize, correct, tune and evaluate a network as a recipe says.

    All stages: ``distill``, ``equalize``, ``calibrate``, ``quantize``, ``widths``, ``round_weights``, ``recalibrate``,
    ``bias_correction``, ``search``, ``gradient``, ``evaluate``. Of a quantized network the biases are corrected, where
    they were not, and it is tuned and evaluated.

    Args:
        network: from a file or a function; or a quantized network, to tune it.
        images: labelled images; the recipe says which calibrate, tune and evaluate.
        recipe: the defaults of `Recipe` where None.
        calibration: of an earlier run on the same images, instead of another pass over them.
        folder: where the result of every stage is kept; a run that was stopped resumes after the last finished stage
            (rounding after its last layer, a search after its last visit) and ends with the same bits. Stages of
            another network, other images or other settings are not read.
        progress: called with the stage, how many of its units are done and in all, and a line about it or "".

    Raises:
        GgdjaxError: images or a recipe that do not fit the network; nothing has been computed then.

    Example:
        >>> net = gd.trace(gd.zoo.digits_net(), jnp.zeros((1, 8, 8, 1)))
        >>> recipe = gd.Recipe(quantization=gd.QuantConfig(scheme="max-abs"), calibration_images=64)
        >>> outcome = gd.recipe.run(net, gd.data.digits(), recipe)
        >>> outcome.evaluation.quantized_accuracy.images, [stage.name for stage in outcome.network.record.stages]
        (500, ['quantize', 'round_weights'])
    """
    recipe = Recipe() if recipe is None else recipe
    if not isinstance(network, QuantizedNetwork):
        check_names(recipe.quantization, (folded := fold_batch_norm(network)).graph)
        if recipe.mean_bits is not None:
            named = recipe.quantization.weight_bits_of, recipe.quantization.activation_bits_of
            check_budget(folded, recipe.mean_bits, recipe.widths[0], *named)
    parts = choose_parts(images, recipe)
    check_images(network.float_network if isinstance(network, QuantizedNetwork) else network, images, parts, recipe)
    return _Run(network, images, recipe, parts, calibration, folder, progress).outcome()


class _Run:
    """One run: its images, its folder, and the mark of what was done so far."""

    def __init__(self, network, images: ImageSet, recipe: Recipe, parts: Parts, calibration, folder, progress) -> None:
        self.network, self.images, self.recipe, self.parts = network, images, recipe, parts
        self.calibration: Calibration | None = calibration
        self.distilled: np.ndarray | None = None
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        self.progress = progress or (lambda _stage, _done, _total, _note: None)
        self.seconds: dict[str, float] = {}
        self.number = 0
        self.mark = _digest(network_mark(network), images.preprocessing.to_dict(), images.name, recipe.batch_size)

    def outcome(self) -> Outcome:
        q = self.network if isinstance(self.network, QuantizedNetwork) else self._quantized(self.network)
        done = () if q.record is None else [stage.name for stage in q.record.stages]
        if self.recipe.bias_correction and "bias_correction" not in done:
            q = self._stage("bias_correction", self._some_ids(_FEW_HUNDRED), lambda: self._corrected(q))
        of_target = (lambda q: q) if self.recipe.target is None else target(self.recipe.target).fitted
        q, untuned, before = of_target(q), None, None
        if self.recipe.tunes:
            untuned, before = q, self._evaluated(q, "evaluate_untuned")
            q = of_target(self._tuned(q))
        evaluation = self._evaluated(q, "evaluate")
        lost = self.images.unreadable
        ids = {
            name: tuple(id_ for id_ in (self.images.ids[i] for i in getattr(self.parts, name)) if id_ not in lost)
            for name in ("calibration", "tune", "held_out")
        }
        return Outcome(
            network=q,
            evaluation=evaluation,
            untuned=untuned,
            untuned_evaluation=before,
            recipe=self.recipe,
            ids=ids,
            seconds=self.seconds,
            sensitivity=self._sensitivity(q) if self.recipe.sensitivity_images else None,
        )

    # Stages ---------------------------------------------------------------------------------------------------------

    def _quantized(self, net: Network) -> QuantizedNetwork:
        recipe, config = self.recipe, self.recipe.quantization
        if recipe.distilled_images:
            settings = [recipe.distilled_images, recipe.seed, _statistics_marks(net)]
            self.distilled = self._stage("distill", settings, lambda: self._distilled(net), save_images, load_images)
        if recipe.equalize:
            net = self._stage("equalize", None, lambda: tune.equalize(net))
        calibration = self.calibration
        if calibration is None:
            settings = [self._ids(self.parts.calibration), config.activations_per, recipe.values_per_batch]
            if recipe.without_images:
                settings.append(_statistics_marks(net))
            calibration = self._stage("calibrate", settings, lambda: self._calibrated(net))
        else:
            self.mark = _digest(self.mark, _array_mark(calibration.histograms.counts))

        def choose() -> QuantizedNetwork:
            q = quantize(net, calibration, config)
            if recipe.equalize:
                q = replace(q, record=replace(q.record, stages=(Stage(name="equalize"), *q.record.stages)))
            return q

        def all_channels(q: QuantizedNetwork) -> QuantizedNetwork:
            # Files of networks leave the histograms of single channels out.
            return replace(q, record=replace(q.record, calibration=calibration))

        q = all_channels(self._stage("quantize", dataclasses.asdict(config), choose))
        if recipe.mean_bits is not None:
            settings = [recipe.mean_bits, recipe.seed, self._some_ids(_FEW_HUNDRED)]
            q = all_channels(self._stage("widths", settings, lambda: self._with_widths(q)))
        if recipe.rounding == "output":
            settings = [self._ids(self._rounding_part()), dataclasses.asdict(recipe.output_rounding)]
            q = all_channels(self._stage("round_weights", settings, lambda: self._rounded(q)))
            if (path := self._checkpoint("round_weights")) is not None:
                path.unlink(missing_ok=True)  # the stage is kept
        if recipe.weights_first:
            settings = [self._ids(self.parts.calibration), recipe.values_per_batch]
            q = self._stage("recalibrate", settings, lambda: self._recalibrated(q))
        return q

    def _calibrated(self, net: Network) -> Calibration:
        per_channel = self.recipe.quantization.activations_per == "channel"
        if self.recipe.without_images and self.distilled is None:
            return calibrate_without_data(net, preprocessing=self.images.preprocessing, per_channel=per_channel)
        images, rule = self._calibration_images("calibrate"), self.images.preprocessing
        values = self.recipe.values_per_batch or None
        return self._counts(
            calibrate(net, images, preprocessing=rule, per_channel=per_channel, values_per_batch=values)
        )

    def _recalibrated(self, q: QuantizedNetwork) -> QuantizedNetwork:
        images, rule = self._calibration_images("recalibrate"), self.images.preprocessing
        again = recalibrate(q, images, preprocessing=rule, values_per_batch=self.recipe.values_per_batch or None)
        return replace(again, record=replace(again.record, calibration=self._counts(again.record.calibration)))

    def _counts(self, calibration: Calibration) -> Calibration:
        """Return a calibration without what distilled images cannot tell: how real images differ from each other."""
        return calibration if self.distilled is None else replace(calibration, moments=None)

    def _distilled(self, net: Network) -> np.ndarray:
        return distill_images(
            net,
            count=self.recipe.distilled_images,
            key=jax.random.key(self.recipe.seed),
            batch_size=self.recipe.batch_size,
            preprocessing=self.images.preprocessing,
            progress=lambda done, total, loss: self.progress("distill", done, total, f"loss {loss:.4g}"),
        )

    def _calibration_images(self, stage: str) -> Iterator[np.ndarray]:
        if self.distilled is not None:
            size = self.recipe.batch_size
            return (self.distilled[first : first + size] for first in range(0, len(self.distilled), size))
        return (x for x, _ in self._counted(stage, self.parts.calibration, self.recipe.batch_size))

    def _with_widths(self, q: QuantizedNetwork) -> QuantizedNetwork:
        x, budget = self._some_calibration_images(_FEW_HUNDRED), self.recipe.mean_bits
        chosen = tune.allocate_bits(
            q,
            x,
            budget=budget,
            widths=self.recipe.widths,
            weight_bits_of=self.recipe.quantization.weight_bits_of,
            activation_bits_of=self.recipe.quantization.activation_bits_of,
            batch_size=min(self.recipe.batch_size, len(x)),
            seed=self.recipe.seed,
            progress=lambda done, total: self.progress("widths", done, total, ""),
        )
        bits = {name: getattr(chosen, name) for name in ("weight_bits_of", "activation_bits_of")}
        again = quantize(q.float_network, q.record.calibration, replace(q.record.config, **bits))
        stage = Stage(
            name="widths",
            settings={"mean_bits": budget, "seed": self.recipe.seed},
            images=len(x),
            image_hash=image_hash(x),
            figures={"mean_bits": chosen.cost, "predicted_loss": chosen.predicted_loss},
        )
        (last,) = again.record.stages
        stages = (*q.record.stages[:-1], last, stage)
        return replace(again, record=replace(again.record, stages=stages))

    def _rounded(self, q: QuantizedNetwork) -> QuantizedNetwork:
        x, config = self._some_calibration_images(_MOST_ROUNDING, self._rounding_part()), self.recipe.output_rounding
        config = replace(config, batch_size=min(config.batch_size, self.recipe.batch_size))
        return tune.round_weights(
            q,
            x,
            config,
            checkpoint=self._checkpoint("round_weights"),
            progress=lambda done, total: self.progress("round_weights", done, total, ""),
        )

    def _corrected(self, q: QuantizedNetwork) -> QuantizedNetwork:
        return tune.correct_biases(
            q,
            self._some_calibration_images(_FEW_HUNDRED),
            batch_size=self.recipe.batch_size,
            progress=lambda done, total: self.progress("bias_correction", done, total, ""),
        )

    def _tuned(self, q: QuantizedNetwork) -> QuantizedNetwork:
        recipe, ids = self.recipe, self._ids(self.parts.tune)
        loaded: list[Any] = []

        def images() -> tuple[np.ndarray, np.ndarray]:
            if not loaded:
                loaded.extend(self._load(self.parts.tune))
            return loaded[0], loaded[1]

        if recipe.search is not None:
            start, config = q, recipe.search
            if config.max_float_passes is None and recipe.tune_seconds < math.inf:
                passes = self._budget(
                    "search",
                    [ids, settings_of(config), recipe.tune_seconds],
                    lambda: search_passes(start, images()[0], config, seconds=recipe.tune_seconds),
                )
                config = replace(config, max_float_passes=passes)
            settings = [ids, settings_of(config)]
            q = self._stage("search", settings, lambda: self._searched(start, *images(), config))
            whole = config.max_float_passes is None
            self.recipe = replace(self.recipe, search=config, tune_seconds=math.inf if whole else recipe.tune_seconds)
        if recipe.gradient is not None:
            begin, slopes = q, recipe.gradient
            if slopes.steps is None:
                steps = self._budget(
                    "gradient",
                    [ids, settings_of(slopes), recipe.tune_seconds],
                    lambda: gradient_steps(begin, *images(), slopes, seconds=recipe.tune_seconds),
                )
                slopes = replace(slopes, steps=steps)
            settings = [ids, settings_of(slopes)]
            q = self._stage("gradient", settings, lambda: self._descended(begin, *images(), slopes))
            self.recipe = replace(self.recipe, gradient=slopes)
        return q

    def _searched(self, q: QuantizedNetwork, x: np.ndarray, labels: np.ndarray, config: tune.TuneConfig):
        planned, limit = tune.plan(q, len(x), config), config.max_float_passes
        note = (
            f"{planned.candidates} candidates a sweep on {len(x)} images, {config.sweeps} sweeps: at most "
            f"{min(planned.float_passes, limit or math.inf):.0f} passes of the network over them"
            + ("" if limit is None else f", of {planned.float_passes:.0f} for all")
        )
        self.progress("search", 0, planned.visits, note)
        return tune.backward_forward(
            q,
            x,
            labels,
            config,
            checkpoint=self._checkpoint("search"),
            progress=lambda done, total, score: self.progress("search", done, total, f"{config.objective} {score:.4f}"),
        )

    def _descended(self, q: QuantizedNetwork, x: np.ndarray, labels: np.ndarray, config: tune.GradientConfig):
        assert config.steps is not None
        total = config.steps
        self.progress("gradient", 0, total, f"{total} gradient steps of {config.batch_size} images")
        return tune.gradient(
            q, x, labels, config, progress=lambda done, loss: self.progress("gradient", done, total, f"loss {loss:.4g}")
        )

    def _evaluated(self, q: QuantizedNetwork, name: str) -> Evaluation:
        metric, settings = self.recipe.metric, self._ids(self.parts.held_out)
        return self._stage(
            name,
            settings if metric is None else [settings, settings_of(self.recipe)["metric"]],
            lambda: evaluate(q, self._counted(name, self.parts.held_out, self.recipe.batch_size), metric),
            save_evaluation,
            lambda path: load_evaluation(path, metric),
        )

    def _sensitivity(self, q: QuantizedNetwork) -> tune.Sensitivity:
        with self._clock("sensitivity"):
            return tune.sensitivity(
                q,
                self._some_calibration_images(self.recipe.sensitivity_images),
                batch_size=self.recipe.batch_size,
                progress=lambda done, total: self.progress("sensitivity", done, total, ""),
            )

    # Images ---------------------------------------------------------------------------------------------------------

    def _ids(self, part: np.ndarray) -> list[Any]:
        mark = getattr(self.images, "target_mark", lambda i: int(self.images.labels[i]))
        return [[self.images.ids[i], mark(int(i))] for i in part]

    def _rounding_part(self) -> np.ndarray:
        """Return the images that round weights, for which nothing needs a label."""
        parts, seed = self.parts, self.recipe.seed
        chosen = some(self.images, parts.calibration, _MOST_ROUNDING, seed)
        if self.recipe.without_images:
            return chosen
        return np.sort(np.concatenate([chosen, some(self.images, parts.tune, _MOST_ROUNDING - len(chosen), seed)]))

    def _some_ids(self, most: int) -> list[Any]:
        return self._ids(some(self.images, self.parts.calibration, most, self.recipe.seed))

    def _some_calibration_images(self, most: int, part: np.ndarray | None = None) -> np.ndarray:
        if self.distilled is not None:
            return self.distilled[:most]
        if self.recipe.distilled_images:
            raise GgdjaxError("`distilled_images` need batch normalization, of which a quantized network has none left")
        if part is None:
            part = some(self.images, self.parts.calibration, most, self.recipe.seed)
        return self._load(part)[0]

    def _load(self, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return images and labels as arrays."""
        x, labels = zip(*self.images.batches(part, self.recipe.batch_size), strict=True)
        return np.concatenate(x), np.concatenate(labels)

    def _counted(self, stage: str, part: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        done = 0
        self.progress(stage, 0, len(part), "")
        for x, labels in self.images.batches(part, size):
            yield x, labels
            done += len(labels)
            self.progress(stage, done, len(part), "")

    # Files ----------------------------------------------------------------------------------------------------------

    def _stage(
        self,
        name: str,
        settings: Any,
        make: Callable[[], T],
        save: Callable[[Any, Path], None] = lambda value, path: value.save(path),
        read: Callable[[Path], T] = load,
    ) -> T:
        """Return what ``make`` returns, or what an earlier start kept of it."""
        self.mark = _digest(self.mark, name, settings)
        self.number += 1
        kept = None if self.folder is None else self.folder / f"{self.number:02d}_{name}_{self.mark[:12]}.safetensors"
        with self._clock(name):
            if kept is not None and kept.exists():
                self.progress(name, 1, 1, "kept from an earlier start")
                return read(kept)
            self.progress(name, 0, 1, "")
            value: Any = make()
            if kept is not None:
                save(value, kept)
            return value

    def _checkpoint(self, stage: str) -> Path | None:
        """Return where a stage keeps what it has done so far."""
        return None if self.folder is None else self.folder / f"{stage}_{self.mark[:12]}.safetensors"

    def _budget(self, name: str, settings: Any, measure: Callable[[], float | None]) -> Any:
        """Return what ``measure`` returns, or what an earlier start kept: another time of one step changes nothing."""
        mark = _digest(self.mark, name, settings)[:12]
        kept = None if self.folder is None else self.folder / f"budget_{name}_{mark}.json"
        if kept is not None and kept.exists():
            return json.loads(kept.read_text(encoding="utf-8"))
        self.progress(name, 0, 1, "timing one step")
        with self._clock(name):
            found = measure()
        if kept is not None:
            with atomic_write(kept, "folder") as part:
                part.write_text(json.dumps(found), encoding="utf-8")
        return found

    @contextmanager
    def _clock(self, stage: str) -> Generator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - start, 3)


def network_mark(network: Network | QuantizedNetwork) -> str:
    """Return what tells one network from another: its graph and every number."""
    if isinstance(network, QuantizedNetwork):
        record, arrays = quantizers_record(network.quantizers)
        steps = {name: array.tolist() for name, array in arrays.items()}
        return _digest(network_mark(network.network), record, steps)
    net = fold_batch_norm(network)
    digest = hashlib.sha256(_files.dumps(graph_record(net.graph)).encode())
    for key in sorted(net.params):
        digest.update(f"{key} {_array_mark(net.params[key])}".encode())
    return digest.hexdigest()


def _statistics_marks(net: Network) -> list[str]:
    """Return what tells batch normalizations apart that fold to the same weights."""
    keys = [key for node in net.graph.nodes for role, key in node.params if role in STATISTICS]
    return [_array_mark(net.params[key]) for key in keys]


def _array_mark(value: Any) -> str:
    value = np.ascontiguousarray(value)
    return hashlib.sha256(f"{value.dtype} {value.shape}".encode() + value.tobytes()).hexdigest()


def _digest(*parts: Any) -> str:
    return hashlib.sha256(_files.dumps(list(parts)).encode()).hexdigest()
