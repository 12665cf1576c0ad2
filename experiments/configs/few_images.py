"""Few images: SQNR of schemes on counted and on predictive histograms of 1 to 512 images.

    python -m experiments run few-images
    python -m experiments run few-images --networks resnet20 --seeds 0 1 2 3 4
    python -m experiments run predictive-spread

Mean SQNR in dB over all feature maps on the held-out images, each alone in the float network, one step per tensor.
A seed is an order of the calibration images (ImageNet sample: its 100 conventional ones); its first n calibrate. The
predictive histograms are those of `gd.quantize`: limits that the graph proves, the network's input as counted.
Expected: with 1 image `ggd` on predictive histograms at 8 bits has at least what `mse-search` has with 8 on counted
ones (ResNet-20, SqueezeNet). `predictive-spread` does so for `ggd` and settings of the predictive histogram's prior.
Expected: a plateau around the default, 0.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from experiments.experiment import Cell, Experiment
from experiments.feature_maps import FeatureMaps, calibration_order, held_out
from experiments.real_networks import NETWORKS
from ggdjax import quantization
from ggdjax.ggd import Histogram, empirical_distortion
from ggdjax.quantization._quantize import choose_activations

BITS = (8, 6, 4, 3)
SCHEMES = ("max-abs", "percentile-99.99", "kl", "octav", "mse-search", "ggd-plain", "ggd-tail", "ggd-best-order", "ggd")
KINDS = ("counted", "predictive")
#: Images per pass.
CHUNK = 16


@dataclass(frozen=True, kw_only=True)
class FewImages(Experiment):
    """SQNR of schemes on counted and predictive histograms of few images, of networks × draws × numbers of images."""

    NAME: ClassVar[str] = "few-images"
    AXES: ClassVar[tuple[str, ...]] = ("images",)
    HOLDS: ClassVar[tuple[str, ...]] = ()

    images: tuple[int, ...] = (1, 2, 4, 8, 16, 64, 512)
    """Up to N images calibrate."""
    bits: tuple[int, ...] = BITS
    """Widths of the feature maps."""
    schemes: tuple[str, ...] = SCHEMES
    """How steps are chosen."""

    def passes(self, cell: Cell | None) -> dict[str, float]:
        """Return one pass over the held-out images, and one over those that calibrate."""
        return {"held_out": 1, "": max(self.images)} if cell is None else {}

    def prepare(self, network: str, seed: int) -> dict[str, Any]:
        """Return the held-out feature maps, and the network with its images in the order of the draw."""
        real = self.network(network)
        net = real.load()
        images = real.open_images(net)
        order = calibration_order(real, images, seed)[: max(self.images)]
        return {"net": net, "images": images, "order": order, "held_out": held_out(real), "counted": None}

    def image_ids(self, prepared: dict[str, Any]) -> dict[str, list[str]]:
        """Return the images that calibrate, in their order."""
        return {"calibration": [prepared["images"].ids[i] for i in prepared["order"]]}

    def measure(self, prepared: dict[str, Any], cell: Cell, folder: Path) -> dict[str, Any]:
        """Return mean SQNR in dB, per scheme and kind of histogram a value for every width."""
        calibration = self._counted(prepared, cell["images"])
        target: FeatureMaps = prepared["held_out"]
        kinds = self.kinds(calibration)
        found = {
            scheme: {
                kind: sqnr_db(target.whole, histograms, scheme, self.bits).mean(1).round(4).tolist()
                for kind, histograms in kinds.items()
            }
            for scheme in self.schemes
        }
        return {
            "calibration_images": calibration.images,
            "held_out_images": target.images,
            "bits": list(self.bits),
            "mean_sqnr_db": found,
        }

    def kinds(self, calibration: quantization.Calibration) -> dict[str, quantization.Calibration]:
        """Return what the schemes are given."""
        return dict(zip(KINDS, (calibration, calibration.predictive()), strict=True))

    def _counted(self, prepared: dict[str, Any], count: int) -> quantization.Calibration:
        """Return the calibration on the first images; what was counted for a smaller number is not counted again."""
        before, order = prepared["counted"], prepared["order"]
        start = 0 if before is None or before.images > count else before.images
        part = order[start:count]
        if start and not len(part):
            return before
        images = prepared["images"]
        batches = [x for x, _ in images.batches(part, CHUNK)]
        counted = quantization.calibrate(prepared["net"], batches, preprocessing=images.preprocessing)
        if start:
            seen = before.images + counted.images
            counted = replace(counted, histograms=before.histograms + counted.histograms, images=seen)
        prepared["counted"] = counted
        return counted

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return the SQNR of every scheme at the first width."""
        return {
            f"{scheme}, {row['bits'][0]} bits, {' / '.join(kinds)}": " / ".join(f"{v[0]:.2f}" for v in kinds.values())
            for scheme, kinds in row["mean_sqnr_db"].items()
        }


@dataclass(frozen=True, kw_only=True)
class PredictiveSpread(FewImages):
    """SQNR of `ggd` on predictive histograms of several priors, of networks × draws × numbers of images."""

    NAME: ClassVar[str] = "predictive-spread"

    images: tuple[int, ...] = (1, 2, 4, 16, 64)
    schemes: tuple[str, ...] = ("ggd",)
    spreads: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.24)
    """Standard deviations over images of the logarithm of a feature map's scale."""

    def kinds(self, calibration: quantization.Calibration) -> dict[str, quantization.Calibration]:
        """Return the counted histograms, and the predictive ones of every spread."""
        return {"counted": calibration} | {str(spread): calibration.predictive(spread) for spread in self.spreads}


def sqnr_db(
    target: Histogram, calibration: quantization.Calibration, scheme: str, bits: tuple[int, ...]
) -> np.ndarray:
    """Return the SQNR ``[bits, tensor]`` on the held-out histograms, in dB."""
    config = quantization.QuantConfig(scheme=scheme, predictive=False)
    widths = np.broadcast_to(np.asarray(bits)[:, None], (len(bits), len(calibration.names)))
    chosen = choose_activations(calibration, config, widths)
    step, top, bottom = (
        np.stack([np.asarray(getattr(chosen[name], field)) for name in calibration.names]).astype(np.float32)
        for field in ("step", "qmax", "qmin")
    )
    error = np.asarray(empirical_distortion(target, step, top, -bottom), np.float64)
    energy = np.asarray(target.power_sum(2)) / np.asarray(target.count)
    return 10 * np.log10(energy[:, None] / error).T


CONFIGS = {
    "few-images": FewImages(networks=tuple(NETWORKS), seeds=(0, 1, 2)),
    "few-images-tiny": FewImages(images=(1, 4), bits=(8, 4), schemes=("max-abs", "ggd-plain")),
    "predictive-spread": PredictiveSpread(networks=tuple(NETWORKS), seeds=(0, 1, 2)),
    "predictive-spread-tiny": PredictiveSpread(images=(1, 4), bits=(8, 4), spreads=(0.1, 0.2)),
}
