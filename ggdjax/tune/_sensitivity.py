"""How much each feature map's and each kernel's rounding costs the network, from one backward pass over a few batches.

The cost is the squared error of the logits, their common shift left out (softmax does not see it). A small error δ of a
feature map or a kernel shifts them by Jδ; for signs r drawn at random, ``E[(rᵀJδ)²] = |Jδ|²`` (Hutchinson 1990), and
Jᵀr is one backward pass. So no labels are needed, and since the gradients of different images are independent with mean
zero, the square of a batch's summed gradient is an unbiased sum of the images' squares: one pass serves a whole batch.
Errors of different values are taken as uncorrelated: activations by their distortion, kernels by their own rounding
errors. The curvature of the cross-entropy in place of ``JᵀJ`` would vanish where the network is sure of itself, as on
most images it is, and would not see what coarse rounding does there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax.ggd import empirical_distortion
from ggdjax.network import Float, run
from ggdjax.quantization._batches import batches_of
from ggdjax.quantization._quantize import choose_activations, choose_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jaxtyping import Array
    from jaxtyping import Float as Real

    from ggdjax.ggd import Histogram
    from ggdjax.network import Graph, Node
    from ggdjax.quantization import Calibration, QuantizedNetwork
    from ggdjax.schemes import Choice


@dataclass(frozen=True, kw_only=True)
class PredictedLoss:
    """Mean squared error of the logits that rounding each kernel or feature map alone should cause, per width."""

    widths: tuple[int, ...]
    weights: dict[str, Real[np.ndarray, " width"]]
    """By node name."""
    activations: dict[str, Real[np.ndarray, " width"]]
    """By tensor name."""


def predict_losses(
    q: QuantizedNetwork,
    images: Real[np.ndarray, "image ..."],
    widths: Sequence[int],
    batch_size: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> PredictedLoss:
    """Return the predicted loss of every kernel and feature map at every width, quantized as ``q.config`` says.

    ``progress`` is called after every batch of images and every width, with how many of both are done and in all.
    """
    done, total = count(1), -(-len(images) // batch_size) + len(widths)
    feature_maps, kernels = _sensitivities(q, images, batch_size, seed, lambda: progress(next(done), total))
    calibration, config = q.record.calibration, q.record.config
    settings = np.broadcast_to(np.asarray(widths)[:, None], (len(widths), len(calibration.names)))
    chosen = choose_activations(calibration, config, settings)
    activations = {
        name: feature_maps[name] * row for name, row in _distortions(calibration, chosen, len(widths)).items()
    }
    weights: dict[str, list[float]] = {name: [] for name in kernels}
    for bits in widths:
        for node in q.graph.quantizable:
            kernel = np.asarray(q.params[node.param("kernel")], np.float32)
            quantizer = choose_weights(kernel, bits, config)
            error = np.float64(kernel) - quantizer.decode(quantizer.encode(kernel))
            weights[node.name].append(float(np.sum(kernels[node.name] * np.square(error))))
        progress(next(done), total)
    return PredictedLoss(
        widths=tuple(widths),
        weights={name: np.asarray(row) for name, row in weights.items()},
        activations=activations,
    )


def _distortions(calibration: Calibration, chosen: dict[str, Choice], widths: int) -> dict[str, np.ndarray]:
    """Return the mean squared error per value of every feature map on the calibration histograms, per width."""
    if calibration.channels is not None and any(choice.step.ndim > 1 for choice in chosen.values()):
        return {name: _distortion(calibration.channels[name], c).mean(-1) for name, c in chosen.items()}
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *chosen.values())
    return dict(zip(chosen, _distortion(calibration.histograms, stacked).T, strict=True))


def _distortion(histogram: Histogram, choice: Choice) -> np.ndarray:
    """Return the distortion of a choice of axes ``width tensor``."""
    zero = 0 if choice.zero_point is None else choice.zero_point
    step, top, bottom = (np.asarray(v, np.float32).T for v in (choice.step, choice.qmax - zero, zero - choice.qmin))
    return np.asarray(empirical_distortion(histogram, step, top, bottom), np.float64).T


def _sensitivities(
    q: QuantizedNetwork, images: np.ndarray, size: int, seed: int, batch_done: Callable[[], None]
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Return, per image, E[Σ g²] of every feature map and E[g²] of every weight; g: gradient of a projected logit."""
    graph, key = q.graph.up_to_logits(), jax.random.key(seed)
    feature_maps: dict[str, float] = {}
    kernels: dict[str, np.ndarray] = {}
    for number, (batch, filled) in enumerate(batches_of(images, size)):
        valid = np.arange(size) < filled
        squares = _squared_gradients(graph, q.float_network.params, batch, valid, jax.random.fold_in(key, number))
        for name, value in jax.device_get(squares[0]).items():
            feature_maps[name] = feature_maps.get(name, 0.0) + float(value) / len(images)
        for name, value in jax.device_get(squares[1]).items():
            kernels[name] = kernels.get(name, 0.0) + np.asarray(value, np.float64) / len(images)
        batch_done()
    return feature_maps, kernels


class _Disturbed(Float):
    """Float arithmetic with something added to every feature map where quantizable nodes read it."""

    def __init__(self, added: dict[str, Array]) -> None:
        self.added = added

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        if names := node.feature_maps:
            changed = (x + self.added[name] for name, x in zip(names, inputs, strict=False))
            inputs = (*changed, *inputs[len(names) :])
        return super().apply(node, params, *inputs)


@partial(jax.jit, static_argnums=0)
def _squared_gradients(
    graph: Graph, params: dict[str, Array], x: Array, valid: Array, key: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    def projected(added: dict[str, Array], kernels: dict[str, Array]) -> Array:
        logits = run(graph, {**params, **kernels}, x, _Disturbed(added)).reshape(len(x), -1)
        signs = jax.random.rademacher(key, logits.shape, logits.dtype)
        centred = (signs - jnp.mean(signs, axis=-1, keepdims=True)) / np.float32(np.sqrt(logits.shape[1]))
        return jnp.sum(jnp.where(valid[:, None], centred * logits, 0.0))

    added = {
        fm.tensor: jnp.zeros((len(x), *(size or 1 for size in graph.shape(fm.tensor)[1:])))
        for fm in graph.feature_maps()
    }
    keys = {node.name: node.param("kernel") for node in graph.quantizable}
    slopes, kernel_slopes = jax.grad(projected, argnums=(0, 1))(added, {key: params[key] for key in keys.values()})
    return (
        {name: jnp.sum(jnp.square(slope)) for name, slope in slopes.items()},
        {name: jnp.square(kernel_slopes[key]) for name, key in keys.items()},
    )
