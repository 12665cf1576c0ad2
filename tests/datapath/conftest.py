from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax import data, datapath, zoo
from ggdjax.network import fold_batch_norm, run
from ggdjax.quantization import FakeQuant, FixedPoint, QuantizedNetwork, QuantParams
from ggdjax.schemes import Range


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
    observed = FakeQuant(QuantParams(activations={}, weights={}, biases={}))
    jax.eval_shape(lambda x: run(net.graph, net.params, x, observed), x)
    names = list(observed.feature_maps)

    def maps(x):
        numerics = FakeQuant(QuantParams(activations={}, weights={}, biases={}))
        run(net.graph, net.params, x, numerics)
        return [numerics.feature_maps[name] for name in names]

    activations, weights = {}, {}
    for name, values in zip(names, jax.jit(maps)(x), strict=True):
        qmin = -128 if float(values.min()) < 0 else 0
        qmin, qmax, zero = (jnp.int32(v) for v in (qmin, qmin + 255, 0))
        step = jnp.max(jnp.abs(values)) / qmax.astype(jnp.float32)
        activations[name] = Range(step=step, qmin=qmin, qmax=qmax, zero_point=zero, code=zero)
    for node in net.graph.quantizable:
        kernel = np.asarray(net.params[node.param("kernel")])
        peak = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1))) if per_channel else np.abs(kernel).max()
        frac_bits = jnp.asarray(np.floor(np.log2(127 / peak)), jnp.int32)
        weights[node.name] = FixedPoint(frac_bits=frac_bits, bits=jnp.int32(8))
    calibration = gd.calibrate(net, [x])
    parts = {name: None for name in QuantizedNetwork.__dataclass_fields__}
    parts |= {"network": net, "calibration": calibration, "config": gd.QuantConfig()}
    parts["adjusted"] = {}
    parts["params"] = QuantParams(activations=activations, weights=weights, biases={})
    return datapath.align(QuantizedNetwork(**parts))
