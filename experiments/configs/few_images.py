"""Few images: SQNR of schemes on counted and on predictive histograms of 1 to 512 images.

    python -m experiments run few-images
    python -m experiments run few-images --networks resnet20 --seeds 0 1 2 3 4
    python -m experiments run few-images-accuracy --networks resnet20 mobilenet-0.25-128
    python -m experiments run predictive-spread

Mean SQNR in dB over all feature maps on the held-out images, each alone in the float network, one step per tensor.
A seed is an order of the calibration images (ImageNet sample: its 100 conventional ones); its first n calibrate. The
predictive histograms are those of `gd.quantize`: limits that the graph and the range of pixels prove.
Expected: with 1 image `ggd` on predictive histograms at 8 bits has at least what `mse-search` has with 8 on counted
ones (ResNet-20, SqueezeNet).

`few-images-accuracy` measures the top-1 of the networks that the same steps make, weights to nearest, a fractional
length per channel. `predictive-spread` has the SQNR of `ggd` for settings of the predictive histogram's prior.
Expected: a plateau around the default, 0.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from experiments.experiment import Cell, Experiment
from experiments.feature_maps import FeatureMaps, calibration_order, held_out
from experiments.images import read, some
from experiments.real_networks import NETWORKS
from ggdjax import GgdjaxError, quantization
from ggdjax.ggd import Histogram, empirical_distortion
from ggdjax.ggd._predictive import SPREAD_MAX
from ggdjax.quantization._quantize import choose_activations

if TYPE_CHECKING:
    from experiments.networks import AnyNetwork
    from ggdjax.data import ImageSet

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
        """Return what is evaluated on, and the network with its images in the order of the draw."""
        real = self.network(network)
        net = real.load()
        images = real.open_images(net)
        order = calibration_order(real, images, seed)[: max(self.images)]
        prepared = {"net": net, "images": images, "order": order, "counted": None}
        return prepared | {"held_out": self.held_out(real, images)}

    def held_out(self, real: AnyNetwork, images: ImageSet) -> Any:
        """Return the held-out feature maps."""
        return held_out(real)

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

    def check(self) -> None:
        """Refuse spreads out of range, too."""
        for spread in self.spreads:
            if not 0 < spread <= SPREAD_MAX:
                raise GgdjaxError(f"`spreads` has {spread}: expected numbers above 0, up to {SPREAD_MAX:.3f}")
        super().check()

    def kinds(self, calibration: quantization.Calibration) -> dict[str, quantization.Calibration]:
        """Return the counted histograms, and the predictive ones of every spread."""
        return {"counted": calibration} | {str(spread): calibration.predictive(spread) for spread in self.spreads}


@dataclass(frozen=True, kw_only=True)
class FewImagesAccuracy(FewImages):
    """Top-1 of schemes on counted and predictive histograms of few images, of networks × draws × numbers of images."""

    NAME: ClassVar[str] = "few-images-accuracy"

    bits: tuple[int, ...] = (8, 4)
    """Widths of the weights and the feature maps."""
    held_out_images: int | None = 2000
    """On up to N held-out images; none: on all of them."""

    def passes(self, cell: Cell | None) -> dict[str, float]:
        """Return a pass of the float network and one of every quantized one over the images."""
        return {"": max(self.images)} if cell is None else {"accuracy": 2 * len(self.schemes) * len(self.bits)}

    def held_out(self, real: AnyNetwork, images: ImageSet) -> list[Any]:
        """Return the images that are evaluated on."""
        part = some(images, real.split(images).held_out, self.held_out_images)
        return list(read(images, part, real.batch_size, f"{real.name}: held out"))

    def measure(self, prepared: dict[str, Any], cell: Cell, folder: Path) -> dict[str, Any]:
        """Return top-1, per scheme and kind of histogram a value for every width."""
        calibration, batches = self._counted(prepared, cell["images"]), prepared["held_out"]
        net, kinds = prepared["net"], self.kinds(calibration)

        def top1(histograms: quantization.Calibration, scheme: str, bits: int) -> float:
            config = quantization.QuantConfig(
                weight_bits=bits, activation_bits=bits, scheme=scheme, predictive=False, weights_per="channel"
            )
            return round(quantization.accuracy(quantization.quantize(net, histograms, config), batches).top1, 4)

        return {
            "calibration_images": calibration.images,
            "held_out_images": sum(len(x) for x, _ in batches),
            "bits": list(self.bits),
            "top1": {
                scheme: {kind: [top1(histograms, scheme, b) for b in self.bits] for kind, histograms in kinds.items()}
                for scheme in self.schemes
            },
        }

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return the top-1 of every scheme at the last width."""
        return {
            f"{scheme}, {row['bits'][-1]} bits, {' / '.join(kinds)}": " / ".join(
                f"{100 * v[-1]:.1f}" for v in kinds.values()
            )
            for scheme, kinds in row["top1"].items()
        }


def sqnr_db(target: Histogram, calibration: quantization.Calibration, scheme: str, bits: tuple[int, ...]) -> np.ndarray:
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
    "few-images-accuracy": FewImagesAccuracy(networks=tuple(NETWORKS)),
    "few-images-accuracy-tiny": FewImagesAccuracy(images=(1, 4), schemes=("max-abs", "ggd"), held_out_images=100),
    "predictive-spread": PredictiveSpread(networks=tuple(NETWORKS), seeds=(0, 1, 2)),
    "predictive-spread-tiny": PredictiveSpread(images=(1, 4), bits=(8, 4), spreads=(0.1, 0.2)),
}
