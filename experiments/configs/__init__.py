"""Every experiment by name. Your own: a file like those here, and its ``CONFIGS`` in the lines below."""

from __future__ import annotations

from experiments.configs import (
    agreement,
    families,
    few_images,
    gradient,
    orders,
    predicted,
    rounding,
    schemes,
    sensitivity,
    timings,
    tuning,
    weights,
)
from experiments.experiment import Experiment

_MODULES = (
    schemes,
    rounding,
    tuning,
    gradient,
    weights,
    families,
    few_images,
    orders,
    sensitivity,
    predicted,
    agreement,
    timings,
)
CONFIGS: dict[str, Experiment] = {
    name: experiment for module in _MODULES for name, experiment in module.CONFIGS.items()
}
