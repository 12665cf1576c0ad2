"""Steps from batch normalization, from images distilled from it, from 1, 4 and 512 images, and by DFQ's range.

    python -m experiments run without-images                         the networks that have batch normalization
    python -m experiments run without-images --networks digits       seconds, needs nothing

Weights to nearest, 8 bits, a fractional length per layer; scheme `ggd` (with few images or none on the predictive
histogram, the default). DFQ's range β ± 6γ (Nagel et al. 2019) is `max-abs` on the same distributions, whose extremes
lie at 6 standard deviations of the widest channel. 32 images are distilled (ZeroQ, Cai et al. 2020). The MobileNets
and SqueezeNet of `experiments/real_networks.py` have no batch normalization in their files. Expected: at least 0.99 of
the top-1 that 512 images reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from experiments.experiment import Cell, Experiment, check_known
from experiments.images import read, some
from ggdjax import data, quantization

#: Source of the steps -> images that calibrate, draws of them, and scheme.
SOURCES = {
    "none": (0, 1, "ggd"),
    "none, β ± 6γ": (0, 1, "max-abs"),
    "distilled": (0, 2, "ggd"),
    "1": (1, 2, "ggd"),
    "4": (4, 2, "ggd"),
    "512": (512, 1, "ggd"),
}
_BATCH = 250


@dataclass(frozen=True, kw_only=True)
class WithoutImages(Experiment):
    """Top-1 and SQNR with steps from batch normalization and from few images, of networks × bits × sources."""

    NAME: ClassVar[str] = "without-images"
    AXES: ClassVar[tuple[str, ...]] = ("bits", "sources")

    bits: tuple[int, ...] = (8,)
    """Widths of the feature maps."""
    sources: tuple[str, ...] = tuple(SOURCES)
    """Where steps come from: batch normalization, or so many images; distilled, 1 and 4: the mean of two draws."""
    held_out_images: int | None = 2000
    """On up to N held-out images; none: on all of them."""

    def check(self) -> None:
        """Refuse unknown names, missing data and numbers out of range."""
        check_known(self, "sources", SOURCES)
        super().check()

    def passes(self, cell: Cell | None) -> dict[str, float]:
        """Return the images of every draw; each is evaluated, in float too."""
        if cell is None:
            return {}
        count, draws, _ = SOURCES[cell["source"]]
        return {"": count * draws, "accuracy": 2 * draws}

    def prepare(self, network: str, seed: int) -> dict[str, Any]:
        """Return the network, its images, and those that are evaluated, decoded."""
        real = self.network(network)
        net = real.load()
        images = real.open_images(net)
        part = some(images, data.split(images).held_out, self.held_out_images)
        batches = list(read(images, part, _BATCH, f"{network}: held out"))
        return {"net": net, "images": images, "batches": batches, "ids": {"accuracy": [images.ids[i] for i in part]}}

    def image_ids(self, prepared: dict[str, Any]) -> dict[str, list[str]]:
        """Return the images that are evaluated."""
        return prepared["ids"]

    def measure(self, prepared: dict[str, Any], cell: Cell, folder: Path) -> dict[str, Any]:
        """Return top-1 and mean SQNR, the mean of all draws."""
        net, images = prepared["net"], prepared["images"]
        count, draws, scheme = SOURCES[cell["source"]]
        rule = images.preprocessing

        def calibration(seed: int) -> quantization.Calibration:
            if cell["source"] == "distilled":
                found = quantization.distill_images(net, key=jax.random.key(seed), preprocessing=rule)
                return quantization.calibrate(net, found, preprocessing=rule)
            if not count:
                return quantization.calibrate_without_data(net, preprocessing=rule)
            part = data.split(images, count, seed).calibration
            batches = (x for x, _ in images.batches(part, min(count, 128)))
            return quantization.calibrate(net, batches, preprocessing=rule)

        config = quantization.QuantConfig(activation_bits=cell["bits"], scheme=scheme)
        found = [
            quantization.evaluate(
                quantization.quantize(net, calibration(cell["seed"] + i), config), prepared["batches"]
            )
            for i in range(draws)
        ]
        return {
            "draws": draws,
            "float_top1": round(found[0].float_accuracy.top1, 4),
            "top1": round(float(np.mean([one.quantized_accuracy.top1 for one in found])), 4),
            "mean_sqnr_db": round(float(np.mean([one.mean_sqnr_db for one in found])), 2),
            "held_out_images": found[0].quantized_accuracy.images,
        }

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return top-1 and mean SQNR."""
        return {
            "float top-1, %": f"{100 * row['float_top1']:.2f}",
            "top-1, %": f"{100 * row['top1']:.2f}",
            "mean SQNR, dB": f"{row['mean_sqnr_db']:.1f}",
        }


CONFIGS = {
    "without-images": WithoutImages(networks=("digits", "resnet20-shipped", "resnet20")),
    "without-images-tiny": WithoutImages(sources=("none", "distilled", "1"), held_out_images=100),
}
