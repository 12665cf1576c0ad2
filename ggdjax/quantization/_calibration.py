"""Calibration: run the float network once over images and count every quantizable feature map."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from ggdjax import _files
from ggdjax._errors import DataError, GgdjaxError, expect, is_image_set, summary
from ggdjax.ggd import Counter, Histogram
from ggdjax.ggd._histogram import merge_devices
from ggdjax.network import fold_batch_norm
from ggdjax.quantization._batches import image_batches, pad_batch
from ggdjax.quantization._image_moments import ImageMoments, power_sums
from ggdjax.quantization._limits import is_input, proven_limits
from ggdjax.quantization._observing import observe, tensors_with_ranges
from ggdjax.quantization._rows import Rows

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from jaxtyping import Array, Float, Int

    from ggdjax.data import Preprocessing
    from ggdjax.network import Graph, Network


#: Values of a batch that are counted at least, of each feature map: of 64 images 4,096 each.
VALUES_PER_BATCH = 1 << 18
#: Of a feature map that no value can leave on either side (ReLU6) so many times fewer: it has no tail to be seen.
_FEWER_OF_LIMITED = 4


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """One histogram per quantizable feature map of a network."""

    names: tuple[str, ...]
    """Tensor names, in the order of the graph."""
    histograms: Histogram
    """Batch shape ``[tensor]``, in the order of ``names``."""
    images: int
    """Number of images that were counted; 0: the histograms are those of `ggdjax.calibrate_without_data`."""
    channels: dict[str, Histogram] | None = None
    """Per feature map one histogram per channel (batch shape ``[chan]``), where they were asked for."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Least and largest value of every other tensor that an integer program holds: summands, factors, inputs of
    averages and of activation functions, outputs."""
    limits: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    """Least and largest value that a feature map can have, where the graph or the range of pixels proves one; None: no
    such limit."""
    inputs: tuple[str, ...] = ()
    """The feature maps that are the network's own inputs."""
    moments: ImageMoments | None = None
    """How images differ from each other, in the order of ``names``; None: not known."""
    values_per_batch: int | None = None
    """How many values of a batch were counted at least, of each larger feature map; None: all."""

    def __repr__(self) -> str:
        return summary(self, images=self.images, feature_maps=len(self.names), per_channel=self.channels is not None)

    def step_error(self, bits: int | Mapping[str, int]) -> dict[str, float]:
        """Return the relative standard error of every feature map's step, by images: 0.01 is 1 %.

        More images would change the steps by about as much; it shrinks with the root of their number. It is that of the
        step of least squared error: within a factor of 1.6 of the scatter of resampled images for ``ggd`` on the digits
        (median of the feature maps, by test). Steps of ``mse-search``, which jump, and of ``max-abs`` scatter more.

        Args:
            bits: one width, or one for each feature map that is asked for.

        Returns:
            By feature map; NaN where nothing tells it: fewer than 2 images, zeros alone, a first axis that is not that
            of the images, and the network's inputs: pixels are points of a fixed range.

        Raises:
            GgdjaxError: ``bits`` names no feature map of the calibration.
        """
        widths = dict(bits) if isinstance(bits, Mapping) else dict.fromkeys(self.names, bits)
        if unknown := [name for name in widths if name not in self.names]:
            raise GgdjaxError(f"`bits` names `{unknown[0]}`, which is no feature map: {', '.join(self.names)}")
        if self.moments is None:
            return dict.fromkeys(widths, math.nan)
        errors = self.moments.step_error(np.asarray([widths.get(name, 2) for name in self.names]), self.images)
        found = dict(zip(self.names, errors.tolist(), strict=True))
        return {name: math.nan if name in self.inputs else found[name] for name in widths}

    def design_effect(self, order: float) -> Float[np.ndarray, " tensor"]:
        """Return by which factor the values of an image overstate what they tell: at least 1, in the order of names.

        The variance of the mean of x^order between images, over what as many independent values would give (Kish,
        "Survey Sampling", 1965). `ggdjax.ggd.sample_posterior` takes it.

        Args:
            order: that of the fit, b/2 at b bits; below 3 as for 2, from 3 on as for 4.

        Raises:
            GgdjaxError: fewer than 2 images, or a file of a version that kept no statistics of single images.
        """
        if self.moments is None or self.images < 2:
            raise GgdjaxError("the calibration does not know how images differ: calibrate on at least 2 images")
        return self.moments.design_effect(order)

    def predictive(self, spread: float = 0.2) -> Calibration:
        """Return the calibration with the `Histogram.predictive` histograms of its feature maps and channels.

        Limits are those that the graph and, where the calibration knows the preprocessing, the range of pixels prove.
        What batch normalization tells (0 images) counts as one image: it knows
        the spread over all values, not how images differ from each other.

        Args:
            spread: s, as `Histogram.predictive` takes it.

        Raises:
            GgdjaxError: a spread out of range.
        """

        def moved(histograms: Histogram, names: Sequence[str]) -> Histogram:
            ends = np.asarray([self.limits.get(name, (None, None)) for name in names], np.float32)  # None: NaN
            low, high = (np.where(np.isnan(end), sign * np.inf, end) for end, sign in zip(ends.T, (-1, 1), strict=True))
            return jax.device_get(histograms.predictive(max(self.images, 1), limits=(low, high), spread=spread))

        channels = self.channels
        if channels is not None:
            channels = {name: moved(h, [name] * len(h.zeros)) for name, h in channels.items()}
        return replace(self, histograms=moved(self.histograms, self.names), channels=channels)

    def save(self, path: os.PathLike[str] | str) -> None:
        """Write every count as one file, which ``gd.load`` reads.

        Args:
            path: the file, in a folder that exists; an earlier one is replaced as a whole.

        Raises:
            GgdjaxError: the file cannot be written.
        """
        _files.write(path, "calibration", *self._to_file())

    def _to_file(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the record and the arrays that a file holds."""
        channels = None if self.channels is None else list(self.channels)
        found = {"feature_maps": self.histograms} | {f"channels/{name}": h for name, h in (self.channels or {}).items()}
        arrays = {f"{key}/{name}": array for key, h in found.items() for name, array in h.to_arrays().items()}
        record = {"names": self.names, "images": self.images, "channels": channels, "ranges": self.ranges}
        record |= {"limits": self.limits, "inputs": self.inputs, "values_per_batch": self.values_per_batch}
        if self.moments is not None:
            arrays |= {f"moments/{name}": array for name, array in self.moments.to_arrays().items()}
        return record, arrays

    @classmethod
    def _from_file(cls, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Calibration:
        def histogram(key: str) -> Histogram:
            return Histogram.from_arrays(_files.select(arrays, f"{key}/"))

        names, channels, counted = tuple(record["names"]), record["channels"], histogram("feature_maps")
        if counted.batch_shape != (len(names),):
            raise GgdjaxError(f"{len(names)} feature maps, but histograms of batch shape {counted.batch_shape}")
        return cls(
            names=names,
            histograms=counted,
            images=int(record["images"]),
            channels=None if channels is None else {name: histogram(f"channels/{name}") for name in channels},
            ranges={name: (float(low), float(high)) for name, (low, high) in record.get("ranges", {}).items()},
            limits={name: (low, high) for name, (low, high) in record.get("limits", {}).items()},
            inputs=tuple(record.get("inputs", ())),
            moments=ImageMoments.from_arrays(_files.select(arrays, "moments/")),
            values_per_batch=record.get("values_per_batch"),
        )


def calibrate(
    net: Network,
    batches: Iterable[Float[Array, "batch ..."]],
    *,
    preprocessing: Preprocessing | None = None,
    per_channel: bool = False,
    values_per_batch: int | None = VALUES_PER_BATCH,
    mesh: Mesh | None = None,
) -> Calibration:
    """Stream images through the float network, batch normalization folded, and count its feature maps.

    Memory does not depend on the number of images: one histogram of 65,536 bins per feature map, on every device. Each
    device counts its share of every batch by itself; the counts are added at the end.

    Args:
        net: a network from ``load_onnx`` or ``trace``.
        batches: input batches in the layout of the model's own input; one by itself; pairs of (images, labels), whose
            images are read; or an image set, all of it. Shorter batches are padded, and the padding not counted; one
            larger than all before compiles anew.
        preprocessing: of the images; its range of pixels limits the input's predictive histogram. That of an image set
            is known; without it the input has no limits.
        per_channel: also count all values of every channel of every feature map by itself (256 KiB each).
        values_per_batch: how many values of a batch are counted at least, of each larger feature map: those at
            positions spread over every image, each for as many as it was taken from; a quarter, where the network
            proves both limits. So more of each image where a batch has fewer. Extremes are those of all values. None:
            all values are counted.
        mesh: devices, with axes of any name; None: all of this process. Of several processes, each gives the same
            batches. A network whose feature maps do not have the images as first axis runs on the first device.

    Raises:
        DataError: no batches, images that do not fit the network, or NaN or infinity in a feature map (named).
        GgdjaxError: the network has no convolution, dense layer or product; ``values_per_batch`` below 1.

    Example:
        >>> net = gd.trace(lambda x: jax.nn.relu(x @ jnp.eye(4)) @ jnp.ones((4, 2)), jnp.zeros((1, 4)))
        >>> calibration = gd.calibrate(net, [np.ones((8, 4), np.float32), np.zeros((8, 4), np.float32)])
        >>> calibration.images, [float(share) for share in calibration.histograms.zero_fraction]
        (16, [0.5, 0.5])
    """
    if values_per_batch is not None and not values_per_batch >= 1:
        raise GgdjaxError(f"`values_per_batch` must be at least 1, or None for all, got {values_per_batch}")
    net = fold_batch_norm(net)
    names = tuple(feature_map.tensor for feature_map in net.graph.feature_maps())
    if not names:
        raise GgdjaxError(
            "`net` has no convolution, dense layer or product, so that nothing is quantized: give one that has"
        )
    if preprocessing is None and is_image_set(batches):
        preprocessing = batches.preprocessing  # type: ignore[attr-defined]
    if preprocessing is not None:
        expect("preprocessing", preprocessing, "Preprocessing")
    limits = limits_of(net, names, preprocessing)
    limited = frozenset(name for name, ends in limits.items() if None not in ends)
    # A bin of a counter holds fewer than 2^31 values: no more images than that before it is read.
    limit = (2**31 - 1) // max(
        (math.prod(size or 1 for size in net.graph.shape(name)[1:]) for name in names), default=1
    )
    ranges = {name: (np.float32(np.inf), np.float32(-np.inf)) for name in tensors_with_ranges(net.graph)}
    channels: dict[str, Histogram] | None = None
    images = size = largest = 0
    # Rows of padding are told apart where the images are the first axis of every feature map.
    by_image = all(None in (shape := net.graph.shape(name))[:1] and None not in shape[1:] for name in names)
    rows = Rows(mesh)
    if not by_image and rows.devices > 1:
        rows = Rows(Mesh(rows.mesh.devices.reshape(-1)[:1], ("data",)))
    counts = _Counts(names, limit, rows)
    # Where the program leaves the ranges, so that the second batch does not compile it again.
    params, ranges = rows.everywhere((net.params, ranges))
    moments = ImageMoments.empty(len(names))
    running: Any = ()
    count = 0  # images of which `running` has the sums
    for batch in image_batches(batches, len(net.input_shape)):
        # While this batch was decoded the one before was counted; never more than these two are held.
        moments = moments.add(rows.read(running)[:, :count]) if count else moments
        net.check_input(batch)
        count = len(batch)
        if not count:
            continue
        counts.make_room(count)
        size = max(size, rows.whole(count)) if by_image else count
        largest = max(largest, count)
        values: dict[str, int] = {}
        if values_per_batch is not None and by_image:
            values = {n: -(-values_per_batch // (largest * (_FEWER_OF_LIMITED if n in limited else 1))) for n in names}
        numbers = np.arange(images, images + size, dtype=np.uint32)
        given = rows.split((pad_batch(batch, size), _shares(count, size, rows.devices) if by_image else None, numbers))
        counts.counters, ranges, by_channel, running = _observe(
            net.graph,
            per_channel,
            tuple(values.items()),
            rows.mesh if rows.devices > 1 else None,
            params,
            given,
            counts.counters,
            ranges,
        )
        if per_channel:
            by_channel = rows.read(by_channel)
            channels = by_channel if channels is None else {name: channels[name] + h for name, h in by_channel.items()}
        images += count
    if not images:
        raise DataError("no images to calibrate on: `batches` is empty, give at least one")
    moments = moments.add(rows.read(running)[:, :count]) if count else moments
    histograms = counts.total()
    _refuse_nonfinite(names, histograms)
    measured = {name: (float(low), float(high)) for name, (low, high) in rows.read(ranges).items()}
    measured = {name: ends for name, ends in measured.items() if all(map(math.isfinite, ends))}
    return Calibration(
        names=names,
        histograms=histograms,
        images=images,
        channels=channels,
        ranges=measured,
        limits=limits,
        inputs=tuple(name for name in names if is_input(net.graph, name)),
        moments=moments,
        values_per_batch=values_per_batch if by_image else None,
    )


def limits_of(
    net: Network, names: tuple[str, ...], preprocessing: Preprocessing | None
) -> dict[str, tuple[float | None, float | None]]:
    """Return the proven limits of the feature maps that have any, None for an infinite one."""
    proven = proven_limits(net) if preprocessing is None else proven_limits(net, preprocessing.pixel_range)
    ends = {name: tuple(v if math.isfinite(v) else None for v in proven[name]) for name in names if name in proven}
    return {name: pair for name, pair in ends.items() if pair != (None, None)}


class _Counts:
    """Counters on the devices, and what was read from them before they could overflow."""

    def __init__(self, names: Sequence[str], limit: int, rows: Rows) -> None:
        self.names, self.limit, self.rows = names, limit, rows
        self.counters: dict[str, Counter] = {}
        self._images = 0
        self._read: Histogram | None = None

    def make_room(self, images: int) -> None:
        """Count this many images more, on empty counters if they would not hold them."""
        if not self.counters or self._images + images > self.limit:
            self._read = self.total() if self.counters else None
            self.counters = self.rows.split(_empty(self.names, self.rows.devices))
            self._images = 0
        self._images += images

    def total(self) -> Histogram:
        """Return all that was counted, batch shape ``[tensor]``; at least one image must have been."""
        counted = self.rows.read(_read([self.counters[name] for name in self.names]))
        return counted if self._read is None else self._read + counted


@partial(jax.jit, static_argnums=(0, 1))
def _empty(names: tuple[str, ...], devices: int) -> dict[str, Counter]:
    """Return the counts of nothing, one counter per device."""
    empty = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (devices, *leaf.shape)), Counter.empty())
    return dict.fromkeys(names, empty)


@jax.jit
def _read(counters: list[Counter]) -> Histogram:
    """Return what all devices counted, batch shape ``[counter]``."""
    wholes = (Counter(copies=c.copies.sum(0), smallest=c.smallest.min(0), largest=c.largest.max(0)) for c in counters)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(Histogram.from_counter, wholes))


def _shares(count: int, size: int, devices: int) -> Int[np.ndarray, " device"]:
    """Return how many of each device's rows of a padded batch are images: they come first."""
    own = size // devices
    return np.clip(count - own * np.arange(devices), 0, own).astype(np.int32)


@partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=6)
def _observe(
    graph: Graph,
    per_channel: bool,
    values: tuple[tuple[str, int], ...],
    mesh: Mesh | None,
    params: dict[str, Array],
    given: tuple[Array, Array | None, Array],
    counters: dict[str, Counter],
    ranges: dict[str, tuple[Array, Array]],
) -> tuple[dict[str, Counter], dict[str, tuple[Array, Array]], dict[str, Histogram], Float[Array, "tensor image 6"]]:
    """Run one batch: its rows, `_shares` and numbers of images, split over the mesh; None: one device."""
    own = partial(_observe_own, graph, per_channel, values, () if mesh is None else mesh.axis_names)
    if mesh is None:
        return own(params, given, counters, ranges)
    rows, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    return jax.shard_map(
        own,
        mesh=mesh,
        in_specs=(whole, rows, rows, whole),
        out_specs=(rows, whole, whole, PartitionSpec(None, mesh.axis_names)),
        check_vma=False,
    )(params, given, counters, ranges)


def _observe_own(
    graph: Graph,
    per_channel: bool,
    values: tuple[tuple[str, int], ...],
    axes: tuple[str, ...],
    params: dict[str, Array],
    given: tuple[Array, Array | None, Array],
    counters: dict[str, Counter],
    ranges: dict[str, tuple[Array, Array]],
) -> tuple[dict[str, Counter], dict[str, tuple[Array, Array]], dict[str, Histogram], Float[Array, "tensor image 6"]]:
    """Run the rows of one device, of a mesh with ``axes``."""
    x, count, numbers = given
    images = None if count is None else count[0]
    own = jax.tree.map(lambda leaf: leaf[0], counters)
    x = x.astype(jnp.float32)
    counted, seen = observe(
        graph, params, x, own, images=images, numbers=numbers, values=dict(values), per_channel=per_channel
    )
    names = [feature_map.tensor for feature_map in graph.feature_maps()]
    sums = jnp.stack(
        [
            power_sums(seen.samples[name].values, seen.samples[name].each)
            if graph.shape(name)[0] is None and seen.samples[name].values.shape[:1] == numbers.shape
            else jnp.full((len(x), 6), jnp.nan, jnp.float32)
            for name in names
        ]
    )
    ends, channels = {}, seen.channels
    for name, (low, high) in ranges.items():
        least, most = seen.ranges[name]
        if axes:
            least, most = lax.pmin(least, axes), lax.pmax(most, axes)
        ends[name] = (jnp.minimum(low, least), jnp.maximum(high, most))
    if axes:
        channels = {name: merge_devices(histogram, axes) for name, histogram in channels.items()}
    return jax.tree.map(lambda leaf: leaf[None], counted), ends, channels, sums


def _refuse_nonfinite(names: tuple[str, ...], counted: Histogram) -> None:
    bad = np.flatnonzero(np.asarray(counted.nonfinite))
    if bad.size:
        raise DataError(
            f"feature map `{names[bad[0]]}` holds NaN or infinite values: "
            "check the preprocessing, the network's weights, and for masks of −∞ that no softmax or maximum follows"
        )
