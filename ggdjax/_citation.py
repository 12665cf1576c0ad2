"""BibTeX of the papers behind a recipe."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING

from ggdjax._errors import GgdjaxError

if TYPE_CHECKING:
    import ggdjax

#: Beginning of a scheme's name -> keys of its papers; ``ggd`` is the method itself.
_SCHEMES = {
    "aciq": ("banner2019aciq",),
    "affine-min-max": ("jacob2018integer",),
    "dynamic-fixed-point": ("gysel2018ristretto",),
    "kl": ("migacz2017tensorrt",),
    "moments": ("lee2018rapid",),
    "octav": ("sakr2022octav",),
    "percentile": ("migacz2017tensorrt", "mckinstry2018discovering"),
    "sqnr": ("lin2016fixed",),
}


def citation(*used: ggdjax.recipe.Recipe | ggdjax.quantization.QuantConfig) -> str:
    """Return BibTeX entries, separated by empty lines: the method's paper, then those of what is used.

    Args:
        used: recipes, or settings of ``gd.quantize``, which rounds weights to nearest; none: the method alone.

    Raises:
        GgdjaxError: one is neither.

    Example:
        >>> print(gd.citation()[:20])
        @article{kim2018ggd,
        >>> [line for line in gd.citation(gd.Recipe(bias_correction=True)).splitlines() if line.startswith("@")][1:]
        ['@article{frantar2022gptq,', '@article{li2025gptaq,', '@inproceedings{nagel2019dfq,']
    """
    texts = {re.findall(r"\{(\w+),", entry)[0]: entry.strip() for entry in _bibliography().split("\n\n")}
    keys = ["kim2018ggd", *(key for one in used for key in _keys(one))]
    return "\n\n".join(texts[key] for key in dict.fromkeys(keys)) + "\n"


def _keys(of: ggdjax.recipe.Recipe | ggdjax.quantization.QuantConfig) -> list[str]:
    from ggdjax.quantization import QuantConfig
    from ggdjax.recipe import Recipe

    if isinstance(of, QuantConfig):
        return [key for start, keys in _SCHEMES.items() if of.scheme.startswith(start) for key in keys]
    if not isinstance(of, Recipe):
        raise GgdjaxError(f"`used` must be recipes or settings of `gd.quantize`, got {type(of).__name__}")
    keys = _keys(of.quantization)
    if of.rounding == "output":
        keys += ["frantar2022gptq", "li2025gptaq"]
    if of.equalize or of.bias_correction or (of.without_images and not of.distilled_images):
        keys += ["nagel2019dfq"]
    if of.distilled_images:
        keys += ["cai2020zeroq"]
    if of.gradient is not None:
        keys += ["nagel2020adaround", "esser2020lsq"]
    return keys


def _bibliography() -> str:
    return files("ggdjax").joinpath("references.bib").read_text(encoding="utf-8")
