"""How else the images could be meant: colour order, scale, mean and label offset, tried on a few of them."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import DataError, GgdjaxError, expect
from ggdjax.data import PRESETS, Preprocessing
from ggdjax.data._targets import IGNORED
from ggdjax.quantization import Metric, Score
from ggdjax.quantization._batches import pad_batch
from ggdjax.quantization._evaluation import output_shape
from ggdjax.quantization._metrics import check_metric, statistics_of
from ggdjax.quantization._metrics import metric as named_metric
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
#: What no network gives: the class of a label that another offset makes negative.
_NO_CLASS = 2**30
#: What a better score is better by, at least, by its unit (others: of the score): a shift of the mean may help every
#: image a little.
_LEAST = {"%": 0.02, "dB": 0.5}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way to prepare the images, and how the float network does with it."""

    preprocessing: Preprocessing
    differs: tuple[str, ...]
    """Its fields that differ from those in use; empty for these."""
    score: Score
    """Of the same images in every reading."""

    @property
    def value(self) -> float:
        """The score of all images together."""
        return self.score.value

    def clearly_better_than(self, other: Reading, p_value: float = 1e-3) -> bool:
        """Return whether it is better by more than chance explains (McNemar's exact test; else by exchanges)."""
        metric = self.score.metric
        gain = (self.value - other.value) * (1 if metric.higher_is_better else -1)
        if not gain > _LEAST.get(metric.unit, 0.02 * abs(other.value)):
            return False
        if metric.share:
            return mcnemar(other.score.statistics > 0, self.score.statistics > 0).p_value < p_value
        return self.score.compared_to(other.score)[1] < p_value

    def near_chance(self, chance: float) -> bool:
        """Return whether guesses, each right by ``chance``, would be right on as many images (binomial, p > 0.01)."""
        from scipy.stats import binomtest

        count = int(self.score.statistics.sum())
        return binomtest(count, self.score.images, chance, alternative="greater").pvalue > 0.01

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
    metric: str | Metric | Callable[..., Any] | None = None,
    *,
    batch_size: int = 50,
    colours_alone: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[Reading, ...]:
    """Return how the float network does with the preprocessing in use and with other conventions, the best first.

    Every preset's scale, mean, standard deviation and colour order, and plain pixels up to 1 and up to 255, are tried
    with the present geometry, each also with red and blue exchanged, and with classes one higher and one lower. Of
    equals the present one comes first.

    Args:
        net: the float network.
        images: images with labels, or with the targets of the metric.
        indices: those to try; 128 or so tell. All of them where None.
        metric: what to measure, see :func:`ggdjax.quantization.metric`; None: top-1.
        batch_size: images that run at once.
        colours_alone: change the colour order and the label offset, nothing else.
        progress: called after every batch with the images in it.

    Raises:
        DataError: no images, or a network whose output the metric does not fit.
        GgdjaxError: a metric without targets, by which every way is as good.
    """
    expect("net", net, "Network")
    indices = np.arange(len(images)) if indices is None else np.asarray(indices)
    if not indices.size:
        raise DataError("`indices` is empty: give some images to try")
    chosen = check_metric(None if metric is None else named_metric(metric), output_shape(net))
    if chosen.compares == "float output":
        raise GgdjaxError(f"`metric` {chosen.name} compares the network with itself: choose one that has targets")
    kind = getattr(images, "target_kind", chosen.compares)
    if chosen.compares not in ("any", kind):
        raise DataError(
            f"`{images.name}` has targets of kind {kind!r}, `metric` {chosen.name} needs {chosen.compares!r}"
        )
    used = images.preprocessing
    # Beside the presets: pixels as they are, up to 1 or up to 255.
    plain = [dataclasses.replace(used, scale=scale, mean=(0.0,), std=(1.0,)) for scale in (1 / 255, 1.0)]
    presets = [*PRESETS.values(), *plain]
    if colours_alone:
        presets = [] if used.channels == 1 else [dataclasses.replace(used, colour_order=_other_order(used))]
    ways = _inputs(used, presets)
    numbered = chosen.compares in ("class", "class map")
    offsets = range(max(-1, used.label_offset - 1), used.label_offset + 2) if numbered else [used.label_offset]
    found: dict[Preprocessing, list[np.ndarray]] = {}
    for x, targets in images.batches(indices, batch_size):
        for inputs in ways:
            y = _as_targets(_forward(net, pad_batch(_prepared(x, used, inputs), batch_size)), used, inputs, chosen)
            for offset in offsets:
                given = _renumbered(targets, offset - used.label_offset, chosen)
                statistics = _statistics(y, pad_batch(given, batch_size), chosen)[: len(x)]
                found.setdefault(dataclasses.replace(inputs, label_offset=offset), []).append(statistics)
        if progress is not None:
            progress(len(x))
    every = []
    for preprocessing, parts in found.items():
        score = Score(metric=chosen, statistics=np.concatenate(parts))
        differs = tuple(name for name in _FIELDS if getattr(preprocessing, name) != getattr(used, name))
        every.append(Reading(preprocessing=preprocessing, differs=differs, score=score))
    return tuple(sorted(every, key=lambda reading: (worse(reading), len(reading.differs))))


def worse(reading: Reading) -> float:
    """Return a number that is the larger, the worse a reading is."""
    value = -reading.value if reading.score.metric.higher_is_better else reading.value
    return np.inf if np.isnan(value) else value


def _statistics(outputs: Array, targets: np.ndarray, metric: Metric) -> np.ndarray:
    if metric.compares != "class":
        return np.asarray(statistics_of(outputs, targets, chosen=metric)[0])
    outputs = outputs.reshape(len(targets), -1)
    known = (targets >= 0) & (targets < outputs.shape[1])
    return np.asarray(statistics_of(outputs, np.where(known, targets, 0), chosen=metric)[0]) * known


def _renumbered(targets: np.ndarray, more: int, metric: Metric) -> np.ndarray:
    """Return targets as another label offset numbers them."""
    if not more or metric.compares not in ("class", "class map"):
        return targets
    moved = targets + more
    moved = np.where(moved < 0, _NO_CLASS, moved)
    return np.where(targets == IGNORED, targets, moved) if metric.compares == "class map" else moved


def _as_targets(outputs: Array, used: Preprocessing, wanted: Preprocessing, metric: Metric) -> Array:
    """Return images that a network gave in the scale and colour order of ``wanted`` in those of the targets."""
    if metric.compares != "image":
        return outputs
    outputs = outputs * np.float32(used.scale / wanted.scale)
    axis = 1 if used.layout == "NCHW" else outputs.ndim - 1
    if wanted.colour_order == used.colour_order or outputs.ndim != 4 or outputs.shape[axis] != 3:
        return outputs
    return jnp.flip(outputs, axis)


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
