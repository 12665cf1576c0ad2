"""What a network is worth on held-out images, with its interval, and the measured SQNR of every feature map."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import DataError, GgdjaxError, expect, expect_callable
from ggdjax._ranking import rank_of_label
from ggdjax.network import run
from ggdjax.quantization._batches import image_batches, labelled_batches, pad_batch
from ggdjax.quantization._bootstrap import bootstrap_interval, paired_bootstrap
from ggdjax.quantization._metrics import Metric, check_metric, check_targets, ignored_class, statistics_of
from ggdjax.quantization._metrics import metric as named_metric
from ggdjax.quantization._numerics import FakeQuant, Measure
from ggdjax.quantization._rows import Rows
from ggdjax.quantization._sqnr import sqnr_db

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jax.sharding import Mesh
    from jaxtyping import Array, Float, Int, Num

    from ggdjax.network import Network
    from ggdjax.quantization._quantized_network import QuantizedNetwork


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Top-1 and top-5 as fractions of ``images``: the true class alone has the largest logit, or at most four others
    have one as large. Ties count as wrong, and so do logits that are NaN or infinite."""

    top1: float
    top5: float
    images: int
    not_finite: int = 0
    """Images whose logits are NaN, or infinite for the true class."""

    def interval(self, which: str = "top1", z: float = 1.959964) -> tuple[float, float]:
        """Return Wilson's score interval (Wilson 1927) of ``which``; ``z`` = 1.96 covers 95 %.

        Example:
            >>> low, high = gd.quantization.Accuracy(top1=0.9, top5=1.0, images=100).interval()
            >>> round(low, 3), round(high, 3)
            (0.826, 0.945)
        """
        return _wilson(getattr(self, which), self.images, z)


@dataclass(frozen=True, kw_only=True, eq=False)
class Score:
    """What a network is worth on some images by a metric, image by image.

    Example:
        >>> score = gd.quantization.Score(metric=gd.quantization.metric("psnr"), statistics=np.array([30.0, 34.0]))
        >>> score.value, score.images
        (32.0, 2)
    """

    metric: Metric
    statistics: Float[np.ndarray, "image ..."]
    """The scores of the images; of a metric with ``aggregate`` its statistics, ``[image, statistic]``."""
    not_finite: int = 0
    """Images whose outputs are NaN or infinite; of classes, only where that makes them wrong."""

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.statistics)

    @property
    def value(self) -> float:
        """The score of all images together, in the metric's unit (those in % as fractions)."""
        return float(self.metric.of_mean(self._rows.mean(axis=0, dtype=np.float64)))

    @property
    def per_image(self) -> Float[np.ndarray, " image"]:
        """The score of every image by itself."""
        return self.metric.per_image(self.statistics)

    @property
    def _rows(self) -> Float[np.ndarray, "image statistic"]:
        return self.statistics.reshape(len(self.statistics), -1)

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval: Wilson's of a share, otherwise by resampling the images (`bootstrap_interval`)."""
        return self._interval

    @cached_property
    def _interval(self) -> tuple[float, float]:
        if self.metric.share:
            return _wilson(self.value, self.images, 1.959964)
        return bootstrap_interval(self._rows, self.metric.of_mean)

    def compared_to(self, before: Score) -> tuple[tuple[float, float], float]:
        """Return the 95 % interval of this score less another network's on the same images, and a two-sided p-value.

        By resampling and exchanging (`paired_bootstrap`). For right and wrong images `ggdjax.tune.mcnemar` is exact.

        Raises:
            DataError: another metric or another number of images.
        """
        expect("before", before, "Score")
        if self.metric != before.metric or self.images != before.images:
            raise DataError(
                f"`before` is {before.metric.name} of {before.images} images; expected {self.metric.name} of the same "
                f"{self.images} images"
            )
        return paired_bootstrap(before._rows, self._rows, self.metric.of_mean)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, for JSON: value, interval, images, and how many are not finite."""
        return {
            "value": self.value,
            "interval_95": list(self.interval()),
            "images": self.images,
            "not_finite": self.not_finite,
        }


def _wilson(p: float, n: int, z: float) -> tuple[float, float]:
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Float and quantized accuracy on the same images, and SQNR in dB per feature map.

    ``sqnr_db`` measures each feature map alone: the float network's, rounded. ``accumulated_sqnr_db`` compares it with
    the quantized network's, which has the errors of all layers before.
    """

    float_accuracy: Accuracy | None
    """None where the metric is not of classes; likewise the next, and which images are right by top-1."""
    quantized_accuracy: Accuracy | None
    sqnr_db: dict[str, float]
    accumulated_sqnr_db: dict[str, float]
    float_correct: np.ndarray | None
    quantized_correct: np.ndarray | None
    metric_scores: tuple[Score, Score] | None = None
    """Of the float and of the quantized network by the metric that was asked for; None: top-1."""

    @property
    def metric(self) -> Metric:
        """What was measured; top-1 if nothing else was asked for."""
        return self.float_score.metric

    @property
    def float_score(self) -> Score:
        """The float network's score, image by image."""
        return self._score(0, self.float_correct, self.float_accuracy)

    @property
    def quantized_score(self) -> Score:
        """The quantized network's score, image by image."""
        return self._score(1, self.quantized_correct, self.quantized_accuracy)

    def _score(self, which: int, correct: np.ndarray | None, accuracy: Accuracy | None) -> Score:
        if self.metric_scores is not None:
            return self.metric_scores[which]
        assert correct is not None
        assert accuracy is not None
        return Score(
            metric=named_metric("top-1"), statistics=correct.astype(np.float32), not_finite=accuracy.not_finite
        )

    @property
    def mean_sqnr_db(self) -> float:
        """Mean over the feature maps whose SQNR is finite (an all-zero feature map has none)."""
        finite = [v for v in self.sqnr_db.values() if math.isfinite(v)]
        return float(np.mean(finite)) if finite else math.nan


def output_shape(net: Network) -> tuple[int | None, ...]:
    """Return the shape of what one image gives, behind a batch axis."""
    shape = net.output_shape
    if len(shape) == 1:
        # The axes of batch and classes may be merged: see what one image adds.
        one, two = (jax.eval_shape(net, jax.ShapeDtypeStruct((n, *net.input_shape[1:]), jnp.float32)) for n in (1, 2))
        shape = (None, jax.tree.leaves(two)[0].shape[0] - jax.tree.leaves(one)[0].shape[0])
    return shape


def count_classes(net: Network) -> int:
    """Return how many classes a network scores.

    Raises:
        DataError: its output is a map, or holds several values per class.
    """
    shape = output_shape(net)
    check_metric(None, shape)
    return next((size for size in shape[1:] if size not in (1, None)), 1)


def evaluate(
    quantized: QuantizedNetwork,
    batches: Iterable[tuple[Float[Array, "batch ..."], Num[Array, "batch ..."]]],
    metric: str | Metric | Callable[..., Any] | None = None,
    *,
    mesh: Mesh | None = None,
) -> Evaluation:
    """Run the float and the fake-quantized network over labelled images, in one stream.

    Every batch is padded to the size of the first, a multiple of the devices, so that each of the two programs compiles
    once.

    Args:
        quantized: what :func:`ggdjax.quantize` returned.
        batches: pairs of input batch (the model's own layout) and class indices, or the metric's targets; one such pair
            of arrays; or an image set, which gives all its images. Metrics without targets take batches of images, too.
        metric: what to measure, see :func:`ggdjax.quantization.metric`; None: top-1 and top-5.
        mesh: devices that share the images of a batch, with axes of any name; None: all of this process. Of several
            processes, each gives the same batches.

    Raises:
        DataError: no images, images that do not fit the network, another number of labels than images, a label that
            is no class of the network, or a network whose output the metric does not fit.

    Example:
        >>> x = jnp.abs(jax.random.normal(jax.random.key(0), (256, 4)))
        >>> net = gd.trace(lambda x: jax.nn.relu(x @ jnp.eye(4)) @ jnp.eye(4), jnp.zeros((1, 4)))
        >>> q = gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(scheme="max-abs"))
        >>> result = gd.evaluate(q, [(x, np.asarray(net(x)).argmax(axis=1))])
        >>> result.float_accuracy.top1, result.quantized_accuracy.top1 > 0.9
        (1.0, True)
        >>> gd.evaluate(q, [x], metric="output-sqnr").quantized_score.value > 30
        True
    """
    expect("quantized", quantized, "QuantizedNetwork")
    net, rows = quantized.float_network, Rows(mesh)
    both = rows.everywhere((replace(quantized, record=None), net))
    chosen = check_metric(None if metric is None else named_metric(metric), output_shape(net))
    real_tally, rounded_tally = _Tally(chosen), _Tally(chosen)
    energy: dict[str, float] = {}
    error: dict[str, float] = {}
    accumulated: dict[str, float] = {}

    def started() -> Iterator[tuple[Any, tuple[Any, int, int]]]:
        size = 0
        for x, targets in _pairs(batches, chosen, len(net.input_shape)):
            net.check_input(x)
            if len(x) == 0 and (targets is None or len(targets) == 0):  # as the end of a stream may be
                continue
            size = size or rows.whole(len(x))
            given = rows.split((_pad(x, targets, size), np.arange(size) < len(x)))
            yield _run_both(*both, *given), (targets, size, len(x))

    size = 0
    for (real, rounded, *sums), (targets, size, count) in rows.read_each(started()):
        for tally, outputs in ((real_tally, real), (rounded_tally, rounded)):
            tally.add(outputs, targets, real, size, count)
        for total, part in zip((energy, error, accumulated), sums, strict=True):
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + float(value)
    if not size:
        raise DataError("no images to evaluate on: `batches` is empty")
    names = [feature_map.tensor for feature_map in net.graph.feature_maps()]  # device_get brings sorted keys
    tallies = real_tally, rounded_tally
    return Evaluation(
        float_accuracy=real_tally.accuracy(),
        quantized_accuracy=rounded_tally.accuracy(),
        sqnr_db={name: sqnr_db(energy[name], error[name]) for name in names},
        accumulated_sqnr_db={name: sqnr_db(energy[name], accumulated[name]) for name in names},
        float_correct=real_tally.correct(),
        quantized_correct=rounded_tally.correct(),
        metric_scores=None if metric is None else (tallies[0].score(), tallies[1].score()),
    )


def accuracy(
    forward: Callable[[Float[Array, "batch ..."]], Float[Array, "batch class"]],
    batches: Iterable[tuple[Float[Array, "batch ..."], Int[Array, " batch"]]],
) -> Accuracy:
    """Return top-1 and top-5 of any network over labelled images; batches are padded to the size of the first.

    Raises:
        DataError: no images, another number of labels than images, a label that is no class of the network, or
            outputs that are no scores of classes.
    """
    found = _tally(forward, batches, None, None).accuracy()
    assert found is not None
    return found


def score(
    forward: Callable[[Float[Array, "batch ..."]], Float[Array, "batch ..."]],
    batches: Iterable[tuple[Float[Array, "batch ..."], Num[Array, "batch ..."]]],
    metric: str | Metric | Callable[..., Any],
    *,
    reference: Callable[[Float[Array, "batch ..."]], Float[Array, "batch ..."]] | None = None,
) -> Score:
    """Return the score of any network or function by a metric; batches are padded to the size of the first.

    Args:
        forward: from images to outputs.
        batches: as those of :func:`evaluate`.
        metric: see :func:`ggdjax.quantization.metric`.
        reference: the float network, for metrics that compare with its outputs.

    Raises:
        DataError: no images, another number of targets than images, or targets or outputs that the metric does not fit.
        GgdjaxError: a metric that needs ``reference``, without it.

    Example:
        >>> x, y = np.zeros((2, 8, 8, 1), np.float32), np.full((2, 8, 8, 1), 0.1, np.float32)
        >>> round(gd.quantization.score(lambda x: x, [(x, y)], "psnr").value, 4)
        20.0
    """
    return _tally(forward, batches, named_metric(metric), reference).score()


def _tally(forward: Any, batches: Any, chosen: Metric | None, reference: Any) -> _Tally:
    expect_callable("forward", forward, "a network or function")
    if chosen is not None and chosen.compares == "float output":
        if reference is None:
            raise GgdjaxError(f"`metric` {chosen.name} compares with the float network: give it as `reference`")
        expect_callable("reference", reference, "the float network")
    tally, size = None, 0
    rank = None if reference is None else len(reference.input_shape) if hasattr(reference, "input_shape") else 4
    for x, targets in _pairs(batches, chosen, rank):
        if len(x) == 0 and (targets is None or len(targets) == 0):
            continue
        size = size or len(x)
        padded = _pad(x, targets, size)
        outputs = jnp.asarray(forward(padded))
        if tally is None:
            shape = outputs.shape
            # Of one axis, the axes of batch and classes may be merged.
            tally = _Tally(check_metric(chosen, (size, shape[0] // size) if len(shape) == 1 else shape))
        tally.add(outputs, targets, None if reference is None else jnp.asarray(reference(padded)), size, len(x))
    if tally is None:
        raise DataError("no images to evaluate on: `batches` is empty")
    return tally


class _Tally:
    """Scores of a network, batch by batch."""

    def __init__(self, chosen: Metric) -> None:
        self.chosen = chosen
        self.parts: list[np.ndarray] = []
        """Ranks of the labels for metrics of classes, else statistics."""
        self.not_finite = 0

    def add(self, outputs: Array, targets: np.ndarray | None, reference: Array | None, size: int, count: int) -> None:
        """Add a batch of ``size`` rows, of which ``count`` are images; it has as many targets."""
        chosen = self.chosen
        if chosen.compares == "class":
            assert targets is not None
            logits = _scores(np.asarray(outputs), size)[:count]
            self.parts.append(_ranks(logits, targets))
            self.not_finite += int((self.parts[-1] == logits.shape[1]).sum())
            return
        if outputs.shape[:1] != (size,):
            raise DataError(
                f"the network gives an output of shape {outputs.shape} for {size} images, not a row of each"
            )
        if chosen.compares == "float output":
            compared = reference
        else:
            assert targets is not None
            check_targets(chosen, outputs.shape, targets)
            compared = pad_batch(targets, size)
        statistics, finite = jax.device_get(statistics_of(outputs, compared, chosen=chosen))
        self.parts.append(statistics[:count])
        self.not_finite += int((~finite[:count]).sum())

    def accuracy(self) -> Accuracy | None:
        """Return top-1 and top-5; None where the metric is not of classes."""
        if self.chosen.compares != "class":
            return None
        ranks = np.concatenate(self.parts)
        return Accuracy(
            top1=float(np.mean(ranks == 0)),
            top5=float(np.mean(ranks < 5)),
            images=ranks.size,
            not_finite=self.not_finite,
        )

    def correct(self) -> np.ndarray | None:
        """Return which images are right by top-1; None where the metric is not of classes."""
        return np.concatenate(self.parts) == 0 if self.chosen.compares == "class" else None

    def score(self) -> Score:
        """Return the score of all images; raise DataError where no pixel counts."""
        statistics = np.concatenate(self.parts)
        if self.chosen.compares == "class":
            most = {"top-1": 1, "top-5": 5}[self.chosen.name]
            statistics = (statistics < most).astype(np.float32)
        found = Score(metric=self.chosen, statistics=statistics, not_finite=self.not_finite)
        if self.chosen.compares == "class map" and math.isnan(found.value):
            raise DataError(
                f"no pixel of the targets counts for `metric` {self.chosen.name}: all hold the class to ignore, "
                f"{ignored_class(self.chosen)}; check the masks"
            )
        return found


@jax.jit
def _run_both(q: QuantizedNetwork, net: Network, x: Array, valid: Array) -> tuple[Any, ...]:
    x = x.astype(jnp.float32)
    measure, fake = Measure(q.quantizers, valid), FakeQuant(q.quantizers)
    real = run(q.graph, net.params, x, measure)
    rounded = run(q.graph, q.params, x, fake)
    return real, rounded, measure.energy, measure.error, measure.accumulated_error(fake)


def _pairs(batches: Any, chosen: Metric | None, rank: int | None) -> Iterator[tuple[Any, np.ndarray | None]]:
    """Yield images with their targets; None where the metric needs none."""
    if chosen is None or chosen.compares == "class":
        yield from labelled_batches(batches, rank)
    elif chosen.compares == "float output":
        yield from ((x, None) for x in image_batches(batches, rank))
    else:
        yield from labelled_batches(batches, rank, classes=False)


def _pad(x: Array, labels: np.ndarray | None, size: int) -> Array | np.ndarray:
    if labels is not None and len(x) != len(labels):
        raise DataError(f"a batch holds {len(x)} images, but {len(labels)} labels: give one per image")
    if len(x) > size:
        raise DataError(f"a batch of {len(x)} images follows smaller ones: the first batch must be the largest")
    return pad_batch(x, size)


def _scores(outputs: np.ndarray, size: int) -> Float[np.ndarray, "batch class"]:
    check_metric(None, outputs.shape)
    # Of one axis, the axes of batch and classes may be merged.
    if outputs.shape[:1] != (size,) and (outputs.ndim != 1 or outputs.size % size):
        raise DataError(f"the network gives an output of shape {outputs.shape} for {size} images, not a row of each")
    return outputs.reshape(size, -1)


def _ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return `rank_of_label`; labels are checked."""
    classes = logits.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        worst = labels.max() if labels.max() >= classes else labels.min()
        raise DataError(f"label {worst} is outside the network's {classes} classes: check the labels or `label_offset`")
    return rank_of_label(logits, labels)
