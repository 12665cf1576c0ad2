"""How many calibration images are enough? The credible interval of the step against their number.

    python -m experiments run posterior
    python -m experiments run posterior --networks squeezenet --images 16 32 64 100

For each number of calibration images: the width of the 90 % credible interval of the closed-form step relative to its
median, from the posterior of the tail-weighted fit (NUTS on the histogram likelihood, uncertainty measured between 16
splits of the images). Beside it what it should predict: how the fitted steps scatter over random choices of the images
(3.29 standard deviations over choices), and the share of choices whose interval holds the step of all held-out images;
and the naive interval that counts every value as independent.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from experiments import networks
from experiments.experiment import Cell, Experiment, check_numbers
from experiments.feature_maps import FeatureMaps, calibration, calibration_order, held_out
from ggdjax.ggd import TailWeighted, fit, sample_posterior
from ggdjax.steps import closed_form_step

LEVEL = 0.9


@dataclass(frozen=True, kw_only=True)
class Posterior(Experiment):
    """Credible intervals of the steps against their scatter, of networks × numbers of images."""

    NAME: ClassVar[str] = "posterior"
    AXES: ClassVar[tuple[str, ...]] = ("images",)
    HOLDS: ClassVar[tuple[str, ...]] = ()

    images: tuple[int, ...] = (16, 64, 256, 1024)
    """Images that calibrate; multiples of 4."""
    order: float = 2.0
    """Of the tail weighting."""
    bits: int = 8
    """Width of the step."""
    choices: int = 8
    """Choices of the calibration images, by seeds from that of the cell on."""
    draws: int = 500
    """Draws of each posterior."""

    def check(self) -> None:
        """Refuse unknown names, missing data and numbers out of range."""
        check_numbers(self, "choices", least=2)
        check_numbers(self, "draws", "bits", *self.AXES)
        networks.check(self.networks, self.own)

    def passes(self, cell: Cell | None) -> dict[str, float]:
        """Return one pass over the held-out images, and one over those of each choice."""
        return {"held_out": 1, "": self.choices * max(self.images)} if cell is None else {}

    def prepare(self, network: str, seed: int) -> dict[str, Any]:
        """Return the counted feature maps of every choice and number of images, and those of the held-out images."""
        real = self.network(network)
        images = real.open_images(real.load())
        seeds, sizes = range(seed, seed + self.choices), tuple(sorted(self.images))
        order = calibration_order(real, images, seed)[: max(sizes)]
        maps = [calibration(real, sizes, one) for one in seeds]
        return {"maps": maps, "held_out": held_out(real), "ids": [images.ids[i] for i in order]}

    def image_ids(self, prepared: dict[str, Any]) -> dict[str, list[str]]:
        """Return the images of the first choice, in their order."""
        return {"calibration": prepared["ids"]}

    def measure(self, prepared: dict[str, Any], cell: Cell, folder: Path) -> dict[str, Any]:
        """Return per feature map the relative width of the intervals, and what it should predict."""
        whole = prepared["held_out"].whole
        signed = jnp.asarray(np.asarray(whole.is_signed))

        def step(tail: TailWeighted) -> jax.Array:
            return closed_form_step(tail, self.bits, signed=signed)

        def interval(histogram: Any, seed: int, **options: Any) -> np.ndarray:
            posterior = sample_posterior(histogram, jax.random.key(seed), order=self.order, draws=self.draws, **options)
            return np.stack(posterior.interval(step, LEVEL))

        target = np.asarray(step(fit(whole, order=self.order).tail))
        fitted, honest, seconds = [], [], np.inf
        for choice, of_sizes in enumerate(track(prepared["maps"], f"{cell['network']}: posteriors")):
            maps: FeatureMaps = of_sizes[cell["images"]]
            fitted.append(np.asarray(step(fit(maps.whole, order=self.order).tail)))
            begun = time.perf_counter()
            honest.append(interval(maps.histogram, cell["seed"] + choice, split_axis=0))
            seconds = min(seconds, time.perf_counter() - begun)
        naive = interval(prepared["maps"][0][cell["images"]].whole, cell["seed"])
        low, median, high = np.stack(honest, axis=1)  # choice, tensor
        return {
            "feature_maps": list(prepared["held_out"].names),
            "relative_width": ((high - low) / median).mean(0).round(5).tolist(),
            "scatter_over_seeds": (2 * 1.645 * np.std(np.log(fitted), axis=0, ddof=1)).round(5).tolist(),
            "covered": ((low < target) & (target < high)).mean(0).round(3).tolist(),
            "naive_width": ((naive[2] - naive[0]) / naive[1]).round(5).tolist(),
            "posterior_seconds": round(seconds, 3),
        }

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return medians over all feature maps; widths in % of the step."""
        names = {"width": "relative_width", "scatter": "scatter_over_seeds", "naive width": "naive_width"}
        widths = {f"{head}, %": f"{100 * np.median(row[key]):.2f}" for head, key in names.items()}
        covered = {"holds the held-out step": f"{np.mean(row['covered']):.0%}"}
        return widths | covered | {"seconds": f"{row['posterior_seconds']:.2f}"}


CONFIGS = {
    "posterior": Posterior(networks=("resnet20",)),
    "posterior-tiny": Posterior(images=(16,), choices=2, draws=20),
}
