"""What counting costs beside a float pass, and what counting a share of the positions loses on other images.

    python -m experiments run timings --benchmarks counting

`gd.calibrate` with several `values_per_batch`, all values among them. Its time over that of a pass that counts nothing,
over the network's calibration images in memory, less the pass itself. The loss: the SQNR on held-out images, all of
their values counted, of steps from all values less that from the sample, in dB, by scheme, width and number of
calibration images; the mean over the feature maps, of draws of images, and the worst feature map's mean over draws.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from rich.progress import track

import ggdjax as gd
from experiments.images import some
from experiments.real_networks import NETWORKS
from experiments.timing import seconds
from ggdjax import network, schemes
from ggdjax.ggd._empirical import empirical_sqnr_db
from ggdjax.quantization._calibration import VALUES_PER_BATCH

VALUES = (1 << 16, VALUES_PER_BATCH)
WIDTHS = (8, 6, 4)
SCHEMES = ("ggd", "mse-search")


def measure(name: str, quick: bool) -> dict[str, Any]:
    """Return the figures of one network; quick: one draw of 8 images."""
    known = NETWORKS[name]
    net = known.load()
    images = known.open_images(net)
    parts = known.split(images, 64 if quick else None)
    batch = min(known.batch_size, 50)

    def read(ids: Any) -> list[np.ndarray]:
        return [np.asarray(x) for x, _ in images.batches(ids, batch)]

    others = gd.calibrate(net, read(some(images, parts.held_out, 64)), values_per_batch=None).histograms
    seen = np.concatenate(read(parts.calibration))
    losses: dict[str, list[np.ndarray]] = {}
    for count in (8,) if quick else (8, 64, 512):
        for draw in track(range(1 if quick else 2), f"{count} images", transient=True):
            chosen = np.random.default_rng(draw).choice(len(seen), min(count, len(seen)), replace=False)
            batches = [seen[chosen[k : k + batch]] for k in range(0, len(chosen), batch)]
            all_of_it = _held_out(net, batches, None, others)
            for values in VALUES:
                lost = all_of_it - _held_out(net, batches, values, others)
                losses.setdefault(f"{count} images, {values} values", []).append(lost)
    return {"passes": _passes(net, seen, batch), "loss": {key: _summary(found) for key, found in losses.items()}}


def _passes(net: gd.Network, x: np.ndarray, batch: int) -> dict[str, float]:
    batches = [x[k : k + batch] for k in range(0, len(x) - batch + 1, batch)]
    folded = network.fold_batch_norm(net)
    alone = seconds(lambda: jax.block_until_ready([folded(part) for part in batches]))
    found = {"float pass, seconds": alone}
    for values in (*VALUES, None):
        taken = seconds(lambda: gd.calibrate(net, batches, values_per_batch=values).images)  # noqa: B023
        found["all values" if values is None else f"{values} values"] = taken / alone - 1
    return found


def _held_out(net: gd.Network, batches: list[np.ndarray], values: int | None, others: gd.Histogram) -> np.ndarray:
    """Return the SQNR in dB, scheme by feature map by width."""
    counted = gd.calibrate(net, batches, values_per_batch=values).histograms
    found = []
    for scheme in SCHEMES:
        choice = schemes.choose(scheme, counted, np.array(WIDTHS)[:, None])
        steps, *ends = (np.asarray(v, np.float32).T for v in (choice.step, choice.qmax, choice.qmin))
        found.append(empirical_sqnr_db(others, steps, ends[0], -ends[1]))
    return np.stack(found)


def _summary(lost: list[np.ndarray]) -> dict[str, float]:
    mean = np.nanmean(lost, axis=0)
    return {
        f"{scheme}, {bits} bits{what}": round(float(figure(mean[i, :, j])), 4)
        for i, scheme in enumerate(SCHEMES)
        for j, bits in enumerate(WIDTHS)
        for what, figure in (("", np.nanmean), (", worst map", np.nanmax))
    }
