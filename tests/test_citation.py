"""Every scheme and stage names its papers."""

from __future__ import annotations

import re

import pytest

import ggdjax as gd
from ggdjax import schemes
from ggdjax._citation import _SCHEMES, _bibliography
from ggdjax._errors import GgdjaxError

#: No paper to cite: named by their description, or the method itself.
OWN = ("ggd", "max-abs", "mse-search")


def _keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE)


@pytest.mark.parametrize("name", schemes.names())
def test_every_scheme(name):
    keys = _keys(gd.citation(gd.QuantConfig(scheme=name)))
    assert keys[0] == "kim2018ggd"
    assert len(keys) == len(set(keys))
    assert (len(keys) == 1) == name.startswith(OWN)
    papers = schemes.get(name).paper
    for key in keys[1:]:
        assert re.match("[a-z]+", key)[0].lower() in papers.lower()
        assert re.search("[0-9]{4}", key)[0] in papers or "arXiv" in papers


def test_stages_of_a_recipe():
    assert _keys(gd.citation(gd.Recipe(rounding="nearest"))) == ["kim2018ggd"]
    recipe = gd.Recipe(gradient=gd.tune.GradientConfig(), tune_images=64, equalize=True)
    assert _keys(gd.citation(recipe))[1:] == [
        "frantar2022gptq",
        "li2025gptaq",
        "nagel2019dfq",
        "nagel2020adaround",
        "esser2020lsq",
    ]


def test_distilled_images():
    recipe = gd.Recipe(rounding="nearest", calibration_images=0, distilled_images=32)
    assert _keys(gd.citation(recipe)) == ["kim2018ggd", "cai2020zeroq"]


def test_every_entry_is_used_and_whole():
    used = {key for keys in _SCHEMES.values() for key in keys} | {"cai2020zeroq"}
    recipe = gd.Recipe(gradient=gd.tune.GradientConfig(), tune_images=64, equalize=True)
    assert set(_keys(_bibliography())) == used | set(_keys(gd.citation(recipe)))
    for entry in _bibliography().split("\n\n"):
        assert re.fullmatch(r"@\w+\{\w+,\n(  \w+ += \{.*\},\n)+\}\n?", entry), entry


def test_what_is_no_recipe():
    with pytest.raises(GgdjaxError, match=r"`used` must be recipes or settings of `gd\.quantize`, got str"):
        gd.citation("ggd")
