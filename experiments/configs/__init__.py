"""Every experiment by name. Your own: a file like those here, and its ``CONFIGS`` in the lines below."""

from __future__ import annotations

from experiments.configs import families, few_images, gradient, rounding, schemes, tuning, weights
from experiments.experiment import Experiment

CONFIGS: dict[str, Experiment] = {
    name: experiment
    for module in (schemes, rounding, tuning, gradient, weights, families, few_images)
    for name, experiment in module.CONFIGS.items()
}
