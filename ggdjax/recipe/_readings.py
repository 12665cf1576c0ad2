"""How else the images could be meant: colour order, scale, mean and label offset, tried on a few of them."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
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
    from collections.abc import Callable, Iterable

    from jax.typing import ArrayLike
    from jaxtyping import Array, Int

    from ggdjax.data import ImageSet
    from ggdjax.data._preprocessing import ColourOrder
    from ggdjax.network import Network

#: What differs between conventions of one geometry.
_FIELDS = ("colour_order", "scale", "mean", "std", "label_offset")
_GEOMETRY = ("resize", "crop", "size")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way to prepare the images, and how the float network does with it."""

    preprocessing: Preprocessing
    differs: tuple[str, ...]
    """Its fields that differ from those in use; empty for these."""
    top1: float
    correct: np.ndarray
    """Per image; the same images in every reading."""

    def clearly_better_than(self, other: Reading, p_value: float = 1e-3) -> bool:
        """Return whether it is right on more images than chance explains (McNemar's exact test)."""
        return self.top1 > other.top1 and mcnemar(other.correct, self.correct).p_value < p_value

    def near_chance(self, classes: int) -> bool:
        """Return whether guesses among ``classes`` would be right on as many images (binomial test, p > 0.01)."""
        from scipy.stats import binomtest

        count = int(self.correct.sum())
        return binomtest(count, len(self.correct), 1 / classes, alternative="greater").pvalue > 0.01

    def describe(self) -> str:
        """Return the fields that differ, as options."""
        return _options(self.preprocessing, self.differs) or "as it is"

    def options(self) -> str:
        """Return all of its preprocessing as options: the nearest preset, and the fields that differ from it."""
        own = self.preprocessing
        every = {f"--preset {name}": _differing(own, p) for name, p in PRESETS.items() if p.channels == own.channels}
        nearest = min(every, key=lambda name: len(every[name]), default="")
        # No option turns a preset's resize or crop off.
        if not nearest or any(getattr(own, f) is None for f in every[nearest]):
            return _options(own, _differing(own, Preprocessing()))
        return f"{nearest} {_options(own, every[nearest])}".rstrip()


def _differing(own: Preprocessing, other: Preprocessing) -> tuple[str, ...]:
    """Return the fields in which ``own`` differs, but for a size that is the network's input's."""
    by_input = other.size is None and other.crop is not None
    return tuple(
        f for f in _GEOMETRY + _FIELDS if getattr(own, f) != getattr(other, f) and not (by_input and f == "size")
    )


def _options(preprocessing: Preprocessing, names: tuple[str, ...]) -> str:
    values = preprocessing.to_dict()
    shown = {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in values.items()}
    return " ".join(f"--{name.replace('_', '-')} {shown[name]}" for name in names)


def readings(
    net: Network,
    images: ImageSet,
    indices: Int[ArrayLike, " image"] | None = None,
    *,
    batch_size: int = 50,
    colours_alone: bool = False,
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
        colours_alone: change the colour order and the label offset, nothing else.
        progress: called after every batch with the images in it.

    Raises:
        DataError: no images, or a network that does not score classes.
    """
    expect("net", net, "Network")
    indices = np.arange(len(images)) if indices is None else np.asarray(indices)
    if not indices.size:
        raise DataError("`indices` is empty: give some images to try")
    classes, used = count_classes(net), images.preprocessing
    presets = PRESETS.values()
    if colours_alone:
        presets = [] if used.channels == 1 else [dataclasses.replace(used, colour_order=_other_order(used))]
    ways = _inputs(used, presets)
    found: dict[Preprocessing, list[np.ndarray]] = {}
    for x, labels in images.batches(indices, batch_size):
        for inputs in ways:
            y = np.asarray(_forward(net, pad_batch(_prepared(x, used, inputs), batch_size)))
            y = y.reshape(batch_size, -1)[: len(x)]
            for offset in range(max(-1, used.label_offset - 1), used.label_offset + 2):
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


@jax.jit
def _forward(net: Network, x: Array) -> Array:
    return net(x)


def in_geometries_of_presets(images: ImageSet, net: Network) -> list[ImageSet]:
    """Return images as they are, and with resize, crop and size of every preset that leads to the network's input."""
    found = {images.preprocessing: images}
    for preset in PRESETS.values():
        if preset.channels == images.preprocessing.channels:
            with suppress(DataError):
                rule = dataclasses.replace(images.preprocessing, **{f: getattr(preset, f) for f in _GEOMETRY})
                rule = rule.for_input(net.input_shape)
                found.setdefault(rule, dataclasses.replace(images, preprocessing=rule))
    return list(found.values())


def _inputs(used: Preprocessing, presets: Iterable[Preprocessing]) -> list[Preprocessing]:
    """Return the ways to make inputs of pixels, the present one first; labels as they are."""
    wanted = [used, *(p for p in presets if p.channels == used.channels)]
    ways = []
    for way in wanted:
        own = dataclasses.replace(used, **{name: getattr(way, name) for name in _FIELDS[:-1]})
        ways += [own, _exchanged(own)] if own.channels == 3 else [own]
    return list(dict.fromkeys(ways))


def _exchanged(way: Preprocessing) -> Preprocessing:
    """Return it with red and blue exchanged: each colour keeps its own mean and standard deviation."""
    return dataclasses.replace(way, colour_order=_other_order(way), mean=way.mean[::-1], std=way.std[::-1])


def _other_order(way: Preprocessing) -> ColourOrder:
    return "BGR" if way.colour_order == "RGB" else "RGB"


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
