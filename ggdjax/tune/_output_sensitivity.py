"""What rounding one feature map or the weights of one layer alone does to the network's output.

All of them are rounded one after the other on each batch, by one program: what is rounded is a row of switches, and
the rows are mapped over. So a batch costs as many passes of the network as there are feature maps and layers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import DataError, expect, expect_array
from ggdjax.network import Float, run
from ggdjax.quantization._batches import batches_of
from ggdjax.quantization._sqnr import sqnr_db
from ggdjax.tune._objectives import kl_divergence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jax.typing import ArrayLike
    from jaxtyping import Array, Bool
    from jaxtyping import Float as Real

    from ggdjax.network import Graph, Node
    from ggdjax.quantization import QuantizedNetwork, Quantizers


@dataclass(frozen=True, kw_only=True)
class OutputChange:
    """How far the logits move from the float network's."""

    sqnr_db: float
    """Energy of the float network's logits over that of the difference, dB; infinite where nothing changed."""
    cosine: float
    """Cosine of the angle between both, at most 1, averaged over the images."""
    kl: float
    """KL(float ‖ quantized) of the classes, nats, averaged over the images."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What each rounding alone does to the output, and all together."""

    images: int
    feature_maps: dict[str, OutputChange]
    """By tensor name: the feature map alone is rounded."""
    weights: dict[str, OutputChange]
    """By node name: weights and bias of the layer alone."""
    network: OutputChange
    """Everything is."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, for JSON."""
        return asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per feature map and per layer, and one for the network, in the order of the data.

        Keys: ``name``, ``rounded`` ("feature map", "weights" or "all"), ``sqnr_db``, ``cosine``, ``kl``.
        """
        named = [
            *((name, "feature map", change) for name, change in self.feature_maps.items()),
            *((name, "weights", change) for name, change in self.weights.items()),
            ("network", "all", self.network),
        ]
        return [{"name": name, "rounded": what, **asdict(change)} for name, what, change in named]


def sensitivity(
    q: QuantizedNetwork,
    images: Real[ArrayLike, "image ..."],
    *,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Return what rounding each feature map, and the weights of each layer, alone does to the network's output.

    Measured, not predicted: SQNR, cosine and KL divergence of the logits (before a softmax at the very end) against
    those of the float network. No labels are needed, a few dozen images are enough.

    Args:
        q: what :func:`ggdjax.quantize` or a tuner returned.
        images: in the layout of the network's input.
        batch_size: images per pass; bounds the memory.
        progress: called after every batch with how many images are done and their number.

    Raises:
        GgdjaxError: ``batch_size`` less than 1.
        DataError: no images, images that do not fit the network, or a network of several outputs.

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (64, 4))
        >>> net = gd.trace(lambda x: jax.nn.relu(x @ jnp.eye(4)) @ jnp.ones((4, 2)), jnp.zeros((1, 4)))
        >>> q = gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(activation_bits=4, scheme="max-abs"))
        >>> found = gd.tune.sensitivity(q, x)
        >>> len(found.feature_maps), len(found.weights), 0.9 < found.network.cosine <= 1
        (2, 2, True)
    """
    maps, layers = _rounded_parts(q)
    switches = np.eye(len(maps) + len(layers), dtype=bool)
    switches = np.concatenate([switches, np.ones((1, switches.shape[1]), bool)])
    changes = _measured(q, images, switches, batch_size, progress)
    return Sensitivity(
        images=len(np.asarray(images)),
        feature_maps=dict(zip(maps, changes, strict=False)),
        weights=dict(zip(layers, changes[len(maps) :], strict=False)),
        network=changes[-1],
    )


def output_change(q: QuantizedNetwork, images: Real[ArrayLike, "image ..."], *, batch_size: int = 64) -> OutputChange:
    """Return what all roundings together do to the output: ``sensitivity(…).network``, by a single pass."""
    return _measured(q, images, np.ones((1, sum(map(len, _rounded_parts(q)))), bool), batch_size, None)[0]


def _rounded_parts(q: QuantizedNetwork) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the feature maps and the layers that have quantizers, in the order of the data."""
    expect("q", q, "QuantizedNetwork")
    return (
        tuple(fm.tensor for fm in q.graph.feature_maps() if fm.tensor in q.quantizers.activations),
        tuple(node.name for node in q.graph.quantizable if node.name in q.quantizers.weights),
    )


def _measured(
    q: QuantizedNetwork, images: Any, switches: np.ndarray, batch_size: int, progress: Callable[[int, int], None] | None
) -> list[OutputChange]:
    """Return what the roundings of each row of ``switches`` (feature maps first) do to the output."""
    images = np.asarray(expect_array("images", images, "an array of images", least_rank=1, error=DataError), np.float32)
    if not len(images):
        raise DataError("`images` is empty: give a few dozen")
    graph, parts = q.graph.up_to_logits(), _rounded_parts(q)
    q.network.check_input(images)
    size, done, total = min(batch_size, len(images)), 0, np.zeros((len(switches), 4))
    for batch, count in batches_of(images, size):
        valid = np.arange(size) < count
        sums = _changes(graph, *parts, q.float_network.params, q.params, q.quantizers, batch, valid, switches)
        total, done = total + np.asarray(jax.device_get(sums), np.float64), done + count
        if progress is not None:
            progress(done, len(images))
    return [
        OutputChange(sqnr_db=sqnr_db(energy, error), cosine=cosine / len(images), kl=kl / len(images))
        for energy, error, cosine, kl in total.tolist()
    ]


class _Switched(Float):
    """Float arithmetic on parameters already switched; feature maps are rounded where their switch is on."""

    def __init__(self, quantizers: Quantizers, on: Mapping[str, Bool[Array, ""]]) -> None:
        self.quantizers, self.on = quantizers, on

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Round the inputs that are feature maps, then compute in float."""
        names, inputs = node.feature_maps, list(inputs)
        for k, name in enumerate(names):
            if name in self.on:
                inputs[k] = jnp.where(self.on[name], self.quantizers.activations[name](inputs[k]), inputs[k])
        return super().apply(node, params, *inputs)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _changes(
    graph: Graph,
    maps: tuple[str, ...],
    layers: tuple[str, ...],
    real: dict[str, Array],
    params: dict[str, Array],
    quantizers: Quantizers,
    x: Real[Array, "image ..."],
    valid: Bool[Array, " image"],
    switches: Bool[Array, "row unit"],
) -> Real[Array, "row 4"]:
    """Return energy, squared error, cosine and KL divergence of the logits, summed over the images, of every row."""
    expected = run(graph, real, x, Float()).reshape(len(x), -1)
    nodes = {node.name: node for node in graph.nodes}
    rounded = dict(params)
    for name in layers:
        key = nodes[name].param("kernel")
        rounded[key] = quantizers.weights[name](params[key])
        if (bias := nodes[name].param("bias")) is not None and (grid := quantizers.bias(nodes[name])) is not None:
            rounded[bias] = grid(params[bias])

    def row(on: Bool[Array, " unit"]) -> Real[Array, " 4"]:
        own = dict(real)
        for name, switch in zip(layers, on[len(maps) :], strict=True):
            for _, key in nodes[name].params:
                own[key] = jnp.where(switch, rounded[key], own[key])
        numerics = _Switched(quantizers, dict(zip(maps, on, strict=False)))
        logits = run(graph, own, x, numerics).reshape(len(x), -1)
        energy, error = (jnp.sum(jnp.square(v), axis=-1) for v in (expected, logits - expected))
        norms = jnp.sqrt(energy * jnp.sum(jnp.square(logits), axis=-1))
        cosine = jnp.where(norms > 0, jnp.sum(expected * logits, axis=-1) / jnp.where(norms > 0, norms, 1.0), 1.0)
        per_image = jnp.stack([energy, error, cosine, kl_divergence(logits, expected)])
        return jnp.sum(jnp.where(valid, per_image, 0.0), axis=-1)

    return jax.lax.map(row, switches)
