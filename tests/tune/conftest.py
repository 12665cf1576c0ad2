"""The digits network, calibrated, with tuning and held-out images."""

from __future__ import annotations

import pytest

from ggdjax.quantization import QuantConfig, calibrate, quantize


@pytest.fixture(scope="session")
def net():
    import jax.numpy as jnp

    from ggdjax.network import fold_batch_norm, trace
    from ggdjax.zoo._digits import digits_net

    return fold_batch_norm(trace(digits_net(), jnp.zeros((1, 8, 8, 1))))


def _part(name: str, count: int):
    from ggdjax.data import digits

    images = digits()
    return next(images.batches(images.parts[name][:count], count))


@pytest.fixture(scope="session")
def train():
    return _part("train", 128)


@pytest.fixture(scope="session")
def test_set():
    return _part("test", 500)


@pytest.fixture(scope="session")
def calibration(net):
    images, _ = _part("calibration", 256)
    return calibrate(net, [images[i : i + 64] for i in range(0, 256, 64)])


@pytest.fixture(scope="session")
def coarse(net, calibration):
    """The network at 3 bits: coarse enough that tuning has something to win."""
    # A scheme that compiles fast: these tests are about what comes after it.
    return quantize(net, calibration, QuantConfig(weight_bits=3, activation_bits=3, scheme="octav"))
