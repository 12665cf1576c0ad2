from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax.network import Float, _chunks, run


@pytest.fixture
def net():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 2, 4))

    def function(x):
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(y).mean((1, 2)), y

    return gd.trace(function, jnp.zeros((1, 6, 6, 2)))


@pytest.mark.parametrize(("images", "count"), [(11, 4), (3, 3), (1, 1)])
def test_chunks_cover_the_batch_in_order(net, monkeypatch, images, count):
    monkeypatch.setattr(_chunks, "LEAST_VALUES", 1)
    found = _chunks.chunks_of(net.graph, images)
    assert len(found) == count
    assert np.concatenate([np.arange(images)[chunk] for chunk in found]).tolist() == list(range(images))


def test_a_small_batch_is_one_chunk(net):
    assert _chunks.chunks_of(net.graph, 100) == [slice(0, 100)]


def test_values_and_gradients_are_those_of_one_run(net, monkeypatch):
    monkeypatch.setattr(_chunks, "LEAST_VALUES", 1)
    x = jax.random.normal(jax.random.key(1), (10, 6, 6, 2))

    def loss(run_it):
        return jax.jit(jax.value_and_grad(lambda params: sum(jnp.sin(y).sum() for y in run_it(params))))

    ours = loss(lambda params: _chunks.run_in_chunks(net.graph, params, x, Float))(net.params)
    theirs = loss(lambda params: run(net.graph, params, x, Float()))(net.params)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
