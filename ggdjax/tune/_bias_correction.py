"""Bias correction: take the mean error that quantization causes in each channel from the bias."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from ggdjax._errors import DataError, GgdjaxError, expect, expect_array
from ggdjax.quantization import Stage
from ggdjax.quantization._quantize import changed_bias
from ggdjax.quantization._record import image_hash
from ggdjax.tune._walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from jax.sharding import Mesh
    from jax.typing import ArrayLike
    from jaxtyping import Float as Real

    from ggdjax.quantization import QuantizedNetwork


def correct_biases(
    q: QuantizedNetwork,
    images: Real[ArrayLike, "image ..."],
    *,
    batch_size: int = 64,
    memory_bytes: int | None = None,
    mesh: Mesh | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> QuantizedNetwork:
    """Return the network with the mean error of every layer's output channels taken from its biases.

    M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-Free Quantization Through Weight Equalization and Bias
    Correction", ICCV 2019, section 4.2, empirical form: layer after layer in order, so that a layer sees its
    predecessors corrected; bias −= E[quantized output] − E[float output] over images and positions. The biases get
    the fractional length of least squared error at their width; those on the accumulator's grid
    (`ggdjax.datapath.align`, QDQ files) stay on it. A layer without a bias is left as it is.

    Costs one pass of the quantized network and one of the float network.

    Args:
        q: what :func:`ggdjax.quantize` or a tuner returned.
        images: in the layout of the network's input; the calibration images will do.
        batch_size: images that run at once.
        memory_bytes: tensors of all images beyond this are kept in temporary files; None: a quarter of the machine's
            memory.
        mesh: devices that share the images of a batch, with axes of any name; None: all of this process.
        progress: called after every layer with the layers done and their number.

    Raises:
        GgdjaxError: ``batch_size`` less than 1, or a disk too full for the tensors beyond ``memory_bytes``.
        DataError: no images, or images that do not fit the network.
    """
    expect("q", q, "QuantizedNetwork")
    images = expect_array("images", images, "an array of images", least_rank=1, error=DataError)
    images = np.asarray(images, np.float32)
    if not len(images):
        raise DataError("`images` is empty: give at least one to correct biases on")
    q.network.check_input(images)
    if batch_size < 1:
        raise GgdjaxError(f"`batch_size` must be at least 1, got {batch_size}")
    graph = q.graph
    layers = [node for node in graph.quantizable if node.name in q.quantizers.biases]
    errors = []
    with tempfile.TemporaryDirectory(prefix="ggdjax-") as folder:
        walk = Walk(q, images, batch_size, memory_bytes, folder, mesh)
        for done, node in enumerate(layers, start=1):
            walk.advance(graph.index(node.name) + 1)
            output = walk.quantized[node.output]
            axes = tuple(range(output.ndim - 1))
            error = np.mean(output, axes, np.float64) - np.mean(walk.float[node.output], axes, np.float64)
            errors.append(float(np.sqrt(np.mean(np.square(error)))))
            key, before = node.param("bias"), walk.held_bias(node)
            walk.params[key] = walk.params[key] - jnp.asarray(error, jnp.float32)
            walk.biases[node.name] = changed_bias(node, walk.params[key], q.quantizers)
            output += walk.held_bias(node) - before
            if progress is not None:
                progress(done, len(layers))
    stage = Stage(
        name="bias_correction",
        images=len(images),
        image_hash=image_hash(images),
        figures={"mean_error": dict(zip((node.name for node in layers), errors, strict=True))},
    )
    return q.changed(stage, params=walk.params, quantizers=replace(q.quantizers, biases=walk.biases))
