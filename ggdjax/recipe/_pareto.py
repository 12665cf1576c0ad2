"""`pareto`: one sweep over mean widths, and what accuracy each costs in weight bytes, traffic and energy."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax import cost
from ggdjax._errors import GgdjaxError, expect, near_matches
from ggdjax.quantization import Metric, metric
from ggdjax.recipe._ladder import parts_to_choose, prefixed
from ggdjax.recipe._parts import check_images, some
from ggdjax.recipe._recipe import Recipe
from ggdjax.recipe._run import _Run
from ggdjax.tune._output_sensitivity import output_change

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ggdjax.cost import HardwareModel
    from ggdjax.data import ImageSet
    from ggdjax.network import Network

#: What a point costs, per image but for the first.
COSTS = ("weight_bytes", "dram_bytes", "energy_pj")
#: What it is worth.
WORTH = ("value", "output_sqnr_db")
#: Images on which the error of the output is measured.
_SQNR_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class ParetoPoint:
    """One quantized network of a sweep."""

    mean_bits: float
    uniform: bool
    """Whether all weights and feature maps have this width, instead of a width per layer of this mean."""
    value: float
    """By the recipe's metric; top-1 where it has none."""
    interval: tuple[float, float]
    """95 % interval."""
    output_sqnr_db: float
    """SQNR of the logits against the float network's."""
    weight_bytes: int
    """Packed weights."""
    dram_bytes: float
    """Traffic of one image between DRAM and buffer."""
    energy_pj: float
    """Of one image; by `ggdjax.cost.estimate`."""
    seconds: float
    recipe: Recipe
    """Makes this network again."""


@dataclass(frozen=True, kw_only=True)
class Pareto:
    """The points of a sweep, by width, the uniform ones last; all measured on the same images."""

    points: tuple[ParetoPoint, ...]
    images: int
    float_value: float
    metric: Metric = field(default_factory=lambda: metric("top-1"))

    def front(self, cost: str = "energy_pj", worth: str = "value") -> tuple[ParetoPoint, ...]:
        """Return the points that no other beats: none costs as little and is worth more, or costs less for as much.

        Raises:
            GgdjaxError: an unknown cost or worth.
        """
        for name, value, known in (("cost", cost, COSTS), ("worth", worth, WORTH)):
            if value not in known:
                raise GgdjaxError(f"`{name}` is {value!r}: {near_matches(str(value), known)}")
        best, found = -np.inf, []
        sign = -1 if worth == "value" and not self.metric.higher_is_better else 1
        for point in sorted(self.points, key=lambda p: (getattr(p, cost), -sign * getattr(p, worth))):
            if sign * getattr(point, worth) > best:
                best = sign * getattr(point, worth)
                found.append(point)
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, for JSON."""
        points = [dataclasses.asdict(point) | {"recipe": point.recipe.to_dict()} for point in self.points]
        return {"images": self.images, "metric": self.metric.name, "float_value": self.float_value, "points": points}

    def __str__(self) -> str:
        fronts = {name: self.front(name) for name in COSTS}
        name, width = self.metric.name, max(8, len(self.metric.name))
        lines = [
            f"{'bits':>5} {'widths':9} {name:>{width}} {'SQNR dB':>8} {'weights kB':>11} {'traffic kB':>11} {'µJ':>8}"
        ]
        for p in self.points:
            marks = ["*" if p in fronts[name] else " " for name in COSTS]
            lines.append(
                f"{p.mean_bits:5g} {'uniform' if p.uniform else 'per layer':9} {self.metric.text(p.value):>{width}} "
                f"{p.output_sqnr_db:8.2f} {p.weight_bytes / 1e3:10.1f}{marks[0]} {p.dram_bytes / 1e3:10.1f}{marks[1]} "
                f"{p.energy_pj / 1e6:7.2f}{marks[2]}"
            )
        real = self.metric.text(self.float_value)
        last = f"{self.images} images that choose; float {name} {real}; * on the Pareto front."
        return "\n".join([*lines, last])


def pareto(
    network: Network,
    images: ImageSet,
    recipe: Recipe | None = None,
    *,
    budgets: Sequence[float] = (3, 3.5, 4, 5, 6, 8),
    choose_images: int = 500,
    hardware: HardwareModel | None = None,
    folder: Path | str | None = None,
    progress: Callable[[str, int, int, str], None] | None = None,
) -> Pareto:
    """Quantize to several mean widths, and return what accuracy each gives for its cost.

    Each budget is the mean width of a network with a width for every layer (`Recipe.mean_bits`), and, where it is an
    integer, the width of a uniform one beside it. Nothing is tuned. The images that measure accuracy neither calibrate
    nor evaluate, so that a point may be chosen by them.

    Args:
        network: from a file or a function.
        images: labelled images.
        recipe: scheme, granularity, rounding, images; `Recipe()` where None. Its widths, search and gradient tuning
            are left out.
        budgets: mean widths, 2 to 16 bits.
        choose_images: images to measure on; fewer where fewer are left.
        hardware: what the cost is computed for; the defaults of `ggdjax.cost.HardwareModel` where None.
        folder: where stages are kept: a sweep that was stopped resumes.
        progress: as that of `ggdjax.recipe.run`; its stage is the point and the stage.

    Raises:
        GgdjaxError: a value out of range, images or a recipe that do not fit the network, or a target without such
            widths.

    Example:
        >>> net = gd.trace(gd.zoo.digits_net(), jnp.zeros((1, 8, 8, 1)))
        >>> recipe = gd.Recipe(quantization=gd.QuantConfig(scheme="max-abs"), rounding="nearest", calibration_images=64)
        >>> found = gd.recipe.pareto(net, gd.data.digits(), recipe, budgets=(8,), choose_images=100)
        >>> [(point.mean_bits, point.uniform) for point in found.points]
        [(8.0, False), (8.0, True)]
    """
    expect("network", network, "Network")
    recipe = Recipe() if recipe is None else recipe
    expect("recipe", recipe, "Recipe")
    if choose_images < 1:
        raise GgdjaxError(f"`choose_images` must be at least 1, got {choose_images!r}")
    recipes = recipes_of(recipe, budgets)
    first = recipes[0]
    parts, choosing = parts_to_choose(images, first, choose_images)
    parts = replace(parts, tune=parts.tune[:0], held_out=choosing)
    check_images(network, images, parts, first)
    points: list[ParetoPoint] = []
    with tempfile.TemporaryDirectory(prefix="ggdjax-") as temporary:
        kept = Path(folder or temporary)
        few = some(images, choosing if recipe.without_images else parts.calibration, _SQNR_IMAGES, recipe.seed)
        x = np.concatenate([x for x, _ in images.batches(few, recipe.batch_size)])
        for own in recipes:
            began = time.perf_counter()
            bits, uniform = own.quantization.weight_bits, own.mean_bits is None
            told = prefixed(progress, f"{bits} bits" if uniform else f"{own.mean_bits:g} bits per layer")
            outcome = _Run(network, images, own, parts, None, kept, told).outcome()
            score = outcome.evaluation.quantized_score
            totals = cost.estimate(outcome.network, hardware).totals()
            points.append(
                ParetoPoint(
                    mean_bits=float(bits if uniform else own.mean_bits),
                    uniform=uniform,
                    value=score.value,
                    interval=score.interval(),
                    output_sqnr_db=output_change(outcome.network, x, batch_size=recipe.batch_size).sqnr_db,
                    **{name: totals[name] for name in COSTS},
                    seconds=round(time.perf_counter() - began, 1),
                    recipe=own,
                )
            )
    real = outcome.evaluation.float_score  # pyrefly: ignore[unbound-name] (there is a recipe at least)
    return Pareto(points=tuple(points), images=real.images, float_value=real.value, metric=real.metric)


def recipes_of(recipe: Recipe, budgets: Sequence[float]) -> list[Recipe]:
    """Return the recipe of every point: a width per layer of each mean first, then the uniform ones.

    Raises:
        GgdjaxError: no budget, one outside 2 to 16 bits, single widths in the recipe, or a target without such widths.
    """
    if not budgets:
        raise GgdjaxError("`budgets` is empty: name at least one mean width, 2 to 16 bits")
    if wrong := [budget for budget in budgets if not 2 <= budget <= 16]:
        raise GgdjaxError(f"`budgets` must be mean widths from 2 to 16 bits, got {wrong[0]:g}")
    if given := [f"`{n}`" for n in ("weight_bits_of", "activation_bits_of") if getattr(recipe.quantization, n)]:
        raise GgdjaxError(f"`budgets` chooses every width: leave {' and '.join(given)} out")
    bare = replace(recipe, search=None, gradient=None, tune_images=0, mean_bits=None, sensitivity_images=0)
    ordered = sorted({float(budget) for budget in budgets})
    per_layer = [replace(bare, mean_bits=budget) for budget in ordered]
    uniform = [
        replace(bare, quantization=replace(bare.quantization, weight_bits=int(b), activation_bits=int(b)))
        for b in ordered
        if b.is_integer()
    ]
    return per_layer + uniform
