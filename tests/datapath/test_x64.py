"""Programs give the same integers where 64-bit types are on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax import datapath

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6, 6, 4)).astype(np.float32)
KERNELS = {groups: RNG.normal(size=(3, 3, 4 // groups, 4)).astype(np.float32) for groups in (1, 2, 4)}
W = RNG.normal(size=(3, 4, 4)).astype(np.float32)


def network(x):
    for groups, kernel in KERNELS.items():
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )
        x = jax.nn.silu(y + x) * jax.nn.sigmoid(y.mean((1, 2), keepdims=True))
    y = jax.nn.sigmoid(x.mean((1, 2)) @ W[0])
    return jnp.argmax(y @ W[1], axis=-1), y @ W[2]


@pytest.mark.parametrize("bits", [8, 16])
def test_programs_do_not_depend_on_64_bit_types(bits):
    net = gd.trace(network, X[:1])
    config = gd.QuantConfig(scheme="max-abs", weight_bits=8, activation_bits=bits)
    q = gd.quantize(net, gd.calibrate(net, [X]), config)
    program = datapath.compile(q, datapath.Accelerator().widened(q))
    wanted = program.integers(X), program.codes(X)
    with jax.enable_x64(True):
        found = program.integers(X), program.codes(X)
        assert program.run(X).overflows == 0
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
