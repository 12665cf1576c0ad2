"""The images of a recipe: opened as it says, checked, and divided into parts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ggdjax import data
from ggdjax._errors import DataError, GgdjaxError, expect, is_image_set, refusal
from ggdjax.data._image_set import check_labels
from ggdjax.data._pixels import UnreadableImage
from ggdjax.data._sizes import check_sizes
from ggdjax.quantization import Metric, metric
from ggdjax.quantization._evaluation import count_classes, output_shape
from ggdjax.quantization._metrics import check_metric, check_targets
from ggdjax.tune._objectives import OBJECTIVES, check_objective, resolved

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Int

    from ggdjax.data import ImageSet
    from ggdjax.network import Network
    from ggdjax.quantization import QuantizedNetwork
    from ggdjax.recipe._recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Disjoint indices into an image set, each in rising order."""

    calibration: Int[np.ndarray, " image"]
    tune: Int[np.ndarray, " image"]
    """Empty where nothing is tuned."""
    held_out: Int[np.ndarray, " image"]


def open_images(
    path: str | Path, network: Network | QuantizedNetwork, recipe: Recipe, *, targets: str | Path | None = None
) -> ImageSet:
    """Open images on disk as inputs of a network, preprocessed as the recipe says; see `ggdjax.data.open_images`.

    Args:
        path: of the images.
        network: that reads them.
        recipe: its preprocessing, and its metric, which says what belongs to each image.
        targets: folder of the images' targets, where the metric compares with masks or images.

    Raises:
        GgdjaxError: the recipe has no preprocessing, or one that does not fit the network.
        DataError: no images there, labels that are no classes of the network, or a network that scores no classes.
    """
    expect("network", network, "Network", "QuantizedNetwork")
    expect("recipe", recipe, "Recipe")
    net = network.float_network if hasattr(network, "float_network") else network
    if recipe.preprocessing is None:
        presets = ", ".join(data.PRESETS)
        raise GgdjaxError(f"say how images become inputs: `preprocessing` is missing (presets: {presets})")
    chosen = _metric_of(recipe, net)
    # Without a metric images bring what they have, and are refused by name.
    kind = None if recipe.metric is None else _KINDS[chosen.compares]
    rule = recipe.preprocessing.for_input(net.input_shape)
    images = data.open_images(path, rule, targets=targets, target_kind=kind)
    if chosen.compares == "class":
        check_labels(images, count_classes(net))
    return images


#: What a metric compares with -> what the images must bring.
_KINDS: dict[str, Any] = {
    "class": "class",
    "class map": "class map",
    "image": "image",
    "float output": "none",
    "any": None,
}


def _metric_of(recipe: Recipe, net: Network) -> Metric:
    """Return the recipe's metric, which must fit the network."""
    return check_metric(None if recipe.metric is None else metric(recipe.metric), output_shape(net))


def choose_parts(images: ImageSet, recipe: Recipe) -> Parts:
    """Divide images as the recipe says: by its seed and their ids, or by the ids it names.

    Raises:
        DataError: fewer images than asked for, none left to hold out, or an unknown id.
    """
    if not is_image_set(images):
        raise refusal("images", images, "an image set", "`gd.data.open_images(path, preprocessing)` returns one")
    if recipe.calibration_ids:
        split = data.split_by_ids(images, recipe.calibration_ids)
    else:
        split = data.split(images, recipe.calibration_images or 1, recipe.seed)
        if recipe.without_images:
            split = dataclasses.replace(split, calibration=split.calibration[:0])
    tune = np.zeros(0, np.int64)
    if recipe.tune_images:
        split, tune = data.split_tuning(images, split, recipe.tune_images, recipe.seed)
    held_out = split.held_out
    if recipe.held_out_images is not None:
        held_out = some(images, held_out, recipe.held_out_images, recipe.seed)
    return Parts(calibration=split.calibration, tune=tune, held_out=held_out)


def some(images: ImageSet, part: Int[np.ndarray, " image"], count: int, seed: int) -> Int[np.ndarray, " image"]:
    """Return up to ``count`` images of a part, by seed: the first ones of a folder are all of its first classes."""
    order = data.hash_order([images.ids[i] for i in part], seed)
    return part[sorted(order[:count])]


def check_images(network: Network, images: ImageSet, parts: Parts, recipe: Recipe) -> None:
    """Refuse images that do not fit the network or the recipe; nothing but headers of files is read.

    Raises:
        GgdjaxError: the images are preprocessed in another way than the recipe says.
        DataError: labels or sizes that the network does not have, or a network that scores no classes.
    """
    if recipe.preprocessing is not None:
        wanted = recipe.preprocessing.for_input(network.input_shape)
        if images.preprocessing != wanted:
            names = [
                f.name
                for f in dataclasses.fields(wanted)
                if getattr(wanted, f.name) != getattr(images.preprocessing, f.name)
            ]
            raise GgdjaxError(
                f"`images` are preprocessed in another way than the recipe says ({', '.join(names)} differ): open them "
                "with `recipe.open_images`, or leave `preprocessing` out"
            )
    chosen = _metric_of(recipe, network)
    if chosen.compares == "class":
        check_labels(images, count_classes(network))
    objective = None if recipe.search is None else resolved(recipe.search.objective)
    if isinstance(objective, Metric):
        check_metric(objective, output_shape(network))
    if recipe.search is not None and OBJECTIVES.get(str(objective)):
        check_labels(images, classes := count_classes(network))
        labels, few = images.labels[parts.tune], recipe.search.allow_few_images
        check_objective(recipe.search.objective, labels, len(parts.tune), classes, few=few)
    used = np.concatenate([parts.calibration, parts.tune, parts.held_out])
    check_sizes(images, used, network.input_shape)
    if chosen.compares in ("class map", "image"):
        _check_first_target(network, images, parts.held_out, chosen)


def _check_first_target(network: Network, images: ImageSet, part: np.ndarray, chosen: Metric) -> None:
    """Refuse targets that the metric does not fit, by the first that can be read."""
    kind = getattr(images, "target_kind", chosen.compares)
    if kind != chosen.compares:
        raise DataError(
            f"`{images.name}` holds targets of kind {kind!r}, `metric` {chosen.name} needs {chosen.compares!r}"
        )
    for index in part.tolist():
        try:
            images.load_labelled(index) if hasattr(images, "load_labelled") else None
        except UnreadableImage:
            continue
        except DataError:
            pass  # that of the batch names the image
        x, targets = next(images.batches([index], 1))
        check_targets(chosen, jax.eval_shape(network, x).shape, targets)
        return
