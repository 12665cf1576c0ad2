"""Every experiment by name. Your own: a file like those here, named below, with its ``CONFIGS``."""

from __future__ import annotations

from importlib import import_module

from experiments.experiment import Experiment

_MODULES = """
schemes paper rounding tuning gradient training weights weights_first families few_images without_images orders
posterior sensitivity predicted agreement exported rtl integers_on_networks fuzz files_equal accumulators
cost zoo timings
"""
CONFIGS: dict[str, Experiment] = {
    name: experiment
    for module in _MODULES.split()
    for name, experiment in import_module(f"experiments.configs.{module}").CONFIGS.items()
}
