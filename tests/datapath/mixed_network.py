"""A small network with what the embedded one lacks: groups, strides, uneven windows, tables, weights per channel."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx

import ggdjax as gd
from ggdjax import datapath


def _kernel(key, shape, dtype=jnp.float32):
    del key
    return jnp.asarray(np.random.default_rng(shape[0]).normal(scale=np.prod(shape[:-1]) ** -0.5, size=shape), dtype)


class Mixed(nnx.Module):
    """Strided, depthwise and grouped convolutions, uneven averages, a table, a difference."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(2, 8, (3, 3), strides=(2, 1), kernel_init=_kernel, rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, kernel_init=_kernel, rngs=rngs)
        self.grouped = nnx.Conv(
            8, 8, (3, 2), feature_group_count=2, kernel_dilation=(1, 2), kernel_init=_kernel, rngs=rngs
        )
        self.head = nnx.Linear(16, 3, kernel_init=_kernel, rngs=rngs)

    def __call__(self, x):
        x = nnx.silu(self.stem(x))
        x = nnx.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=False)
        a = self.depthwise(x)
        b = nnx.max_pool(self.grouped(a), (2, 2), strides=(1, 1), padding="SAME")
        x = jnp.concatenate([a - b, nnx.relu(b)], axis=-1)
        return self.head(jnp.max(x, axis=(1, 2)))


def mixed_program(by_largest) -> tuple[datapath.Program, np.ndarray]:
    """Return the network as a program, weights per channel, and images for it."""
    net = gd.trace(Mixed(nnx.Rngs(0)), jnp.zeros((1, 6, 7, 2)))
    x = np.random.default_rng(0).normal(size=(8, 6, 7, 2)).astype(np.float32)
    return datapath.compile(by_largest(net, x, per_channel=True)), x
