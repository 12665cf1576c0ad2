"""The images of a recipe: opened as it says, checked, and divided into parts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ggdjax import data
from ggdjax._errors import GgdjaxError, expect, is_image_set, refusal
from ggdjax.data._image_set import check_labels
from ggdjax.data._sizes import check_sizes
from ggdjax.quantization._evaluation import count_classes
from ggdjax.tune._objectives import check_objective

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


def open_images(path: str | Path, network: Network | QuantizedNetwork, recipe: Recipe) -> ImageSet:
    """Open images on disk as inputs of a network, preprocessed as the recipe says; see `ggdjax.data.open_images`.

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
    images = data.open_images(path, recipe.preprocessing.for_input(net.input_shape))
    check_labels(images, count_classes(net))
    return images


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
    classes = count_classes(network)
    check_labels(images, classes)
    if recipe.search is not None:
        labels, few = images.labels[parts.tune], recipe.search.allow_few_images
        check_objective(recipe.search.objective, labels, len(parts.tune), classes, few=few)
    used = np.concatenate([parts.calibration, parts.tune, parts.held_out])
    check_sizes(images, used, network.input_shape)
