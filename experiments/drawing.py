"""Random choices by seed, from which random networks, models and functions are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class Rejected(Exception):
    """What was drawn has no meaning here, does not run, or its numbers are too large or too many."""


def need(condition: Any) -> None:
    """Reject what is being drawn unless ``condition`` holds."""
    if not condition:
        raise Rejected("condition")


class Pieces:
    """Functions that are drawn; ``@piece(weight)`` adds one, drawn as often as its weight says.

    They begin with those of ``parts``, in order.
    """

    def __init__(self, *parts: Pieces) -> None:
        self._weights: dict[Callable, float] = {f: w for part in parts for f, w in part._weights.items()}

    def __call__(self, weight: float = 1.0) -> Callable[[Any], Any]:
        """Return the decorator."""

        def register(function: Any) -> Any:
            self._weights[function] = weight
            return function

        return register

    def draw(self, rng: np.random.Generator) -> Callable:
        """Return one of them."""
        shares = np.asarray(list(self._weights.values())) / sum(self._weights.values())
        return list(self._weights)[int(rng.choice(len(shares), p=shares))]


class Drawing:
    """What is drawn from one generator; a subclass may draw again from the same seed."""

    rng: np.random.Generator

    def chance(self, share: float) -> bool:
        """Return True in so many cases."""
        return bool(self.rng.random() < share)

    def pick(self, choices: Sequence) -> Any:
        """Return one of the choices."""
        return choices[int(self.rng.integers(len(choices)))]

    def int(self, low: int, high: int) -> int:
        """Return an integer from ``low`` to ``high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def regrouped(self, shape: Sequence[int]) -> list[int]:
        """Return another shape of as many values: once or twice two neighbours become one axis, or one becomes two."""
        sizes = list(shape)
        for _ in range(self.int(1, 2)):
            if len(sizes) > 1 and self.chance(0.5):
                k = self.int(0, len(sizes) - 2)
                sizes[k : k + 2] = [sizes[k] * sizes[k + 1]]
            elif sizes:
                k = self.int(0, len(sizes) - 1)
                factor = self.pick([f for f in range(1, sizes[k] + 1) if sizes[k] % f == 0])
                sizes[k : k + 1] = [factor, sizes[k] // factor]
        return sizes
