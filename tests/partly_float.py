"""A small network of which one layer and its input stay in float, its classes along the second of four axes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax.network import trace
from ggdjax.quantization import QuantizedNetwork, Quantizers, Record
from ggdjax.steps import Quantizer

IMAGES = np.random.default_rng(0).integers(-8, 9, (12, 4)).astype(np.float32)
LABELS = np.arange(12) % 3


def partly_float() -> QuantizedNetwork:
    """Return two dense layers, of which the first is quantized, coarsely."""
    kernel = np.random.default_rng(1).standard_normal((4, 4), np.float32)
    net = trace(lambda x: (jax.nn.relu(x @ kernel + 1.0) @ kernel[:, :3])[:, :, None, None], jnp.zeros((1, 4)))
    name = net.graph.quantizable[0].name

    fixed = Quantizer.fixed_point
    return QuantizedNetwork(
        graph=net.graph,
        params=net.params,
        quantizers=Quantizers(
            activations={"input": fixed(-1, 3)}, weights={name: fixed(1, 3)}, biases={name: fixed(4, 8)}
        ),
        record=Record(float_network=net),
    )
