"""Histograms of the real networks' feature maps, computed once and kept in the user's cache.

Calibration images come in a random order that a seed fixes, and are counted four at a time; the chunks are dealt in
turn to `SPLITS` splits. So one pass gives the histograms of every number of calibration images asked for.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import track

from experiments.images import calibrate
from experiments.networks import AnyNetwork, OwnNetwork
from experiments.real_networks import CIFAR10, RealNetwork, data_folder
from ggdjax import data, quantization
from ggdjax.ggd import Histogram

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ggdjax.data import ImageSet

#: Images per pass through the network, and parts they are dealt to for cross-validation.
CHUNK, SPLITS = 4, 16


@dataclass(frozen=True)
class FeatureMaps:
    """Histograms of every quantizable feature map of one network."""

    names: tuple[str, ...]
    histogram: Histogram
    """Batch shape ``[split, tensor]``; one split for held-out images."""
    images: int

    @property
    def whole(self) -> Histogram:
        """All splits together, batch shape ``[tensor]``."""
        return self.histogram.merge(0)


def cache_folder() -> Path:
    """Return the folder of cached histograms; delete it to count anew."""
    folder = Path.home() / ".cache" / "ggdjax" / "feature_maps"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _key(real: AnyNetwork, *parts: object) -> str:
    if isinstance(real, RealNetwork):
        model = hashlib.sha256((data_folder() / "models" / real.file).read_bytes()).hexdigest()[:12]
    else:
        said = real.identity if isinstance(real, OwnNetwork) else real.name
        model = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
    return "-".join(str(part) for part in (real.name, model, *parts))


def _load(key: str) -> FeatureMaps | None:
    about, counts = cache_folder() / f"{key}.json", cache_folder() / f"{key}.safetensors"
    if not (about.is_file() and counts.is_file()):
        return None
    said = json.loads(about.read_text(encoding="utf-8"))
    histogram = Histogram.load(counts)
    small = replace(histogram, counts=histogram.counts.astype(np.int32))  # no count here reaches 2^31
    return FeatureMaps(names=tuple(said["names"]), histogram=small, images=said["images"])


def _save(key: str, maps: FeatureMaps) -> None:
    maps.histogram.save(cache_folder() / f"{key}.safetensors")
    said = {"names": list(maps.names), "images": maps.images}
    (cache_folder() / f"{key}.json").write_text(json.dumps(said), encoding="utf-8")


def calibration_sizes(real: AnyNetwork) -> tuple[int, ...]:
    """Return the numbers of calibration images compared: the ImageNet sample has 100 by convention."""
    return (16, 64, 100) if isinstance(real, RealNetwork) and real.images != CIFAR10 else (16, 64, 256)


def calibration_order(real: AnyNetwork, images: ImageSet, seed: int) -> np.ndarray:
    """Return the images that may calibrate in the order that the seed gives.

    Any training images where there are some; of the ImageNet sample the 100 conventional ones.
    """
    if isinstance(real, RealNetwork) and real.images != CIFAR10:
        pool = real.split(images).calibration
    else:
        pool = np.asarray(images.parts.get("train", np.arange(len(images))))
    return pool[data.hash_order([images.ids[i] for i in pool], seed)]


def calibration(real: AnyNetwork, sizes: Sequence[int], seed: int) -> dict[int, FeatureMaps]:
    """Return the feature maps' histograms over the first n images of the order that the seed gives, for n in sizes.

    Sizes are multiples of `CHUNK`.
    """
    keys = {size: _key(real, "calibration", size, "seed", seed) for size in sizes}
    found = {size: _load(key) for size, key in keys.items()}
    if all(found.values()):
        return found
    net = real.load()
    images = real.open_images(net)
    order = calibration_order(real, images, seed)[: max(sizes)]
    splits: list[Histogram | None] = [None] * SPLITS
    chunks = range(0, len(order), CHUNK)
    for number, start in enumerate(track(chunks, f"{real.name}: calibrate, seed {seed}")):
        (batch,) = images.batches(order[start : start + CHUNK], CHUNK)
        counted = quantization.calibrate(net, [batch[0]])
        before = splits[number % SPLITS]
        splits[number % SPLITS] = counted.histograms if before is None else before + counted.histograms
        seen = start + CHUNK
        if seen in keys:
            filled = [part for part in splits if part is not None]
            found[seen] = FeatureMaps(names=counted.names, histogram=Histogram.stack(filled), images=seen)
            _save(keys[seen], found[seen])
    return {size: found[size] for size in sizes}


def held_out(real: AnyNetwork, images_at_most: int | None = None) -> FeatureMaps:
    """Return the feature maps' histograms over the conventional held-out images (or the first of them)."""
    key = _key(real, "held-out", images_at_most or "all")
    found = _load(key)
    if found is None:
        net = real.load()
        images = real.open_images(net)
        part = real.split(images).held_out[:images_at_most]
        counted = calibrate(net, images, part, real.batch_size, f"{real.name}: held-out images")
        found = FeatureMaps(names=counted.names, histogram=Histogram.stack([counted.histograms]), images=counted.images)
        _save(key, found)
    return found
