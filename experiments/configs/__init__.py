"""Every experiment by name. Your own: a file like those here, and its ``CONFIGS`` in the lines below."""

from __future__ import annotations

from experiments.configs import schemes, tuning
from experiments.experiment import Experiment

CONFIGS: dict[str, Experiment] = schemes.CONFIGS | tuning.CONFIGS
#: Name in the rows -> the class.
CLASSES: dict[str, type[Experiment]] = {experiment.NAME: type(experiment) for experiment in CONFIGS.values()}
