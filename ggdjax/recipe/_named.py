"""Recipes by name: the paper's method alone, what this project does by default, and the best it can do in minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggdjax._errors import GgdjaxError, near_matches, refusal
from ggdjax.quantization import QuantConfig
from ggdjax.recipe._recipe import Recipe
from ggdjax.tune import GradientConfig, TuneConfig

if TYPE_CHECKING:
    from os import PathLike

#: ``paper``: nearest rounding with the fractional length of least squared error for weights and biases, the closed-form
#: step of the maximum-likelihood fit for feature maps, and backward-forward tuning on top-1 (Kim et al. 2018, by its
#: abstract; widths of biases and the number of tuning images are ours). ``default``: `Recipe()`. ``best``: a fractional
#: length per output channel, rounding for the output, gradient tuning without labels.
NAMED = {
    "paper": Recipe(
        quantization=QuantConfig(scheme="ggd-plain", bias_bits=16),
        rounding="nearest",
        tune_images=500,
        search=TuneConfig(objective="top1", held_back=0.0, allow_few_images=True),
    ),
    "default": Recipe(),
    "best": Recipe(quantization=QuantConfig(weights_per="channel"), tune_images=500, gradient=GradientConfig()),
}


def named(name: str) -> Recipe:
    """Return the recipe of a name: ``paper``, ``default`` or ``best``.

    Raises:
        GgdjaxError: no recipe is called so.

    Example:
        >>> gd.recipe.named("paper").rounding, gd.recipe.named("default").rounding
        ('nearest', 'output')
    """
    if not isinstance(name, str):
        raise refusal("name", name, "the name of a recipe", ", ".join(NAMED))
    if name not in NAMED:
        raise GgdjaxError(f"no recipe is called `{name}`: {near_matches(name, NAMED)}")
    return NAMED[name]


def recipe_of(source: str | PathLike[str]) -> Recipe:
    """Return the recipe of a name, or that of a file.

    Raises:
        GgdjaxError: neither is there, or the file holds no recipe.
    """
    text = str(source)
    return named(text) if "." not in text and "/" not in text else Recipe.load(text)
