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
    from ggdjax.recipe import Outcome, Reading

#: A float top-1 below the first looks like images that were prepared for another network: all conventions are tried on
#: so many images. Between the two, red and blue may be exchanged, which more images tell.
_SUSPICIOUS, _TRIED = 0.4, 100
_GOOD, _COMPARED = 0.95, 256
#: Masks that are read.
_MASKS = 16


def print_suspicions(outcome: Outcome, images: ImageSet, screen: Console) -> None:
    """Say what of images, labels and masks is clearly not as the network was made for."""
    from ggdjax.quantization import metric
    from ggdjax.quantization._evaluation import count_classes

    accuracy, recipe = outcome.evaluation.float_accuracy, outcome.recipe
    if recipe.metric is not None and metric(recipe.metric).compares == "class map":
        print_binary_masks(images, recipe.metric, screen)
    if accuracy is None or accuracy.top1 >= _GOOD:
        return
    net = outcome.network.float_network
    classes = count_classes(net)
    all_ways = accuracy.top1 < max(_SUSPICIOUS, 1.25 / classes)
    if not all_ways and images.preprocessing.channels != 3:
        return
    found = readings_of(
        net, images, screen, _TRIED if all_ways else min(_COMPARED, accuracy.images), colours_alone=not all_ways
    )
    best, used = found[0], next(reading for reading in found if not reading.differs)
    if best.clearly_better_than(used, 1e-3 if all_ways else 1e-2):
        screen.print(
            f"The float network is right on {100 * used.top1:.0f} % of {len(used.correct)} images, but on "
            f"{100 * best.top1:.0f} % with {best.describe()}: is the preprocessing right?",
            markup=False,
            soft_wrap=True,
        )
    elif all_ways and best.near_chance(classes):
        screen.print(
            f"The float network is right on {100 * used.top1:.0f} % of {len(used.correct)} images, near chance "
            f"({100 / classes:.3g} %), and with the other presets too: are the labels numbered as its outputs?",
            markup=False,
            soft_wrap=True,
        )


def readings_of(
    net: Network, images: ImageSet, screen: Console, count: int = _TRIED, *, colours_alone: bool = False
) -> tuple[Reading, ...]:
    """Return how the float network does on some images prepared in several ways, the best first."""
    from ggdjax.cli._console import progress_bar
    from ggdjax.recipe import readings
    from ggdjax.recipe._parts import some

    few = some(images, np.asarray(images.parts.get("test", np.arange(len(images)))), count, 0)
    with progress_bar(screen, "Trying other ways to prepare images", len(few)) as advance:
        return readings(net, images, few, colours_alone=colours_alone, progress=advance)


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
