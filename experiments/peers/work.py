"""What every tool gets: one ONNX file, the calibration images, the held-out images; and how its answer is evaluated.

Images are decoded once, by ggdjax, and kept as arrays in `runs/peers/NETWORK`, so that a tool in an environment of its
own needs nothing of ggdjax but this checkout.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.onnx_runtime import predictor
from ggdjax import GgdjaxError
from ggdjax._ranking import rank_of_label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ggdjax.data import ImageSet


@dataclass(frozen=True, kw_only=True)
class Work:
    """One network and its images."""

    network: str
    model: Path
    """The float network, ONNX."""
    batch_size: int
    calibration: np.ndarray
    held_out: np.ndarray
    labels: np.ndarray
    """Of the held-out images."""
    ids: dict[str, list[str]]
    """Of the images of both parts."""

    def calibration_batches(self) -> list[np.ndarray]:
        """Return the calibration images in batches of one size: ONNX Runtime's histograms want no short last one."""
        images = len(self.calibration)
        size = next(size for size in range(self.batch_size, 0, -1) if images % size == 0)
        return list(_batches(self.calibration, size))

    def accuracy(self, predict: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        """Return top-1 and top-5 on the held-out images; ties count as wrong."""
        logits = np.concatenate([np.asarray(predict(x)) for x in _batches(self.held_out, self.batch_size)])
        logits = logits.reshape(len(logits), -1)
        rank = rank_of_label(logits, self.labels.astype(np.int64))
        return float(np.mean(rank < 1)), float(np.mean(rank < 5))

    def float_pass_seconds(self) -> tuple[float, float]:
        """Return the seconds of one float pass by ONNX Runtime over the calibration images, the least of three.

        Of the clock, and of all threads: where others use the machine, too, only the latter says what a pass costs.
        """
        predict, batches = predictor(self.model, spin=False), self.calibration_batches()
        times = []
        for _ in range(4):
            start = time.perf_counter(), time.process_time()
            for batch in batches:
                predict(batch)
            times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        return min(clock for clock, _ in times[1:]), min(cpu for _, cpu in times[1:])


def open_work(network: str, images: int | None, folder: Path) -> Work:
    """Return the work on a network, with up to N held-out images; decode its images where they are not yet.

    Args:
        network: a name of `experiments.networks`.
        images: how many held-out images, chosen by their ids; None: all.
        folder: where arrays are kept.

    Raises:
        GgdjaxError: the network is unknown, its data are not there, or this environment cannot decode them.
    """
    kept = folder / f"{network}-{images or 'all'}"
    if not (kept / "about.json").is_file():
        _decode(network, images, kept)
    about = json.loads((kept / "about.json").read_text(encoding="utf-8"))
    arrays = {name: np.load(kept / f"{name}.npy", mmap_mode="r") for name in ("calibration", "held_out")}
    labels = np.load(kept / "labels.npy")
    size = about["batch_size"]
    return Work(network=network, model=kept / "model.onnx", batch_size=size, labels=labels, ids=about["ids"], **arrays)


def _decode(network: str, images: int | None, kept: Path) -> None:
    try:
        from experiments import networks
        from experiments.images import some
        from experiments.real_networks import RealNetwork, data_folder
        from ggdjax.network import export_onnx
    except ImportError as error:
        raise GgdjaxError(
            f"the images of `{network}` are not prepared, and this environment cannot ({error}): run "
            f"`python -m experiments.peers ggdjax --network {network}` in ggdjax's own environment first"
        ) from None
    networks.check([network])
    real = networks.ALL[network]
    net = real.load()
    opened = real.open_images(net)
    parts = real.split(opened)
    held_out = some(opened, parts.held_out, images)
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for name, part in (("calibration", parts.calibration), ("held_out", held_out)):
        labels = _write(opened, part, kept / f"{name}.npy")
    np.save(kept / "labels.npy", labels)
    if isinstance(real, RealNetwork):
        shutil.copyfile(data_folder() / "models" / real.file, kept / "model.onnx")
    else:
        export_onnx(net, kept / "model.onnx")
    ids = {"calibration": [opened.ids[i] for i in parts.calibration], "held_out": [opened.ids[i] for i in held_out]}
    about = {"batch_size": real.batch_size, "ids": ids}
    (kept / "about.json").write_text(json.dumps(about), encoding="utf-8")  # last: its absence means unfinished


def _write(images: ImageSet, part: np.ndarray, path: Path) -> np.ndarray:
    """Decode a part into one array on the disk and return its labels."""
    array, done, labels = None, 0, []
    for x, y in images.batches(part, 100):
        if array is None:
            array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(len(part), *x.shape[1:]))
        array[done : done + len(x)] = x
        done += len(x)
        labels.append(np.asarray(y))
    if done < len(part):
        raise GgdjaxError(f"{len(part) - done} images cannot be read: the comparison needs all of them")
    return np.concatenate(labels)


def _batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(images), size):
        yield np.ascontiguousarray(images[start : start + size])
