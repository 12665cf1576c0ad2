"""Networks in Flax NNX with their weights and the recipes that made them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ggdjax.zoo.digits import DigitsNet, digits_net
    from ggdjax.zoo.train import Recipe, fit, top1
    from ggdjax.zoo.weights import load_weights, save_weights

#: Public name -> module; imported on first use, so that importing the room costs no Flax and no Optax.
_PUBLIC = {
    "DigitsNet": "ggdjax.zoo.digits",
    "Recipe": "ggdjax.zoo.train",
    "digits_net": "ggdjax.zoo.digits",
    "fit": "ggdjax.zoo.train",
    "load_weights": "ggdjax.zoo.weights",
    "save_weights": "ggdjax.zoo.weights",
    "top1": "ggdjax.zoo.train",
}

__all__ = ["DigitsNet", "Recipe", "digits_net", "fit", "load_weights", "save_weights", "top1"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'ggdjax.zoo' has no attribute {name!r}")
