"""Weights first: whether steps chosen on the network whose weights are rounded already do better.

    python -m experiments run weights-first
    python -m experiments run weights-first --networks resnet20 --widths 8/8 --roundings output

Per cell one quantized network, by `gd.quantize` (scheme `ggd` per feature map), its weights rounded to nearest or for
the output of their layer, before and after `gd.recalibrate` on the same calibration images. Fractional lengths are per
layer, of the MobileNets per output channel. Measured on held-out images: mean SQNR over all feature maps, each rounded
alone, of what the rounded weights compute; SQNR of the logits against the float network's; top-1, with McNemar's test.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np

import ggdjax as gd
from experiments.bench import Bench
from experiments.experiment import Cell, Experiment, widths_of
from experiments.real_networks import NETWORKS
from ggdjax import tune
from ggdjax._ranking import rank_of_label
from ggdjax.ggd._empirical import empirical_sqnr_db
from ggdjax.quantization import Calibration, QuantizedNetwork, sqnr_db

_run = jax.jit(lambda network, x: network(x))


@dataclass(frozen=True, kw_only=True)
class WeightsFirst(Experiment):
    """SQNR and top-1 before and after calibrating again with rounded weights, of networks × widths × roundings."""

    NAME: ClassVar[str] = "weights-first"
    AXES: ClassVar[tuple[str, ...]] = ("widths", "roundings")
    PASSES: ClassVar = {"calibration": 1, "accuracy": 1}, {"calibration": 1, "accuracy": 3}
    HOLDS: ClassVar[tuple[str, ...]] = ("calibration", "accuracy")
    BESIDES: ClassVar[str] = "rounding for the output of layers"

    widths: tuple[str, ...] = ("8/8", "6/6", "4/4")
    """Bits of weights/feature maps."""
    roundings: tuple[Literal["nearest", "output"], ...] = ("nearest", "output")
    """How weights are rounded."""
    held_out_images: int | None = 2000
    """On up to N held-out images; none: on all of them."""

    def prepare(self, network: str, seed: int) -> tuple[Bench, np.ndarray]:
        """Return the network calibrated, and its logits of the held-out images."""
        bench = Bench(self.network(network), held_out=self.held_out_images, seed=seed, folded=True)
        return bench, logits(bench, partial(_run, bench.net))

    def image_ids(self, prepared: tuple[Bench, np.ndarray]) -> dict[str, list[str]]:
        """Return the images of every part."""
        return prepared[0].ids

    def measure(self, prepared: tuple[Bench, np.ndarray], cell: Cell, folder: Path) -> dict[str, Any]:
        """Return the figures before and after."""
        bench, wanted = prepared
        labels = np.concatenate([y for _, y in bench.batches])
        per = "channel" if bench.name.startswith("mobilenet") else "tensor"
        before = bench.quantized(widths_of(cell["widths"]), weights_per=per)
        if cell["rounding"] == "output":
            before = tune.round_weights(before, bench.calibration_inputs)
        started = time.perf_counter()
        after = gd.recalibrate(before, bench.calibration_batches(), preprocessing=bench.images.preprocessing)
        seconds = time.perf_counter() - started
        target = gd.calibrate(before.rounded_network, [x for x, _ in bench.batches])
        ratios = np.asarray(list(after.record.stages[-1].figures["step_ratio"].values()))
        right, figures = {}, {}
        for name, q in (("before", before), ("after", after)):
            found = logits(bench, partial(_run, replace(q, record=None)))
            right[name] = rank_of_label(found, labels) == 0
            error = float(np.square(found - wanted).sum())
            figures[name] = {
                "map_sqnr_db": round(map_sqnr_db(q, target), 3),
                "logit_sqnr_db": round(sqnr_db(float(np.square(wanted).sum()), error), 3),
                "top1": round(float(right[name].mean()), 4),
            }
        return {
            "weights_per": per,
            "calibration_images": bench.calibration.images,
            "held_out_images": len(labels),
            "float_top1": round(float(np.mean(rank_of_label(wanted, labels) == 0)), 4),
            "step_ratio": [round(float(v), 4) for v in (ratios.min(), np.median(ratios), ratios.max())],
            "recalibrate_seconds": round(seconds, 1),
            **figures,
            "p_value": tune.mcnemar(right["before"], right["after"]).p_value,
        }

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return before / after."""
        low, middle, high = row["step_ratio"]
        pairs = {"SQNR of maps, dB": "map_sqnr_db", "SQNR of logits, dB": "logit_sqnr_db"}
        return {
            "step, ratio": f"{middle:.3f} ({low:.3f} to {high:.3f})",
            **{head: f"{row['before'][key]:.2f} / {row['after'][key]:.2f}" for head, key in pairs.items()},
            "top-1, %": f"{100 * row['before']['top1']:.2f} / {100 * row['after']['top1']:.2f}",
            "McNemar p": f"{row['p_value']:.2g}",
        }


def map_sqnr_db(q: QuantizedNetwork, target: Calibration) -> float:
    """Return the mean SQNR in dB of the feature maps that ``target`` counted, each rounded alone."""
    quantizers = [q.quantizers.activations[name] for name in target.names]
    step, top, bottom = (
        np.asarray([np.asarray(getattr(one, field)) for one in quantizers], np.float32)
        for field in ("step", "qmax", "qmin")
    )
    return float(np.mean(empirical_sqnr_db(target.histograms, step, top, -bottom)))


def logits(bench: Bench, forward: Callable[[Any], Any]) -> np.ndarray:
    """Return the logits of every image that is evaluated."""
    return np.concatenate([np.asarray(forward(x), np.float64).reshape(len(x), -1) for x, _ in bench.batches])


CONFIGS = {
    "weights-first": WeightsFirst(networks=tuple(NETWORKS)),
    "weights-first-tiny": WeightsFirst(widths=("4/4",), held_out_images=100),
}
