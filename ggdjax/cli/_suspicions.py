"""What looks right and is not: images prepared for another network, labels of another numbering, masks of 0 and 255."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import DataError
from ggdjax.data._pixels import UnreadableImage

if TYPE_CHECKING:
    from rich.console import Console

    from ggdjax.data import ImageSet
    from ggdjax.network import Network
    from ggdjax.quantization import Evaluation, Metric
    from ggdjax.recipe import Reading, Recipe

#: A float score in % below the first looks like images that were prepared for another network: all conventions are
#: tried on so many images. Between the two, red and blue may be exchanged, which more images tell.
_SUSPICIOUS, _TRIED = 0.4, 100
_GOOD, _COMPARED = 0.95, 256
#: Of maps one batch is tried; fewer images tell nothing.
_FEWEST = 16
#: Masks that are read.
_MASKS = 16


def print_suspicions(evaluation: Evaluation, net: Network, images: ImageSet, recipe: Recipe, screen: Console) -> None:
    """Say what of images, labels and masks is clearly not as the float network ``net`` was made for."""
    score = evaluation.float_score
    metric = score.metric
    if metric.compares == "class map":
        print_binary_masks(images, metric, screen)
    if metric.compares == "float output" or (metric.unit == "%" and score.value >= _GOOD):
        return
    chance = _chance(net, metric)
    all_ways = metric.unit != "%" or not score.value >= max(_SUSPICIOUS, 1.25 * chance)
    if not all_ways and images.preprocessing.channels != 3:
        return
    found = readings_of(
        net,
        images,
        screen,
        _TRIED if all_ways else min(_COMPARED, score.images),
        metric=metric,
        batch_size=recipe.batch_size,
        colours_alone=not all_ways,
    )
    best, used = found[0], next(reading for reading in found if not reading.differs)
    before = f"The float network has {metric.name} {metric.text(used.value)} on {used.score.images} images"
    if best.clearly_better_than(used, 1e-3 if all_ways else 1e-2):
        how = best.describe()
        if metric.compares == "image" and "scale" in best.differs:
            how += " (and a `data_range` of targets in that scale)"
        after = f"but {metric.text(best.value)} with {how}: is the preprocessing right?"
    elif all_ways and metric.share and best.near_chance(chance):
        after = (
            f"near chance ({100 * chance:.3g} %), and with the other presets too: are the labels numbered as its "
            "outputs?"
        )
    else:
        return
    screen.print(f"{before}, {after}", markup=False, soft_wrap=True)


def _chance(net: Network, metric: Metric) -> float:
    """Return the share of images that guesses are right on; 0 where the metric is not of classes."""
    from ggdjax.quantization._evaluation import count_classes

    guesses = {"top-1": 1, "top-5": 5}.get(metric.name, 0)
    return min(1.0, guesses / count_classes(net)) if guesses else 0.0


def readings_of(
    net: Network,
    images: ImageSet,
    screen: Console,
    count: int = _TRIED,
    *,
    metric: Metric | None = None,
    batch_size: int = 50,
    colours_alone: bool = False,
) -> tuple[Reading, ...]:
    """Return how the float network does on some images prepared in several ways, the best first."""
    from ggdjax.cli._console import progress_bar
    from ggdjax.recipe import readings
    from ggdjax.recipe._parts import some

    if metric is not None and metric.compares != "class":
        count = min(count, max(_FEWEST, batch_size))
    few = some(images, np.asarray(images.parts.get("test", np.arange(len(images)))), count, 0)
    with progress_bar(screen, "Trying other ways to prepare images", len(few)) as advance:
        return readings(net, images, few, metric, batch_size=batch_size, colours_alone=colours_alone, progress=advance)


def print_binary_masks(images: ImageSet, name: object, screen: Console) -> None:
    """Say that masks of 0 and 255 have one class, since 255 does not count."""
    from ggdjax.quantization import metric
    from ggdjax.quantization._metrics import ignored_class
    from ggdjax.recipe._parts import some

    if ignored_class(metric(name)) != 255:
        return
    values: set[int] = set()
    few = some(images, np.arange(len(images)), _MASKS, 0)
    for index in few:
        try:
            _, mask = images.load_labelled(int(index))
        except (UnreadableImage, DataError):
            continue
        values |= {*np.unique(mask).tolist()}
    first = images.preprocessing.label_offset
    if values == {first, 255}:
        screen.print(
            f"Of {len(few)} masks all pixels are 0 or 255, and 255 does not count: write the second class as 1.",
            markup=False,
            soft_wrap=True,
        )
