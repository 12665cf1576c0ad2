"""Networks in Flax NNX with their weights and the recipes that made them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ggdjax.zoo.digits import DigitsNet, digits_net
    from ggdjax.zoo.loading import load
    from ggdjax.zoo.recipe import Recipe
    from ggdjax.zoo.registry import Entry, Published, abstract, create, entry, initialize, names
    from ggdjax.zoo.state_dicts import load_state_dict
    from ggdjax.zoo.train import fit, top1
    from ggdjax.zoo.weights import load_weights, save_weights

#: Public name -> module; imported on first use, so that importing the room costs no Flax and no Optax.
_PUBLIC = {
    "DigitsNet": "ggdjax.zoo.digits",
    "Entry": "ggdjax.zoo.registry",
    "Published": "ggdjax.zoo.registry",
    "Recipe": "ggdjax.zoo.recipe",
    "abstract": "ggdjax.zoo.registry",
    "create": "ggdjax.zoo.registry",
    "digits_net": "ggdjax.zoo.digits",
    "entry": "ggdjax.zoo.registry",
    "fit": "ggdjax.zoo.train",
    "initialize": "ggdjax.zoo.registry",
    "load": "ggdjax.zoo.loading",
    "load_state_dict": "ggdjax.zoo.state_dicts",
    "load_weights": "ggdjax.zoo.weights",
    "names": "ggdjax.zoo.registry",
    "save_weights": "ggdjax.zoo.weights",
    "top1": "ggdjax.zoo.train",
}

__all__ = [
    "DigitsNet",
    "Entry",
    "Published",
    "Recipe",
    "abstract",
    "create",
    "digits_net",
    "entry",
    "fit",
    "initialize",
    "load",
    "load_state_dict",
    "load_weights",
    "names",
    "save_weights",
    "top1",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'ggdjax.zoo' has no attribute {name!r}")
