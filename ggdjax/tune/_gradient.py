"""Gradient tuning: steps, rounding offsets of weights, and biases, by Adam through the straight-through estimator.

What is tuned, in units that make one learning rate fit every layer:

* the logarithm of every activation step (gradient of LSQ: Esser et al., ICLR 2020), and of every free weight step;
  fixed-point weights keep their fractional length;
* for every weight a rounding offset o, code = clip(round(w/Δ + o)), |o| ≤ ``offset_bound``. AdaRound (Nagel et al.,
  ICML 2020) decides between the two neighbouring codes by a relaxation; here the straight-through estimator decides,
  and the bound says how many codes away a weight may go;
* every bias, in standard deviations of its channel's output.

The tuned kernels are codes times steps: they lie on the grid and round to themselves. At the end the layers are put
back whose change does harm on images that tuned nothing.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import DataError, GgdjaxError, expect, expect_array, expect_record
from ggdjax._fields import settings_of
from ggdjax.network import Float, run
from ggdjax.quantization import FakeQuant, Stage
from ggdjax.quantization._batches import batches_of
from ggdjax.quantization._evaluation import count_classes, output_shape, score
from ggdjax.quantization._metrics import check_metric
from ggdjax.quantization._metrics import metric as named_metric
from ggdjax.quantization._record import DETAILS, image_hash
from ggdjax.quantization._rows import Rows
from ggdjax.tune._gradient_config import OBJECTIVES, GradientConfig
from ggdjax.tune._layerwise import tune_layers
from ggdjax.tune._selective import selected
from ggdjax.tune._trainables import Pace, Start, Trainable, adam_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jax.sharding import Mesh
    from jax.typing import ArrayLike
    from jaxtyping import Array, Int
    from jaxtyping import Float as Real

    from ggdjax.network import Graph
    from ggdjax.quantization import QuantizedNetwork


@dataclass(frozen=True, kw_only=True)
class GradientHistory:
    """What gradient tuning did. ``before`` and ``after`` are the objective's mean over the images held back, or over
    all where none were; of a metric its score, with the other sign where higher is better."""

    config: GradientConfig
    images: int
    before: float
    after: float
    losses: Real[np.ndarray, " step"]
    """The loss of each mini-batch before its step (``per_layer``: of its layer)."""
    reverted: tuple[str, ...] = ()
    """Layers that were put back to the start: without their change the images held back lost less."""
    seconds: float = 0.0
    """Wall time, compilation included; not in `to_dict`, so that equal runs are equal files."""

    @property
    def kept(self) -> bool:
        """Whether the tuned parameters were kept: where they were worse than the start, the start was."""
        return self.after < self.before

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, for JSON."""
        record = {**vars(self), "config": settings_of(self.config), "losses": self.losses.tolist()}
        del record["seconds"]
        return record

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> GradientHistory:
        """Undo `to_dict`; what it did not write is a `GgdjaxError`."""
        needed = [field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING]
        expect_record("record", record, needed)
        config = GradientConfig(**{"held_back": 0.0, **record["config"]})  # which older records do not have
        losses, reverted = np.asarray(record["losses"], np.float32), tuple(record.get("reverted", ()))
        return cls(**{**record, "config": config, "losses": losses, "reverted": reverted})


DETAILS["GradientHistory"] = GradientHistory


def gradient(
    q: QuantizedNetwork,
    images: Real[ArrayLike, "image ..."],
    labels: Int[ArrayLike, " image"] | None = None,
    config: GradientConfig | None = None,
    *,
    progress: Callable[[int, float], None] | None = None,
    mesh: Mesh | None = None,
) -> QuantizedNetwork:
    """Tune steps, rounding of weights, and biases of a quantized network by gradient descent.

    The same images, seed and devices give the same result. Beside the images and one row of targets per image, memory
    depends on ``config.batch_size`` only. Biases are real while they are tuned; at the end they get the fractional
    length of least squared error at their width.

    Args:
        q: what :func:`ggdjax.quantize` or another tuner returned.
        images: tuning images in the layout of the network's input; keep them apart from those of the evaluation.
        labels: their classes, for the objective ``"cross_entropy"``, or the targets of the config's metric; not read
            otherwise.
        config: see :class:`GradientConfig`.
        progress: called after every step with the number of steps done and the loss of its mini-batch.
        mesh: devices that share the images of a batch, where they divide it, with axes of any name; None: all of this
            process. Of several processes, each gives the same images. Gradients are sums over devices: floats of
            another order, and with them codes near a threshold, differ from those of one device.

    Returns:
        The tuned network, less the layers whose change does harm on the images held back, or the start where that is
        no worse on those. ``history`` is a :class:`GradientHistory`.

    Raises:
        GgdjaxError: no labels where the objective needs them.
        DataError: fewer images than one batch, images or labels that do not fit, or a network of several outputs.
    """
    expect("q", q, "QuantizedNetwork")
    images = expect_array("images", images, "an array of images", least_rank=1, error=DataError)
    config = GradientConfig() if config is None else config
    began = time.perf_counter()
    images, rows = np.asarray(images, np.float32), Rows(mesh)
    if len(images) < config.batch_size:
        raise DataError(
            f"`images` holds {len(images)}, fewer than one batch of {config.batch_size}: give more, or a smaller "
            "`batch_size`"
        )
    q.network.check_input(images)
    if config.steps is None:
        config = dataclasses.replace(config, steps=gradient_steps(q, images, labels, config, mesh=mesh))
    graph = q.graph.up_to_logits()
    if config.objective == "cross_entropy":
        count_classes(q.network)
    forward = partial(_float_logits, graph, rows.everywhere(q.float_network.params))
    real = _batchwise(forward, images, config.batch_size, rows)
    targets = _checked_labels(labels, len(images), real.shape[1]) if config.objective == "cross_entropy" else real

    # Another seed than that of the batches, which would otherwise be drawn in the same order.
    shuffled = np.random.default_rng([config.seed, 1]).permutation(len(images))
    # One batch at least is tuned on.
    count = min(round(config.held_back * len(images)), len(images) - config.batch_size)
    held, tuning = shuffled[:count], np.sort(shuffled[count:])
    measuring = held if count else tuning

    def measured(candidate: QuantizedNetwork) -> float:
        bare = rows.everywhere(dataclasses.replace(candidate, graph=graph, record=None))
        logits = _batchwise(partial(_logits, bare), images[measuring], config.batch_size, rows)
        losses = _losses(config.objective, logits, targets[measuring])
        return float(np.mean(np.asarray(losses, np.float64)))

    chosen = None if config.metric is None else check_metric(named_metric(config.metric), output_shape(q.network))
    sign = -1.0 if chosen is not None and chosen.higher_is_better else 1.0
    if chosen is not None:
        if labels is None and chosen.compares != "float output":
            raise GgdjaxError(f"`labels` are missing: `metric` {chosen.name} needs the images' targets")
        aside = np.zeros(len(images), np.int32) if labels is None else np.asarray(labels)

        def measured(candidate: QuantizedNetwork) -> float:
            size, bare = config.batch_size, dataclasses.replace(candidate, record=None)
            parts = [measuring[first : first + size] for first in range(0, len(measuring), size)]
            pairs = [(images[part], aside[part]) for part in parts]
            value = sign * score(bare, pairs, chosen, reference=q.float_network).value
            return math.inf if math.isnan(value) else value

    before = measured(q)
    tuned_on, aims = images[tuning], targets[tuning]
    start = rows.everywhere(Start.of(q, graph, tuned_on[: config.batch_size]))
    order = _batches(len(tuning), config)
    progress = progress or (lambda _step, _loss: None)
    if config.per_layer:
        trainable, losses = tune_layers(graph, start, tuned_on, order, config, progress, rows)
    else:
        trainable, losses = _tune_jointly(graph, start, tuned_on, aims, order, config, progress, rows)
    quantizers, params = start.finished(graph, rows.read(trainable))
    tuned, reverted = dataclasses.replace(q, quantizers=quantizers, params=params), ()
    if count:
        tuned, after, reverted = selected(graph, q, tuned, measured)
    else:
        after = measured(tuned)
    history = GradientHistory(
        config=config,
        images=len(images),
        before=before,
        after=after,
        losses=np.asarray(losses, np.float32),
        reverted=reverted,
        seconds=time.perf_counter() - began,
    )
    stage = Stage(
        name="gradient",
        settings=settings_of(config),
        images=len(images),
        image_hash=image_hash(images),
        figures={
            config.objective if chosen is None else chosen.name: [sign * before, sign * after],
            "kept": history.kept,
        },
        details=history,
    )
    return q.changed(stage, params=tuned.params, quantizers=tuned.quantizers) if history.kept else q.changed(stage)


#: Steps that are timed to fill a budget, and the most that one is filled with: more gain little.
_TIMED, _MOST = 5, 1000


def gradient_steps(
    q: QuantizedNetwork,
    images: Real[ArrayLike, "image ..."],
    labels: Int[ArrayLike, " image"] | None = None,
    config: GradientConfig | None = None,
    *,
    seconds: float = 60.0,
    mesh: Mesh | None = None,
) -> int:
    """Return how many steps of `gradient` take about ``seconds`` on this machine, 1 to 1,000; compiling not counted.

    A few steps of the whole network are run and timed. Steps of single layers (``per_layer``) take less.
    """
    config = GradientConfig() if config is None else config
    timed, moments = dataclasses.replace(config, steps=_TIMED, per_layer=False, held_back=0.0), []
    first = slice(config.batch_size)
    gradient(
        q,
        np.asarray(images[first], np.float32),  # type: ignore[index]
        None if labels is None else np.asarray(labels)[first],
        timed,
        progress=lambda _step, _loss: moments.append(time.perf_counter()),
        mesh=mesh,
    )
    return int(np.clip(seconds / np.median(np.diff(moments)), 1, _MOST))


def _tune_jointly(
    graph: Graph,
    start: Start,
    images: np.ndarray,
    targets: np.ndarray,
    order: Iterator[np.ndarray],
    config: GradientConfig,
    progress: Callable[[int, float], None],
    rows: Rows,
) -> tuple[Trainable, list[float]]:
    trainable = rows.everywhere(start.trainable(graph))
    state = rows.everywhere(adam_state(trainable))
    losses = []
    for step, chosen in enumerate(order, start=1):
        pace, given = Pace.at(step, config.steps, config), rows.split((images[chosen], targets[chosen]))
        trainable, state, loss = _joint_step(graph, config.objective, start, pace, trainable, state, *given)
        losses.append(float(loss))
        progress(step, losses[-1])
    return trainable, losses


@partial(jax.jit, static_argnums=(0, 1))
def _joint_step(
    graph: Graph, objective: str, start: Start, pace: Pace, trainable: Trainable, state: Any, x: Array, target: Array
) -> tuple[Trainable, Any, Array]:
    def loss_of(trainable: Trainable) -> Array:
        quantizers, params = start.moved(graph, trainable)
        logits = run(graph, params, x, FakeQuant(quantizers))
        return jnp.mean(OBJECTIVES[objective](logits.reshape(len(x), -1), target))

    loss, slope = jax.value_and_grad(loss_of)(trainable)
    return (*pace.descend(trainable, state, slope), loss)


@partial(jax.jit, static_argnums=0)
def _losses(objective: str, logits: Array, targets: Array) -> Array:
    return OBJECTIVES[objective](logits, targets)


def _batches(count: int, config: GradientConfig) -> Iterator[np.ndarray]:
    """Yield the indices of ``config.steps`` full batches: one permutation of the images after the other."""
    rng = np.random.default_rng(config.seed)
    order = np.empty(0, np.int64)
    for _ in range(config.steps):
        if len(order) < config.batch_size:
            order = np.concatenate([order, rng.permutation(count)])
        yield order[: config.batch_size]
        order = order[config.batch_size :]


def _batchwise(function: Callable[[np.ndarray], Array], images: np.ndarray, size: int, rows: Rows) -> np.ndarray:
    """Return one row per image."""
    batches = batches_of(images, size)
    return np.concatenate([rows.read(function(rows.split(batch)))[:count] for batch, count in batches])


@partial(jax.jit, static_argnums=0)
def _float_logits(graph: Graph, params: dict[str, Array], x: Array) -> Array:
    return run(graph, params, x, Float()).reshape(len(x), -1)


@jax.jit
def _logits(q: QuantizedNetwork, x: Array) -> Array:
    return run(q.graph, q.params, x, FakeQuant(q.quantizers)).reshape(len(x), -1)


def _checked_labels(labels: Any, count: int, classes: int) -> np.ndarray:
    if labels is None:
        raise GgdjaxError("`labels` are missing: `objective` 'cross_entropy' needs them, 'kl' and 'output' do not")
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"`labels` are {labels.dtype} of shape {labels.shape}; expected {count} integers")
    if labels.min() < 0 or labels.max() >= classes:
        worst = labels.max() if labels.max() >= classes else labels.min()
        raise DataError(f"label {worst} is outside the network's {classes} classes: check the labels or `label_offset`")
    return labels.astype(np.int32)
