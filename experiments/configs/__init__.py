"""Every experiment by name. Your own: a file like those here, and its ``CONFIGS`` in the lines below."""

from __future__ import annotations

from experiments.configs import (
    accumulators,
    agreement,
    cost,
    exported,
    families,
    few_images,
    gradient,
    orders,
    paper,
    posterior,
    predicted,
    rounding,
    rtl,
    schemes,
    sensitivity,
    timings,
    training,
    tuning,
    weights,
    weights_first,
    without_images,
    zoo,
)
from experiments.experiment import Experiment

_MODULES = (
    schemes,
    paper,
    rounding,
    tuning,
    gradient,
    training,
    weights,
    weights_first,
    families,
    few_images,
    without_images,
    orders,
    posterior,
    sensitivity,
    predicted,
    agreement,
    exported,
    rtl,
    accumulators,
    cost,
    zoo,
    timings,
)
CONFIGS: dict[str, Experiment] = {
    name: experiment for module in _MODULES for name, experiment in module.CONFIGS.items()
}
