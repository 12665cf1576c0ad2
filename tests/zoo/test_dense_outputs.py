"""Networks that give a value per pixel: shapes, traces, integers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ggdjax as gd
from ggdjax import zoo


@pytest.mark.parametrize(
    ("build", "shape", "out"),
    [
        (lambda: zoo.UNet(num_classes=3, rngs=nnx.Rngs(0), chans=(4, 8)), (8, 12, 3), (8, 12, 3)),
        (lambda: zoo.ESPCN(factor=3, rngs=nnx.Rngs(0)), (6, 5, 1), (18, 15, 1)),
    ],
)
def test_traced_quantized_and_in_integers(build, shape, out):
    module = build()
    module.eval()
    x = np.random.default_rng(0).uniform(size=(4, *shape)).astype(np.float32)
    net = gd.trace(module, jnp.zeros((1, *shape)))
    assert net(x).shape == (4, *out)
    np.testing.assert_allclose(net(x), module(x), rtol=1e-4, atol=1e-4)
    q = gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(scheme="max-abs"))
    fake, integers = np.asarray(q(x)), np.asarray(gd.datapath.compile(q)(x))
    assert np.square(fake - integers).mean() < 1e-4 * np.square(fake).mean()


def test_channels_become_pixels_in_order():
    module = zoo.ESPCN(factor=2, rngs=nnx.Rngs(0))
    module.pixels.kernel.set_value(jnp.zeros_like(module.pixels.kernel.get_value()))
    module.pixels.bias.set_value(jnp.arange(4.0))
    np.testing.assert_array_equal(module(jnp.zeros((1, 1, 1, 1)))[0, :, :, 0], [[0, 1], [2, 3]])
