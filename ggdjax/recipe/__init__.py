"""The pipeline: a recipe, and what runs it on a network and images."""

from __future__ import annotations

from ggdjax.recipe._ladder import Ladder, Rung, ladder
from ggdjax.recipe._named import named
from ggdjax.recipe._outcome import Outcome
from ggdjax.recipe._pareto import Pareto, ParetoPoint, pareto
from ggdjax.recipe._parts import Parts, choose_parts, open_images
from ggdjax.recipe._readings import Reading, readings
from ggdjax.recipe._recipe import Recipe
from ggdjax.recipe._run import run
from ggdjax.recipe._target import TARGETS, Target, target

__all__ = [
    "TARGETS",
    "Ladder",
    "Outcome",
    "Pareto",
    "ParetoPoint",
    "Parts",
    "Reading",
    "Recipe",
    "Rung",
    "Target",
    "choose_parts",
    "ladder",
    "named",
    "open_images",
    "pareto",
    "readings",
    "run",
    "target",
]
