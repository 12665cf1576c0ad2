"""Make the shipped weights of the digits network: `python -m ggdjax.zoo.train_digits [FILE]`."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggdjax.data import digits
from ggdjax.zoo._digits import DigitsNet, digits_net
from ggdjax.zoo._recipe import Recipe
from ggdjax.zoo._train import fit, top1
from ggdjax.zoo._weights import save_weights

if TYPE_CHECKING:
    from collections.abc import Callable


def train(recipe: Recipe, on_epoch: Callable[[list[dict[str, Any]]], None] | None = None) -> DigitsNet:
    """Return the digits network trained on the part `train` by ``recipe``."""
    images = digits()
    net = digits_net(pretrained=False, seed=recipe.seed)
    return fit(net, images, recipe, indices=images.parts["train"], on_epoch=on_epoch)


def main() -> None:
    """Train, measure on the held-out part, write the weights and say so."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).with_name("_digits.safetensors")
    parser.add_argument("file", nargs="?", type=Path, default=default, help="where to write (default: the package)")
    file = parser.parse_args().file
    recipe = Recipe()
    net = train(recipe)
    images = digits()
    held_out = images.parts["test"]
    accuracy = top1(net, images, held_out)
    save_weights(
        net,
        file,
        {
            "made_by": "python -m ggdjax.zoo.train_digits",
            "recipe": json.dumps(dataclasses.asdict(recipe)),
            "held_out_images": str(len(held_out)),
            "held_out_top1": f"{accuracy:.4f}",
        },
    )
    print(f"{file}: top-1 {accuracy:.2%} on the held-out digits")


if __name__ == "__main__":
    main()
