from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax import data, datapath, zoo
from ggdjax.network import fold_batch_norm, run
from ggdjax.quantization import FakeQuant, QuantizedNetwork, Quantizers, Record
from ggdjax.steps import Quantizer


@pytest.fixture(scope="session")
def images():
    """128 digits to calibrate on, 64 others."""
    digits = data.digits()
    return tuple(next(digits.batches(np.arange(k, k + n), n))[0] for k, n in ((0, 128), (768, 64)))


@pytest.fixture(scope="session")
def digits(images):
    """Quantize the embedded network to 8 bits, biases on the accumulator's grid."""
    net = gd.trace(zoo.digits_net(), jnp.zeros((1, 8, 8, 1)))
    return datapath.align(gd.quantize(net, gd.calibrate(net, [images[0]])))


@pytest.fixture(scope="session")
def by_largest():
    """Return a function that quantizes a network by largest magnitudes, 8 bits: no fit has to be compiled."""
    return quantize_by_largest


def quantize_by_largest(net, x, *, per_channel: bool = False) -> QuantizedNetwork:
    net = fold_batch_norm(net)
    observed = FakeQuant(Quantizers())
    jax.eval_shape(lambda x: run(net.graph, net.params, x, observed), x)
    names = list(observed.feature_maps)

    def maps(x):
        numerics = FakeQuant(Quantizers())
        run(net.graph, net.params, x, numerics)
        return [numerics.feature_maps[name] for name in names]

    activations, weights = {}, {}
    for name, values in zip(names, jax.jit(maps)(x), strict=True):
        quantizer = Quantizer(step=jnp.float32(1), bits=8, signed=float(values.min()) < 0)
        activations[name] = replace(quantizer, step=jnp.max(jnp.abs(values)) / np.float32(quantizer.qmax))
    for node in net.graph.quantizable:
        kernel = np.asarray(net.params[node.param("kernel")])
        peak = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1))) if per_channel else np.abs(kernel).max()
        weights[node.name] = Quantizer.fixed_point(np.floor(np.log2(127 / peak)).astype(np.int32), 8)
    return datapath.align(
        QuantizedNetwork(
            graph=net.graph,
            params=net.params,
            quantizers=Quantizers(activations=activations, weights=weights),
            record=Record(float_network=net, calibration=gd.calibrate(net, [x])),
        )
    )
