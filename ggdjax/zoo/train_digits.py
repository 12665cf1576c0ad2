"""Make the shipped weights of the digits network: `python -m ggdjax.zoo.train_digits [FILE]`."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ggdjax.data import digits
from ggdjax.zoo.digits import DigitsNet, digits_net
from ggdjax.zoo.train import Recipe, fit, top1
from ggdjax.zoo.weights import save_weights

if TYPE_CHECKING:
    from collections.abc import Callable


def arrays(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (images, labels) of one part of the digits, as the network reads them."""
    images = digits()
    return next(images.batches(images.parts[part], len(images.parts[part])))


def train(recipe: Recipe, progress: Callable[[int, float], None] | None = None) -> DigitsNet:
    """Return the digits network trained on the part `train` by ``recipe``."""
    return fit(digits_net(pretrained=False, seed=recipe.seed), *arrays("train"), recipe, progress)


def main() -> None:
    """Train, measure on the held-out part, write the weights and say so."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).with_name("_digits.safetensors")
    parser.add_argument("file", nargs="?", type=Path, default=default, help="where to write (default: the package)")
    file = parser.parse_args().file
    recipe = Recipe()
    net = train(recipe)
    accuracy = top1(net, *arrays("test"))
    save_weights(
        net,
        file,
        {
            "made_by": "python -m ggdjax.zoo.train_digits",
            "recipe": json.dumps(dataclasses.asdict(recipe)),
            "held_out_images": str(len(arrays("test")[1])),
            "held_out_top1": f"{accuracy:.4f}",
        },
    )
    print(f"{file}: top-1 {accuracy:.2%} on the held-out digits")


if __name__ == "__main__":
    main()
