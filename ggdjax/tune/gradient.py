"""Gradient tuning: steps, rounding offsets of weights, and biases, by Adam through the straight-through estimator.

What is tuned, in units that make one learning rate fit every layer:

* the logarithm of every activation step (gradient of LSQ: Esser et al., ICLR 2020), and of every free weight step;
  fixed-point weights keep their fractional length;
* for every weight a rounding offset o, code = clip(round(w/Δ + o)), |o| ≤ ``offset_bound``. AdaRound (Nagel et al.,
  ICML 2020) decides between the two neighbouring codes by a relaxation; here the straight-through estimator decides,
  and the bound says how many codes away a weight may go;
* every bias, in standard deviations of its channel's output.

The result stores codes times steps as adjusted kernels, so that it lies on the grid and rounds to itself.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import DataError, GgdjaxError, near_matches
from ggdjax.network import Float, run
from ggdjax.network.ops import QUANTIZABLE
from ggdjax.quantization import FakeQuant, FixedPoint, QuantParams, as_range, fake_quantize
from ggdjax.tune.bias_correction import best_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jax.typing import ArrayLike
    from jaxtyping import Array, Int
    from jaxtyping import Float as Real

    from ggdjax.network import Graph, Node
    from ggdjax.quantization import QuantizedNetwork
    from ggdjax.schemes import Range

Trainable = dict[str, dict[str, "Array"]]


@dataclass(frozen=True, kw_only=True)
class GradientConfig:
    """What is minimised, how far things may move, and the budget.

    Raises:
        GgdjaxError: a field outside its range, or an unknown objective.
    """

    objective: str = "kl"
    """``"kl"``: divergence of the quantized network's classes from the float network's (distillation: no labels);
    ``"cross_entropy"`` with the labels; ``"output"``: mean squared error of the logits."""
    per_layer: bool = False
    """Instead of the whole network at once, each layer after the other: mean squared error of its output (after the
    ReLU that alone reads it) on the inputs that the quantized network gives it (AdaRound, BRECQ). ``objective``
    then only judges the end against the start."""
    steps: int = 1000
    """Gradient steps in all; with ``per_layer`` divided evenly among the layers."""
    batch_size: int = 64
    """Images per gradient step: bounds the memory."""
    step_rate: float = 0.003
    """Adam's rate for the logarithms of steps, at the start of its cosine decay to 0; likewise the next two."""
    offset_rate: float = 0.01
    """Rate for the rounding offsets, in codes."""
    bias_rate: float = 0.002
    """Rate for the biases, in standard deviations of the channel's output."""
    offset_bound: float = 2.0
    """Largest rounding offset, in codes: 0 keeps the weights, 1 lets each go to a neighbouring code, as AdaRound."""
    seed: int = 0
    """Seed of the order of the images."""

    def __post_init__(self) -> None:
        if self.objective not in _OBJECTIVES:
            raise GgdjaxError(
                f"no `objective` is called `{self.objective}`: {near_matches(self.objective, _OBJECTIVES)}"
            )
        for name in ("steps", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise GgdjaxError(f"`{name}` must be a whole number of at least 1, got {value!r}")
        for name in ("step_rate", "offset_rate", "bias_rate", "offset_bound"):
            if not 0 <= getattr(self, name) < np.inf:
                raise GgdjaxError(f"`{name}` must be at least 0 and finite, got {getattr(self, name)!r}")


@dataclass(frozen=True, kw_only=True)
class GradientHistory:
    """What gradient tuning did. ``before`` and ``after`` are the objective's mean over all tuning images."""

    config: GradientConfig
    images: int
    before: float
    after: float
    losses: Real[np.ndarray, " step"]
    """The loss of each mini-batch before its step (``per_layer``: of its layer)."""
    seconds: float
    """Wall time, compilation included."""
    previous: Any = None
    """The history of the network that was tuned, where it had one."""

    @property
    def kept(self) -> bool:
        """Whether the tuned parameters were kept: where they were worse than the start, the start was."""
        return self.after < self.before


def gradient(
    q: QuantizedNetwork,
    images: Real[ArrayLike, "image ..."],
    labels: Int[ArrayLike, " image"] | None = None,
    config: GradientConfig | None = None,
    *,
    progress: Callable[[int, float], None] | None = None,
) -> QuantizedNetwork:
    """Tune steps, rounding of weights, and biases of a quantized network by gradient descent.

    The same images, seed and device give the same result. Beside the images and one row of targets per image, memory
    depends on ``config.batch_size`` only. Biases are real while they are tuned; at the end they get the fractional
    length of least squared error at their width.

    Args:
        q: what :func:`ggdjax.quantize` or another tuner returned.
        images: tuning images in the layout of the network's input; keep them apart from those of the evaluation.
        labels: their classes, for the objective ``"cross_entropy"``; not read otherwise.
        config: see :class:`GradientConfig`.
        progress: called after every step with the number of steps done and the loss of its mini-batch.

    Returns:
        The tuned network, or the start where that is no worse on the objective over all tuning images. ``history`` is
        a :class:`GradientHistory`.

    Raises:
        GgdjaxError: no labels where the objective needs them.
        DataError: fewer images than one batch, images or labels that do not fit, or a network of several outputs.
    """
    config = GradientConfig() if config is None else config
    began = time.perf_counter()
    images = np.asarray(images, np.float32)
    if len(images) < config.batch_size:
        raise DataError(
            f"`images` holds {len(images)}, fewer than one batch of {config.batch_size}: give more, or a smaller "
            "`batch_size`"
        )
    q.network.check_input(images)
    graph = _up_to_logits(q.network.graph)
    real = _batchwise(partial(_float_logits, graph, q.network.params), images, config.batch_size)
    targets = _checked_labels(labels, len(images), real.shape[1]) if config.objective == "cross_entropy" else real

    def judged(candidate: QuantizedNetwork) -> float:
        logits = _batchwise(
            partial(_logits, graph, candidate.float_params, candidate.params), images, config.batch_size
        )
        losses = _OBJECTIVES[config.objective](jnp.asarray(logits), jnp.asarray(targets))
        return float(np.mean(np.asarray(losses, np.float64)))

    before = judged(q)
    start = _Start.of(q, graph, images[: config.batch_size])
    tune = _tune_layers if config.per_layer else _tune_jointly
    trainable, losses = tune(graph, start, images, targets, config, progress or (lambda _step, _loss: None))
    tuned = start.finished(q, trainable, config)
    after = judged(tuned)
    history = GradientHistory(
        config=config,
        images=len(images),
        before=before,
        after=after,
        losses=np.asarray(losses, np.float32),
        seconds=time.perf_counter() - began,
        previous=q.history,
    )
    best = tuned if history.kept else q
    return best.with_params(best.params, adjusted=best.adjusted, history=history)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Start:
    """Where tuning starts: everything that a trainable is measured against. Keys of dicts are tensor or node names."""

    quant: QuantParams
    real: dict[str, Array]
    """The float network's parameters: its outputs are the targets."""
    params: dict[str, Array]
    kernel_unit: dict[str, Array]
    bias_unit: dict[str, Array]
    """Standard deviation of each output channel in the float network, on one batch."""

    @classmethod
    def of(cls, q: QuantizedNetwork, graph: Graph, batch: np.ndarray) -> _Start:
        kernel_unit = {name: as_range(w).step for name, w in q.params.weights.items()}
        return cls(
            quant=q.params,
            real=q.network.params,
            params=q.float_params,
            kernel_unit=kernel_unit,
            bias_unit=_output_deviation(graph, q.network.params, batch),
        )

    def trainable(self, graph: Graph) -> Trainable:
        """Return the point of departure: every group maps names to arrays."""
        steps = {f"x|{name}": jnp.log(x.step) for name, x in self.quant.activations.items()}
        free = {name: w for name, w in self.quant.weights.items() if not isinstance(w, FixedPoint)}
        nodes = {node.name: dict(node.params) for node in graph.quantizable}
        return {
            "steps": steps | {f"w|{name}": jnp.log(w.step) for name, w in free.items()},
            "offsets": {name: jnp.zeros_like(self.params[keys["kernel"]]) for name, keys in nodes.items()},
            "biases": {
                name: jnp.zeros_like(self.params[keys["bias"]]) for name, keys in nodes.items() if "bias" in keys
            },
        }

    def moved(self, graph: Graph, trainable: Trainable, bound: float) -> tuple[QuantParams, dict[str, Array]]:
        """Return the quantization parameters, biases left real, and the parameters to be rounded by them."""
        steps, params = trainable["steps"], dict(self.params)

        def with_step(kind: str, name: str, quantizer: FixedPoint | Range) -> FixedPoint | Range:
            key = f"{kind}|{name}"
            return dataclasses.replace(quantizer, step=jnp.exp(steps[key])) if key in steps else quantizer

        for node in graph.quantizable:
            keys = dict(node.params)
            if node.name in trainable["offsets"]:
                offset = jnp.clip(trainable["offsets"][node.name], -bound, bound)
                unit = self.kernel_unit[node.name]
                unit = unit.reshape((1,) * (offset.ndim - 1) + unit.shape) if unit.ndim else unit
                params[keys["kernel"]] = params[keys["kernel"]] + unit * offset
            if node.name in trainable["biases"]:
                params[keys["bias"]] = params[keys["bias"]] + self.bias_unit[node.name] * trainable["biases"][node.name]
        quant = QuantParams(
            activations={name: with_step("x", name, x) for name, x in self.quant.activations.items()},
            weights={name: with_step("w", name, w) for name, w in self.quant.weights.items()},
            biases={},
        )
        return quant, params

    def finished(self, q: QuantizedNetwork, trainable: Trainable, config: GradientConfig) -> QuantizedNetwork:
        """Return the network with what was tuned: kernels on their grid, biases in the best format of their width."""
        graph = q.network.graph
        quant, params = self.moved(graph, trainable, config.offset_bound)
        adjusted, biases = dict(q.adjusted), {}
        for node in graph.quantizable:
            keys = dict(node.params)
            if node.name in quant.weights:
                adjusted[keys["kernel"]] = fake_quantize(params[keys["kernel"]], as_range(quant.weights[node.name]))
            if node.name in q.params.biases:
                adjusted[keys["bias"]] = params[keys["bias"]]
                biases[node.name] = best_format(params[keys["bias"]], q.params.biases[node.name].bits)
        return q.with_params(dataclasses.replace(quant, biases=biases), adjusted=adjusted)


def _tune_jointly(
    graph: Graph,
    start: _Start,
    images: np.ndarray,
    targets: np.ndarray,
    config: GradientConfig,
    progress: Callable[[int, float], None],
) -> tuple[Trainable, list[float]]:
    trainable = start.trainable(graph)
    state = _optimizer(config, config.steps).init(trainable)
    losses = []
    for step, chosen in enumerate(_batches(len(images), config), start=1):
        trainable, state, loss = _joint_step(graph, config, start, trainable, state, images[chosen], targets[chosen])
        losses.append(float(loss))
        progress(step, losses[-1])
    return trainable, losses


@partial(jax.jit, static_argnums=(0, 1))
def _joint_step(
    graph: Graph, config: GradientConfig, start: _Start, trainable: Trainable, state: Any, x: Array, target: Array
) -> tuple[Trainable, Any, Array]:
    def loss_of(trainable: Trainable) -> Array:
        quant, params = start.moved(graph, trainable, config.offset_bound)
        logits = run(graph, params, x, FakeQuant(quant))
        return jnp.mean(_OBJECTIVES[config.objective](logits.reshape(len(x), -1), target))

    loss, slope = jax.value_and_grad(loss_of)(trainable)
    return (*_descend(config, config.steps, trainable, state, slope), loss)


def _descend(config: GradientConfig, steps: int, trainable: Trainable, state: Any, slope: Trainable) -> tuple:
    import optax

    # Optax's bias correction raises a float to an integer count, which strict promotion would refuse.
    with jax.numpy_dtype_promotion("standard"):
        updates, state = _optimizer(config, steps).update(slope, state, trainable)
    trainable = optax.apply_updates(trainable, updates)
    # Held at the bound, so that a weight that turns round leaves it at once.
    bound = config.offset_bound
    return trainable | {"offsets": jax.tree.map(lambda o: jnp.clip(o, -bound, bound), trainable["offsets"])}, state


def _optimizer(config: GradientConfig, steps: int) -> Any:
    import optax

    rates = {"steps": config.step_rate, "offsets": config.offset_rate, "biases": config.bias_rate}
    adams = {group: optax.adam(optax.cosine_decay_schedule(rate, steps)) for group, rate in rates.items()}
    return optax.partition(adams, lambda tree: {group: group for group in tree})


def _tune_layers(
    graph: Graph,
    start: _Start,
    images: np.ndarray,
    targets: np.ndarray,
    config: GradientConfig,
    progress: Callable[[int, float], None],
) -> tuple[Trainable, list[float]]:
    del targets
    whole, losses = start.trainable(graph), []
    layers = graph.quantizable
    share, more = divmod(config.steps, len(layers))
    done: set[str] = set()
    order = _batches(len(images), config)
    for number, node in enumerate(layers):
        steps = share + (number < more)
        # A feature map that several layers read has one step: it belongs to the first of them.
        fresh = {f"w|{node.name}"} | ({f"x|{node.inputs[0]}"} - done)
        done |= fresh
        own = {
            "steps": {key: value for key, value in whole["steps"].items() if key in fresh},
            **{group: {k: v for k, v in whole[group].items() if k == node.name} for group in ("offsets", "biases")},
        }
        if not steps:
            continue
        state = _optimizer(config, steps).init(own)
        end = _end_of_layer(graph, node)
        for _ in range(steps):
            x = images[next(order)]
            own, state, loss = _layer_step(graph, config, (node.name, end, steps), start, whole, own, state, x)
            losses.append(float(loss))
            progress(len(losses), losses[-1])
        whole = {group: values | own[group] for group, values in whole.items()}
    return whole, losses


def _end_of_layer(graph: Graph, node: Node) -> str:
    """Return the tensor that the layer is judged by: its output, or that of the ReLU or clip that alone reads it."""
    readers = [other for other in graph.nodes if node.output in other.inputs]
    activated = len(readers) == 1 and readers[0].op in ("relu", "clip") and node.output not in graph.outputs
    return readers[0].output if activated else node.output


@partial(jax.jit, static_argnums=(0, 1, 2))
def _layer_step(
    graph: Graph,
    config: GradientConfig,
    layer: tuple[str, str, int],
    start: _Start,
    whole: Trainable,
    own: Trainable,
    state: Any,
    x: Array,
) -> tuple[Trainable, Any, Array]:
    name, end, steps = layer
    index = graph.index(name)
    stop = max(k for k, node in enumerate(graph.nodes) if node.output == end) + 1
    part = dataclasses.replace(graph, outputs=(end,), nodes=graph.nodes[:stop])
    real = run(part, start.real, x, Float())
    quant, params = start.moved(graph, whole, config.offset_bound)
    entering = run(part, params, x, FakeQuant(quant), stop=index)

    def loss_of(own: Trainable) -> Array:
        quant, params = start.moved(graph, {k: whole[k] | own[k] for k in whole}, config.offset_bound)
        return jnp.mean(jnp.square(run(part, params, entering, FakeQuant(quant), start=index) - real))

    loss, slope = jax.value_and_grad(loss_of)(own)
    return (*_descend(config, steps, own, state, slope), loss / jnp.maximum(jnp.mean(jnp.square(real)), 1e-30))


def _batches(count: int, config: GradientConfig) -> Iterator[np.ndarray]:
    """Yield the indices of ``config.steps`` full batches: one permutation of the images after the other."""
    rng = np.random.default_rng(config.seed)
    order = np.empty(0, np.int64)
    for _ in range(config.steps):
        if len(order) < config.batch_size:
            order = np.concatenate([order, rng.permutation(count)])
        yield order[: config.batch_size]
        order = order[config.batch_size :]


def _batchwise(function: Callable[[np.ndarray], Array], images: np.ndarray, size: int) -> np.ndarray:
    """Return one row per image; the last batch is filled up, so that one shape compiles."""
    rows = []
    for first in range(0, len(images), size):
        batch = images[first : first + size]
        full = np.concatenate([batch, np.repeat(batch[:1], size - len(batch), axis=0)])
        rows.append(np.asarray(function(full))[: len(batch)])
    return np.concatenate(rows)


@partial(jax.jit, static_argnums=0)
def _float_logits(graph: Graph, params: dict[str, Array], x: Array) -> Array:
    return run(graph, params, x, Float()).reshape(len(x), -1)


@partial(jax.jit, static_argnums=0)
def _logits(graph: Graph, params: dict[str, Array], quant: QuantParams, x: Array) -> Array:
    return run(graph, params, x, FakeQuant(quant)).reshape(len(x), -1)


class _Deviation(Float):
    """Float arithmetic that notes the standard deviation of each channel that leaves a quantizable node."""

    def __init__(self) -> None:
        self.deviation: dict[str, Array] = {}

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        y = super().apply(node, params, *inputs)
        if node.op in QUANTIZABLE:
            self.deviation[node.name] = jnp.std(y, axis=tuple(range(y.ndim - 1)))
        return y


@partial(jax.jit, static_argnums=0)
def _output_deviation(graph: Graph, params: dict[str, Array], x: Array) -> dict[str, Array]:
    numerics = _Deviation()
    run(graph, params, x, numerics)
    return numerics.deviation


def _up_to_logits(graph: Graph) -> Graph:
    """Return the graph that ends before a final softmax: objectives want logits."""
    if len(graph.outputs) != 1:
        raise DataError(f"the network has {len(graph.outputs)} outputs: gradient tuning needs one, the logits")
    last = next(node for node in graph.nodes if node.output == graph.outputs[0])
    if last.op != "softmax":
        return graph
    return dataclasses.replace(graph, outputs=last.inputs, nodes=tuple(n for n in graph.nodes if n != last))


def _checked_labels(labels: Any, count: int, classes: int) -> np.ndarray:
    if labels is None:
        raise GgdjaxError("`labels` are missing: `objective` 'cross_entropy' needs them, 'kl' and 'output' do not")
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"`labels` are {labels.dtype} of shape {labels.shape}; expected {count} whole numbers")
    if labels.min() < 0 or labels.max() >= classes:
        worst = labels.max() if labels.max() >= classes else labels.min()
        raise DataError(f"label {worst} is outside the network's {classes} classes: check the labels or `label_offset`")
    return labels.astype(np.int32)


def _divergence(logits: Array, real: Array) -> Array:
    """Return KL(float ‖ quantized) of each image, nats."""
    return jnp.sum(jax.nn.softmax(real) * (jax.nn.log_softmax(real) - jax.nn.log_softmax(logits)), axis=-1)


def _cross_entropy(logits: Array, labels: Array) -> Array:
    """Return −log p(label) of each image, nats."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]


def _output_error(logits: Array, real: Array) -> Array:
    """Return the mean squared error of each image's logits."""
    return jnp.mean(jnp.square(logits - real), axis=-1)


_OBJECTIVES: dict[str, Callable[[Any, Any], Any]] = {
    "kl": _divergence,
    "cross_entropy": _cross_entropy,
    "output": _output_error,
}
