"""Which family describes the feature maps of real networks? Eight families on one histogram per feature map.

    python -m experiments run families
    python -m experiments run families --networks resnet20 --calibration-images 16

Per network: how many of its feature maps each family wins by each criterion, and the mean Kolmogorov-Smirnov
distance, Anderson-Darling distance and KL divergence. The nonzero magnitudes of calibration images are fitted; a
point mass at the largest magnitude (ReLU6, over-exposed pixels) is taken out before, for all families alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from experiments.experiment import Cell, Experiment
from experiments.feature_maps import FeatureMaps, calibration, calibration_order, calibration_sizes
from experiments.real_networks import NETWORKS
from ggdjax.ggd import FAMILIES, compare_families, split_saturation

CRITERIA = ("kolmogorov_smirnov", "anderson_darling", "kl", "bic")


@dataclass(frozen=True, kw_only=True)
class Families(Experiment):
    """Eight families of distributions fitted to every feature map, of networks × seeds."""

    NAME: ClassVar[str] = "families"
    AXES: ClassVar[tuple[str, ...]] = ()
    HOLDS: ClassVar[tuple[str, ...]] = ()

    calibration_images: int | None = None
    """Images to count, a multiple of 4; none: 256, and the 100 conventional ones of the ImageNet sample."""

    def passes(self, cell: Cell | None) -> dict[str, float]:
        """Return one pass over the images that are counted."""
        return {"": self.calibration_images or 256} if cell is None else {}

    def prepare(self, network: str, seed: int) -> tuple[FeatureMaps, list[str]]:
        """Return the counted feature maps, and the ids of the images."""
        real = self.network(network)
        count = self.calibration_images or max(calibration_sizes(real))
        images = real.open_images(real.load())
        ids = [images.ids[i] for i in calibration_order(real, images, seed)[:count]]
        return calibration(real, (count,), seed)[count], ids

    def image_ids(self, prepared: tuple[FeatureMaps, list[str]]) -> dict[str, list[str]]:
        """Return the images that were counted."""
        return {"calibration": prepared[1]}

    def measure(self, prepared: tuple[FeatureMaps, list[str]], cell: Cell, folder: Path) -> dict[str, Any]:
        """Return wins, means and the KS distance of every feature map."""
        maps = prepared[0]
        rest, saturation = split_saturation(maps.whole)
        comparison = compare_families(rest)
        goodness = jax.tree.map(np.asarray, comparison.goodness)
        means = {c: getattr(goodness, c).mean(1).round(6).tolist() for c in CRITERIA if c != "bic"}
        ks = goodness.kolmogorov_smirnov.round(5)
        return {
            "calibration_images": maps.images,
            "feature_maps": len(maps.names),
            "saturated": int((np.asarray(saturation.weight) > 0).sum()),
            "wins": {c: comparison.wins(c) for c in CRITERIA},
            "mean": {c: dict(zip(FAMILIES, mean, strict=True)) for c, mean in means.items()},
            "kolmogorov_smirnov": {
                name: dict(zip(FAMILIES, ks[:, i].tolist(), strict=True)) for i, name in enumerate(maps.names)
            },
        }

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return how many feature maps each family fits best by the KS distance."""
        return {family: str(count) for family, count in row["wins"]["kolmogorov_smirnov"].items()}


CONFIGS = {
    "families": Families(networks=tuple(NETWORKS)),
    "families-tiny": Families(calibration_images=16),
}
