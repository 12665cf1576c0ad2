"""Which order of the tail weighting quantizes real feature maps best: m = b/2, fixed ones, the best of six?

    python -m experiments run orders
    python -m experiments run orders --networks resnet20 --seeds 0 1 2

Mean SQNR in dB over all feature maps on held-out images, each alone in the float network. Steps from the counted
histograms of 16, 64 and 256 calibration images (ImageNet sample: 16, 64 and the 100 it has by convention); seeds choose
the images. Compared, all with the closed-form step: orders 0 to 4 without the zero cell; the schemes `ggd` (m = b/2),
`ggd-tail` (m = 2) and `ggd-best-order` (the best of six by its error on the calibration histogram); max-abs;
brute-force search on the same images; and the same search on the held-out images themselves, which no method can beat.
A point mass at the largest magnitude (ReLU6) is taken out of all fits and enters the step by `saturated_step`.
Expected: `ggd` within 0.05 dB of `ggd-best-order` in every cell with the most images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from experiments.experiment import Cell, Experiment
from experiments.feature_maps import FeatureMaps, calibration, calibration_order, held_out
from experiments.real_networks import NETWORKS
from ggdjax import schemes
from ggdjax.ggd import Histogram, fit, split_saturation
from ggdjax.ggd._empirical import empirical_sqnr_db
from ggdjax.steps import closed_form_step, saturated_step

ORDERS = (0, 1, 2, 3, 4)
SEARCH, BOUND = "mse-search", "search on held-out"
SCHEMES = ("max-abs", "ggd", "ggd-tail", "ggd-best-order", SEARCH)


@dataclass(frozen=True, kw_only=True)
class Orders(Experiment):
    """SQNR of the orders of the tail weighting, of networks × numbers of images × seeds."""

    NAME: ClassVar[str] = "orders"
    AXES: ClassVar[tuple[str, ...]] = ("images",)
    HOLDS: ClassVar[tuple[str, ...]] = ()

    images: tuple[int, ...] = (16, 64, 256)
    """Up to N images calibrate; multiples of 4."""
    bits: tuple[int, ...] = (8, 7, 6, 5, 4, 3)
    """Widths of the feature maps."""

    def passes(self, cell: Cell | None) -> dict[str, float]:
        """Return one pass over the held-out images, and one over those that calibrate."""
        return {"held_out": 1, "": max(self.images)} if cell is None else {}

    def prepare(self, network: str, seed: int) -> dict[str, Any]:
        """Return the counted feature maps of every number of images, and those of the held-out images."""
        real = self.network(network)
        images = real.open_images(real.load())
        order = calibration_order(real, images, seed)[: max(self.images)]
        sizes = tuple(dict.fromkeys(min(count, len(order)) for count in sorted(self.images)))
        ids = [images.ids[i] for i in order]
        return {"ids": ids, "maps": calibration(real, sizes, seed), "held_out": held_out(real)}

    def image_ids(self, prepared: dict[str, Any]) -> dict[str, list[str]]:
        """Return the images that calibrate, in their order."""
        return {"calibration": prepared["ids"]}

    def measure(self, prepared: dict[str, Any], cell: Cell, folder: Path) -> dict[str, Any]:
        """Return the SQNR in dB, per method of every width and feature map; None where nothing is lost."""
        maps: FeatureMaps = prepared["maps"][min(cell["images"], max(prepared["maps"]))]
        target: FeatureMaps = prepared["held_out"]
        signed = np.asarray(maps.whole.is_signed)
        steps = steps_of(maps, signed, self.bits)
        widths = jnp.asarray(self.bits)[:, None]
        steps[BOUND] = np.asarray(schemes.choose(SEARCH, target.whole, widths, signed).step)
        found = by_method(target.whole, steps, signed, self.bits)
        return {
            "calibration_images": maps.images,
            "held_out_images": target.images,
            "feature_maps": list(maps.names),
            "bits": list(self.bits),
            "sqnr_db": {
                method: [[float(v) if np.isfinite(v) else None for v in of_bits] for of_bits in value.round(4)]
                for method, value in found.items()
            },
        }

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return the mean SQNR of every method, at every width."""
        means = {
            method: [np.mean([v for v in of_bits if v is not None]) for of_bits in value]
            for method, value in row["sqnr_db"].items()
        }
        return {method: " ".join(f"{value:.2f}" for value in values) for method, values in means.items()}


def steps_of(maps: FeatureMaps, signed: np.ndarray, widths: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return method -> steps ``[bits, tensor]``."""
    bits = jnp.asarray(widths)[:, None]
    levels = jnp.asarray([[2.0 ** (b - s) for s in signed] for b in widths], jnp.float32)
    whole = maps.whole
    rest, saturation = split_saturation(whole)
    found = {}
    for m in ORDERS:
        step = closed_form_step(fit(rest, order=m).tail, bits, signed=jnp.asarray(signed)[None])
        found[f"m = {m}"] = saturated_step(step, levels, saturation.limit[None], saturation.weight[None])
    for name in SCHEMES:
        found[name] = schemes.choose(name, whole, bits, signed).step
    return {name: np.asarray(step) for name, step in found.items()}


def by_method(
    histogram: Histogram, steps: dict[str, np.ndarray], signed: np.ndarray, widths: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Return method -> SQNR ``[bits, tensor]`` on the histogram; two's complement where signed."""
    stacked = np.stack(list(steps.values())).transpose(2, 0, 1)  # tensor, method, bits
    top = (2.0 ** (np.asarray(widths) - signed[:, None]) - 1)[:, None, :].astype(np.float32)
    top = np.broadcast_to(top, stacked.shape)
    value = empirical_sqnr_db(histogram, stacked, top, (top + 1) * signed[:, None, None].astype(np.float32))
    return {name: value[:, i].T for i, name in enumerate(steps)}


CONFIGS = {
    "orders": Orders(networks=tuple(NETWORKS), seeds=(0, 1, 2)),
    "orders-tiny": Orders(images=(16,), bits=(8,)),
}
