"""`ladder`: from the simplest recipe upwards, until the accuracy that is asked for is there."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ggdjax import data
from ggdjax._errors import GgdjaxError, expect
from ggdjax.quantization import metric
from ggdjax.recipe._parts import Parts, check_images, choose_parts
from ggdjax.recipe._recipe import Recipe
from ggdjax.recipe._run import _Run
from ggdjax.recipe._target import TARGETS, target
from ggdjax.tune import GradientConfig
from ggdjax.tune._gradient_config import fields_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ggdjax.data import ImageSet
    from ggdjax.network import Network
    from ggdjax.quantization import Metric, Score
    from ggdjax.recipe._outcome import Outcome

#: Rung -> what the hardware must be able to do, beyond the rung below.
RUNGS = {
    "nearest": "one power of two per layer",
    "output": "the same",
    "channel": "a power of two per output channel",
    "widths": "another width in every layer",
    "gradient": "the same",
}


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One recipe of a ladder, measured on the images that choose."""

    name: str
    needs: str
    """What the hardware must be able to do, beyond the rung below."""
    targets: tuple[str, ...]
    """Hardware of `TARGETS` that could run it, with the steps and signs that it has."""
    recipe: Recipe
    images: int
    float_value: float
    """By the recipe's metric, as the next; top-1 where it has none."""
    value: float
    drop: float
    """How much worse than the float network."""
    drop_interval: tuple[float, float]
    """95 % interval of the drop, both networks on the same images (Agresti and Min 2005; bootstrap over images where
    the metric is no share)."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The rungs that were climbed, and the outcome of the one that was kept, on the held-out images."""

    max_drop: float
    rungs: tuple[Rung, ...]
    left_out: dict[str, str]
    """Rungs that the target of the recipe cannot run, and why."""
    outcome: Outcome
    reached: bool
    """Whether the last rung's drop is at most ``max_drop`` on the images that choose."""

    def __str__(self) -> str:
        used = measured_by(self.outcome.recipe)
        scale, width = 100 if used.unit == "%" else 1, max(8, len(used.name))
        lines = [f"{'rung':9} {used.name:>{width}} {'drop':>7}  {'95 %':>14} {'seconds':>8}  hardware"]
        for rung in self.rungs:
            low, high = (f"{scale * end:.3g}" if scale == 1 else f"{scale * end:.1f}" for end in rung.drop_interval)
            lines.append(
                f"{rung.name:9} {used.text(rung.value):>{width}} {used.text(rung.drop, unit=False):>7}  "
                f"{f'[{low}, {high}]':>14} "
                f"{rung.seconds:8.1f}  {rung.needs} ({', '.join(rung.targets) or 'no target of ours'})"
            )
        lines.extend(f"{name:9} left out: {reason}" for name, reason in self.left_out.items())
        said = "reached" if self.reached else "not reached; the best rung is kept"
        images, limit = self.rungs[0].images, scale * self.max_drop
        unit = "points" if used.unit == "%" else used.unit or "in all"
        return "\n".join([*lines, f"{images} images that choose; a drop of at most {limit:g} {unit}: {said}."])


def measured_by(recipe: Recipe) -> Metric:
    """Return what a recipe measures: top-1 where it says nothing."""
    return metric("top-1" if recipe.metric is None else recipe.metric)


def ladder(
    network: Network,
    images: ImageSet,
    recipe: Recipe | None = None,
    *,
    max_drop: float,
    choose_images: int = 500,
    rungs: tuple[str, ...] = tuple(RUNGS),
    folder: Path | str | None = None,
    progress: Callable[[str, int, int, str], None] | None = None,
) -> Ladder:
    """Climb from nearest rounding until the score falls by up to ``max_drop``: the least that hardware and time allow.

    The rungs: rounding to nearest; rounding for the layer's output; a fractional length per output channel; a width for
    every layer, the mean of both as the recipe's; gradient tuning of all that. Each is measured on images that neither
    calibrate, tune nor evaluate; the first that holds is evaluated on the held-out images, where none does the best.

    Args:
        network: from a file or a function.
        images: labelled images.
        recipe: widths, scheme, images, target; `Recipe()` where None. Its tuning is that of the last rung. Rungs that
            its target cannot run are left out.
        max_drop: of top-1, or the recipe's metric, in its unit; those in % as a fraction: 0.005 is half a point. The
            measured drop decides; its interval is recorded.
        choose_images: images to choose on, and as many to tune on where the recipe has no number; fewer where fewer
            are left: half of those that no part has, or a third of the held-out ones.
        rungs: names of those to climb, of "nearest", "output", "channel", "widths", "gradient". "widths" is left out
            where weights and feature maps differ in width, or single ones have theirs.
        folder: where stages are kept: a ladder that was stopped resumes.
        progress: as that of `ggdjax.recipe.run`; its stage is the rung and the stage.

    Raises:
        GgdjaxError: a value out of range, or images or a recipe that do not fit the network.

    Example:
        >>> net = gd.trace(gd.zoo.digits_net(), jnp.zeros((1, 8, 8, 1)))
        >>> recipe = gd.Recipe(quantization=gd.QuantConfig(scheme="max-abs"), calibration_images=64)
        >>> climbed = gd.recipe.ladder(net, gd.data.digits(), recipe, max_drop=0.05)
        >>> [rung.name for rung in climbed.rungs], climbed.reached
        (['nearest'], True)
    """
    expect("network", network, "Network")
    recipe = Recipe() if recipe is None else recipe
    expect("recipe", recipe, "Recipe")
    used = measured_by(recipe)
    if used.compares == "float output":
        raise GgdjaxError(f"`max_drop` counts from the float network's score, which `metric` {used.name} has none of")
    if used.unit == "%" and not 0 <= max_drop < 1:
        raise GgdjaxError(f"`max_drop` must be a fraction from 0 to 1, got {max_drop!r}")
    if not 0 <= max_drop < math.inf:
        raise GgdjaxError(f"`max_drop` must be at least 0, got {max_drop!r}")
    if choose_images < 1:
        raise GgdjaxError(f"`choose_images` must be at least 1, got {choose_images!r}")
    if unknown := [name for name in rungs if name not in RUNGS]:
        raise GgdjaxError(f"no rung is called `{unknown[0]}`: {', '.join(RUNGS)}")
    recipes, left_out = _recipes(recipe, rungs, _tuning(images, recipe, choose_images))
    if not recipes:
        why = "".join(f"; {reason}" for reason in left_out.values())
        raise GgdjaxError(f"`rungs` leaves none to climb: name at least one that the recipe allows{why}")
    parts, choosing = parts_to_choose(images, [*recipes.values()][-1], choose_images)
    for own in recipes.values():
        check_images(network, images, parts, own)
    with tempfile.TemporaryDirectory(prefix="ggdjax-") as temporary:
        kept = Path(folder or temporary)
        climbed: list[Rung] = []
        for name, own in recipes.items():
            began = time.perf_counter()
            told = prefixed(progress, name)
            bare = replace(own, sensitivity_images=0)
            outcome = _Run(network, images, bare, _of(own, parts, choosing), None, kept, told).outcome()
            climbed.append(_rung(name, own, outcome, time.perf_counter() - began))
            if climbed[-1].drop <= max_drop:
                break
        reached = climbed[-1].drop <= max_drop
        best = climbed[-1] if reached else min(climbed, key=lambda rung: rung.drop)
        last = replace(best.recipe, sensitivity_images=recipe.sensitivity_images)
        final = _of(last, parts, parts.held_out)
        outcome = _Run(network, images, last, final, None, kept, progress).outcome()
    return Ladder(max_drop=max_drop, rungs=tuple(climbed), left_out=left_out, outcome=outcome, reached=reached)


def _recipes(recipe: Recipe, rungs: tuple[str, ...], count: int) -> tuple[dict[str, Recipe], dict[str, str]]:
    """Return the recipe of every rung, ``count`` images tuning; and why the target cannot run those that are left out.

    A rung adds to those below it that are not left out.
    """
    hardware = None if recipe.target is None else target(recipe.target)
    untuned = replace(recipe, search=None, gradient=None, tune_images=0, target=None)
    found, left_out = {}, {}
    for name in (name for name in RUNGS if name in rungs):
        own = _added(name, untuned, recipe, count)
        if own is None:
            continue
        if hardware is not None:
            try:
                own = hardware.recipe(own)
            except GgdjaxError as error:
                left_out[name] = str(error)
                continue
        found[name] = own
        if name != "gradient":
            untuned = replace(own, target=None)
    return found, left_out


def _added(name: str, below: Recipe, recipe: Recipe, count: int) -> Recipe | None:
    """Return the recipe of a rung, for any target; None where the widths of ``recipe`` leave it out."""
    config = below.quantization
    if name == "widths":
        named = config.weight_bits_of or config.activation_bits_of
        if config.weight_bits != config.activation_bits or recipe.mean_bits is not None or named:
            return None
        return replace(below, mean_bits=float(config.weight_bits))
    if name == "channel":
        return replace(below, quantization=replace(config, weights_per="channel"))
    if name != "gradient":
        return replace(below, rounding=name)
    slopes = recipe.gradient if recipe.tunes else GradientConfig(seed=recipe.seed, **fields_for(recipe.metric))
    if slopes is not None:
        slopes = replace(slopes, batch_size=min(slopes.batch_size, count))
    return replace(below, tune_images=count, search=recipe.search, gradient=slopes)


def _tuning(images: ImageSet, recipe: Recipe, count: int) -> int:
    """Return how many images tune: as many as wanted, or half of those of no part, a third of the held-out ones."""
    own = choose_parts(images, replace(recipe, search=None, gradient=None, tune_images=0))
    free = len(images) - len(own.calibration) - len(own.held_out)
    most = free // 2 or len(own.held_out) // 3
    if not most:
        raise GgdjaxError(f"{len(images)} images are too few to calibrate, tune, choose and evaluate on: give more")
    return min(recipe.tune_images or count, most)


def parts_to_choose(images: ImageSet, last: Recipe, count: int) -> tuple[Parts, np.ndarray]:
    """Return the parts of the last rung's recipe, and the images that choose, which are in none of them."""
    own = choose_parts(images, last)
    used = data.Split(calibration=np.union1d(own.calibration, own.tune), held_out=own.held_out, seed=last.seed)
    free = len(images) - len(used.calibration) - len(used.held_out)
    split, choosing = data.split_tuning(images, used, min(count, free or len(own.held_out) // 2), last.seed)
    return replace(own, held_out=split.held_out), choosing


def _of(recipe: Recipe, parts: Parts, evaluated: np.ndarray) -> Parts:
    """Return the parts of one rung: without tuning none tunes."""
    return replace(parts, tune=parts.tune if recipe.tunes else parts.tune[:0], held_out=evaluated)


def _rung(name: str, recipe: Recipe, outcome: Outcome, seconds: float) -> Rung:
    before, after = outcome.evaluation.float_score, outcome.evaluation.quantized_score
    drop, interval = _drop(before, after)
    return Rung(
        name=name,
        needs=RUNGS[name],
        targets=tuple(_able(recipe)),
        recipe=outcome.recipe,
        images=before.images,
        float_value=before.value,
        value=after.value,
        drop=drop,
        drop_interval=interval,
        seconds=round(seconds, 1),
    )


def _drop(before: Score, after: Score) -> tuple[float, tuple[float, float]]:
    """Return how much worse the second is, and the 95 % interval of that."""
    if not before.metric.share:
        sign = -1.0 if before.metric.higher_is_better else 1.0
        ends = sorted(sign * end for end in after.compared_to(before)[0])
        return sign * (after.value - before.value), (ends[0], ends[1])
    real, rounded = before.statistics > 0.5, after.statistics > 0.5
    lost, gained, count = int((real & ~rounded).sum()), int((~real & rounded).sum()), len(real)
    centre = (lost - gained) / (count + 2)
    half = 1.959964 * math.sqrt(lost + gained + 1 - (lost - gained) ** 2 / (count + 2)) / (count + 2)
    return (lost - gained) / count, (centre - half, centre + half)


def _able(recipe: Recipe) -> Iterator[str]:
    """Yield the names of the targets that can run a recipe."""
    for name, hardware in TARGETS.items():
        try:
            hardware.recipe(replace(recipe, target=None))
        except GgdjaxError:
            continue
        yield name


def prefixed(progress: Callable[[str, int, int, str], None] | None, name: str) -> Callable[..., None] | None:
    """Return ``progress`` for one run of several: its stages come behind the run's name."""
    if progress is None:
        return None
    return lambda stage, done, total, note: progress(f"{name}: {stage}", done, total, note)
