"""How else the images could be meant: colour order, scale, mean and label offset, tried on a few of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np

from ggdjax._errors import DataError, expect
from ggdjax._ranking import rank_of_label
from ggdjax.data import PRESETS, Preprocessing
from ggdjax.quantization._batches import pad_batch
from ggdjax.quantization._evaluation import count_classes
from ggdjax.tune import mcnemar

if TYPE_CHECKING:
    from collections.abc import Callable

    from jax.typing import ArrayLike
    from jaxtyping import Int

    from ggdjax.data import ImageSet
    from ggdjax.network import Network

#: What differs between conventions; the geometry stays.
_FIELDS = ("colour_order", "scale", "mean", "std", "label_offset")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way to prepare the images, and how the float network does with it."""

    preprocessing: Preprocessing
    differs: tuple[str, ...]
    """Its fields that differ from those in use; empty for these."""
    top1: float
    correct: np.ndarray
    """Per image; the same images in every reading."""

    def clearly_better_than(self, other: Reading) -> bool:
        """Return whether it is right on more images than chance explains (McNemar's exact test, p < 0.001)."""
        return self.top1 > other.top1 and mcnemar(other.correct, self.correct).p_value < 1e-3

    def describe(self) -> str:
        """Return the fields that differ, as options."""
        values = self.preprocessing.to_dict()
        shown = {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in values.items()}
        return " ".join(f"--{name.replace('_', '-')} {shown[name]}" for name in self.differs) or "as it is"


def readings(
    net: Network,
    images: ImageSet,
    indices: Int[ArrayLike, " image"] | None = None,
    *,
    batch_size: int = 50,
    progress: Callable[[int], None] | None = None,
) -> tuple[Reading, ...]:
    """Return how the float network does with the preprocessing in use and with other conventions, the best first.

    Every preset's scale, mean, standard deviation and colour order are tried with the present geometry, each also with
    red and blue exchanged, and with labels one higher and one lower. Of equals the present one comes first.

    Args:
        net: the float network.
        images: labelled images.
        indices: those to try; 128 or so tell. All of them where None.
        batch_size: images that run at once.
        progress: called after every batch with the images in it.

    Raises:
        DataError: no images, or a network that does not score classes.
    """
    expect("net", net, "Network")
    indices = np.arange(len(images)) if indices is None else np.asarray(indices)
    if not indices.size:
        raise DataError("`indices` is empty: give some images to try")
    classes, used = count_classes(net), images.preprocessing
    found: dict[Preprocessing, list[np.ndarray]] = {}
    forward = jax.jit(lambda net, x: net(x))
    for x, labels in images.batches(indices, batch_size):
        for inputs in _inputs(used):
            y = np.asarray(forward(net, pad_batch(_prepared(x, used, inputs), batch_size)))
            y = y.reshape(batch_size, -1)[: len(x)]
            for offset in range(max(0, used.label_offset - 1), used.label_offset + 2):
                shifted = labels + (offset - used.label_offset)
                known = (shifted >= 0) & (shifted < classes)
                right = known & (rank_of_label(y, np.where(known, shifted, 0)) == 0)
                found.setdefault(dataclasses.replace(inputs, label_offset=offset), []).append(right)
        if progress is not None:
            progress(len(x))
    every = []
    for preprocessing, parts in found.items():
        correct = np.concatenate(parts)
        differs = tuple(name for name in _FIELDS if getattr(preprocessing, name) != getattr(used, name))
        every.append(Reading(preprocessing=preprocessing, differs=differs, top1=float(correct.mean()), correct=correct))
    return tuple(sorted(every, key=lambda reading: (-reading.top1, len(reading.differs))))


def _inputs(used: Preprocessing) -> list[Preprocessing]:
    """Return the ways to make inputs of pixels, the present one first; labels as they are."""
    wanted = [used, *(p for p in PRESETS.values() if p.channels == used.channels)]
    ways = []
    for way in wanted:
        own = dataclasses.replace(used, **{name: getattr(way, name) for name in _FIELDS[:-1]})
        ways += [own, _exchanged(own)] if own.channels == 3 else [own]
    return list(dict.fromkeys(ways))


def _exchanged(way: Preprocessing) -> Preprocessing:
    """Return it with red and blue exchanged: each colour keeps its own mean and standard deviation."""
    order = "BGR" if way.colour_order == "RGB" else "RGB"
    return dataclasses.replace(way, colour_order=order, mean=way.mean[::-1], std=way.std[::-1])


def _prepared(x: np.ndarray, used: Preprocessing, wanted: Preprocessing) -> np.ndarray:
    """Return inputs that were prepared in one way as another would have made them."""
    if wanted == used:
        return x
    axis = 1 if used.layout == "NCHW" else x.ndim - 1
    shape = tuple(-1 if a == axis else 1 for a in range(x.ndim))

    def own(values: tuple[float, ...]) -> np.ndarray:
        return np.asarray(values, np.float32).reshape(shape)

    pixels = (x * own(used.std) + own(used.mean)) / np.float32(used.scale)
    if wanted.colour_order != used.colour_order:
        pixels = np.flip(pixels, axis)
    return (np.float32(wanted.scale) * pixels - own(wanted.mean)) / own(wanted.std)
