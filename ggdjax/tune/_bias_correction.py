"""Bias correction: take the mean error that quantization causes in each channel from the bias."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import DataError, expect, expect_array
from ggdjax.network import Float, run
from ggdjax.network._ops import QUANTIZABLE
from ggdjax.quantization import FakeQuant, Stage
from ggdjax.quantization._batches import batches_of
from ggdjax.quantization._quantize import changed_bias
from ggdjax.quantization._record import image_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jax.typing import ArrayLike
    from jaxtyping import Array
    from jaxtyping import Float as Real

    from ggdjax.network import Graph, Node
    from ggdjax.quantization import QuantizedNetwork, Quantizers


def correct_biases(
    q: QuantizedNetwork,
    images: Real[ArrayLike, "image ..."],
    *,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> QuantizedNetwork:
    """Return the network with the mean error of every layer's output channels taken from its biases.

    M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-Free Quantization Through Weight Equalization and Bias
    Correction", ICCV 2019, section 4.2, empirical form: layer after layer in order, so that a layer sees its
    predecessors corrected; bias −= E[quantized output] − E[float output] over images and positions. The biases get
    the fractional length of least squared error at their width; those on the accumulator's grid
    (`ggdjax.datapath.align`, QDQ files) stay on it. A layer without a bias is left as it is.

    Costs one pass of the quantized network per layer, and one of the float network; memory does not depend on the
    number of images.

    Args:
        q: what :func:`ggdjax.quantize` or a tuner returned.
        images: in the layout of the network's input; the calibration images will do.
        batch_size: images per pass.
        progress: called after every layer with the layers done and their number.

    Raises:
        GgdjaxError: ``batch_size`` less than 1.
        DataError: no images, or images that do not fit the network.
    """
    expect("q", q, "QuantizedNetwork")
    images = expect_array("images", images, "an array of images", least_rank=1, error=DataError)
    images = np.asarray(images, np.float32)
    if not len(images):
        raise DataError("`images` is empty: give at least one to correct biases on")
    q.network.check_input(images)
    graph, params, biases = q.graph, dict(q.params), dict(q.quantizers.biases)
    layers = [node for node in graph.quantizable if node.name in biases]
    real = _means(partial(_float_means, graph, q.float_network.params), images, batch_size)
    errors = []
    for done, node in enumerate(layers, start=1):
        key = dict(node.params)["bias"]
        quantizers = replace(q.quantizers, biases=biases)
        rounded = _means(partial(_quantized_means, graph, params, quantizers), images, batch_size)
        error = rounded[node.name] - real[node.name]
        errors.append(float(np.sqrt(np.mean(np.square(error)))))
        params[key] = params[key] - jnp.asarray(error, jnp.float32)
        biases[node.name] = changed_bias(node, params[key], q.quantizers)
        if progress is not None:
            progress(done, len(layers))
    stage = Stage(
        name="bias_correction",
        images=len(images),
        image_hash=image_hash(images),
        figures={"mean_error": dict(zip((node.name for node in layers), errors, strict=True))},
    )
    return q.changed(stage, params=params, quantizers=replace(q.quantizers, biases=biases))


def _means(
    sums: Callable[[np.ndarray, np.ndarray], dict[str, Array]], images: np.ndarray, size: int
) -> dict[str, np.ndarray]:
    """Return the mean of each output channel of each layer over all images; ``sums`` adds it up over a batch."""
    total: dict[str, np.ndarray] = {}
    for batch, count in batches_of(images, size):
        for name, value in jax.device_get(sums(batch, np.arange(size) < count)).items():
            total[name] = total.get(name, 0.0) + value.astype(np.float64)
    return {name: value / len(images) for name, value in total.items()}


class _Means:
    """Mixed into a numerics: adds up, over the valid images, the mean of each channel that leaves a layer."""

    def __init__(self, valid: Array, *args: Quantizers) -> None:
        super().__init__(*args)
        self.valid = valid
        self.sums: dict[str, Array] = {}

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        y = super().apply(node, params, *inputs)
        if node.op in QUANTIZABLE:
            per_image = y.reshape(len(y), -1, y.shape[-1]).mean(1)
            self.sums[node.name] = jnp.sum(jnp.where(self.valid[:, None], per_image, 0.0), axis=0)
        return y


class _FloatMeans(_Means, Float):
    """Float arithmetic that adds up means."""


class _QuantizedMeans(_Means, FakeQuant):
    """Fake quantization that adds up means."""


@partial(jax.jit, static_argnums=0)
def _float_means(graph: Graph, params: dict[str, Array], x: Array, valid: Array) -> dict[str, Array]:
    numerics = _FloatMeans(valid)
    run(graph, params, x, numerics)
    return numerics.sums


@partial(jax.jit, static_argnums=0)
def _quantized_means(
    graph: Graph, params: dict[str, Array], quantizers: Quantizers, x: Array, valid: Array
) -> dict[str, Array]:
    numerics = _QuantizedMeans(valid, quantizers)
    run(graph, params, x, numerics)
    return numerics.sums
