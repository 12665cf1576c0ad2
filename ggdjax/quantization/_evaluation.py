"""Accuracy with its interval, and the measured SQNR of every feature map, on held-out images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import DataError, expect, expect_callable
from ggdjax._ranking import rank_of_label
from ggdjax.network import run
from ggdjax.quantization._batches import labelled_batches, pad_batch
from ggdjax.quantization._numerics import FakeQuant, Measure
from ggdjax.quantization._rows import Rows
from ggdjax.quantization._sqnr import sqnr_db

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from jax.sharding import Mesh
    from jaxtyping import Array, Float, Int

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
        p, n = getattr(self, which), self.images
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Float and quantized accuracy on the same images, and SQNR in dB per feature map.

    ``sqnr_db`` measures each feature map alone: the float network's, rounded. ``accumulated_sqnr_db`` compares it with
    the quantized network's, which has the errors of all layers before.
    """

    float_accuracy: Accuracy
    quantized_accuracy: Accuracy
    sqnr_db: dict[str, float]
    accumulated_sqnr_db: dict[str, float]
    float_correct: np.ndarray
    quantized_correct: np.ndarray

    @property
    def mean_sqnr_db(self) -> float:
        """Mean over the feature maps whose SQNR is finite (an all-zero feature map has none)."""
        finite = [v for v in self.sqnr_db.values() if math.isfinite(v)]
        return float(np.mean(finite)) if finite else math.nan


def count_classes(net: Network) -> int:
    """Return how many classes a network scores.

    Raises:
        DataError: its output is a map, or holds several values per class.
    """
    shape = net.output_shape
    if len(shape) == 1:
        # The axes of batch and classes may be merged: see what one image adds.
        one, two = (jax.eval_shape(net, jax.ShapeDtypeStruct((n, *net.input_shape[1:]), jnp.float32)) for n in (1, 2))
        shape = (None, jax.tree.leaves(two)[0].shape[0] - jax.tree.leaves(one)[0].shape[0])
    return _classes(shape)


def _classes(shape: Sequence[int | None]) -> int:
    found = [size for size in shape[1:] if size != 1]
    if len(found) > 1 or None in found:
        sizes = " × ".join("?" if size is None else str(size) for size in shape[1:])
        raise DataError(
            f"the network gives a map of {sizes} values per image, no score per class, which accuracy needs: choose an "
            "output that scores classes (`output` of `gd.load_onnx`); `gd.calibrate` and `gd.quantize` take it as it is"
        )
    return found[0] if found else 1


def evaluate(
    quantized: QuantizedNetwork,
    batches: Iterable[tuple[Float[Array, "batch ..."], Int[Array, " batch"]]],
    *,
    mesh: Mesh | None = None,
) -> Evaluation:
    """Run the float and the fake-quantized network over labelled images, in one stream.

    Every batch is padded to the size of the first, a multiple of the devices, so that each of the two programs compiles
    once.

    Args:
        quantized: what :func:`ggdjax.quantize` returned.
        batches: pairs of input batch (the model's own layout) and class indices; one such pair of arrays; or an image
            set, which gives all its images.
        mesh: devices that share the images of a batch, with axes of any name; None: all of this process. Of several
            processes, each gives the same batches.

    Raises:
        DataError: no images, images that do not fit the network, another number of labels than images, a label that
            is no class of the network, or a network that does not score classes.

    Example:
        >>> x = jnp.abs(jax.random.normal(jax.random.key(0), (256, 4)))
        >>> net = gd.trace(lambda x: jax.nn.relu(x @ jnp.eye(4)) @ jnp.eye(4), jnp.zeros((1, 4)))
        >>> q = gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(scheme="max-abs"))
        >>> result = gd.evaluate(q, [(x, np.asarray(net(x)).argmax(axis=1))])
        >>> result.float_accuracy.top1, result.quantized_accuracy.top1 > 0.9
        (1.0, True)
    """
    expect("quantized", quantized, "QuantizedNetwork")
    net, rows = quantized.float_network, Rows(mesh)
    classes = count_classes(net)
    both = rows.everywhere((replace(quantized, record=None), net))
    ranks: dict[str, list[np.ndarray]] = {"float": [], "quantized": []}
    energy: dict[str, float] = {}
    error: dict[str, float] = {}
    accumulated: dict[str, float] = {}
    size = 0
    for x, labels in labelled_batches(batches, len(net.input_shape)):
        net.check_input(x)
        if len(x) == len(labels) == 0:  # as the end of a stream may be; nothing to pad
            continue
        count = len(labels)
        size = size or rows.whole(count)
        given = rows.split((_pad(x, labels, size), np.arange(size) < count))
        real, rounded, *sums = rows.read(_run_both(*both, *given))
        for which, logits in (("float", real), ("quantized", rounded)):
            ranks[which].append(_ranks(_scores(logits, size)[:count], np.asarray(labels)))
        for total, part in zip((energy, error, accumulated), sums, strict=True):
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + float(value)
    if not size:
        raise DataError("no images to evaluate on: `batches` is empty")
    names = [feature_map.tensor for feature_map in net.graph.feature_maps()]  # device_get brings sorted keys
    real_ranks, rounded_ranks = (np.concatenate(ranks[which]) for which in ("float", "quantized"))
    return Evaluation(
        float_accuracy=_accuracy(real_ranks, classes),
        quantized_accuracy=_accuracy(rounded_ranks, classes),
        sqnr_db={name: sqnr_db(energy[name], error[name]) for name in names},
        accumulated_sqnr_db={name: sqnr_db(energy[name], accumulated[name]) for name in names},
        float_correct=real_ranks == 0,
        quantized_correct=rounded_ranks == 0,
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
    ranks, size = [], 0
    expect_callable("forward", forward, "a network or function")
    for x, labels in labelled_batches(batches):
        if len(x) == len(labels) == 0:
            continue
        size = size or len(labels)
        logits = _scores(np.asarray(forward(_pad(x, labels, size))), size)[: len(labels)]
        ranks.append(_ranks(logits, np.asarray(labels)))
    if not ranks:
        raise DataError("no images to evaluate on: `batches` is empty")
    return _accuracy(np.concatenate(ranks), logits.shape[1])


@jax.jit
def _run_both(q: QuantizedNetwork, net: Network, x: Array, valid: Array) -> tuple[Any, ...]:
    x = x.astype(jnp.float32)
    measure, fake = Measure(q.quantizers, valid), FakeQuant(q.quantizers)
    real = run(q.graph, net.params, x, measure)
    rounded = run(q.graph, q.params, x, fake)
    return real, rounded, measure.energy, measure.error, measure.accumulated_error(fake)


def _pad(x: Array, labels: Array, size: int) -> Array | np.ndarray:
    if len(x) != len(labels):
        raise DataError(f"a batch holds {len(x)} images, but {len(labels)} labels: give one per image")
    if len(x) > size:
        raise DataError(f"a batch of {len(x)} images follows one of {size}: the first batch must be the largest")
    return pad_batch(x, size)


def _scores(outputs: np.ndarray, size: int) -> Float[np.ndarray, "batch class"]:
    _classes(outputs.shape)
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


def _accuracy(ranks: np.ndarray, classes: int) -> Accuracy:
    return Accuracy(
        top1=float(np.mean(ranks == 0)),
        top5=float(np.mean(ranks < 5)),
        images=ranks.size,
        not_finite=int(np.sum(ranks == classes)),
    )
