"""Multiply-accumulates and parameters, node by node, against counts by hand."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from ggdjax._errors import GgdjaxError
from ggdjax.network import count_macs, count_parameters, fold_batch_norm, node_counts, trace


class Small(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(4, 6, (3, 5), strides=2, padding="VALID", rngs=rngs)
        self.grouped = nnx.Conv(6, 12, (3, 3), feature_group_count=3, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(12, use_running_average=True, rngs=rngs)
        self.dense = nnx.Linear(12, 5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.grouped(nnx.relu(self.conv(x)))))
        return self.dense(jnp.mean(x, axis=(1, 2)))


def test_counts_by_hand():
    net = trace(Small(nnx.Rngs(0)), jax.ShapeDtypeStruct((1, 11, 15, 4), jnp.float32))
    counts = {count.name: (count.op, count.macs, count.parameters) for count in node_counts(net)}
    assert counts["conv"] == ("conv", 5 * 6 * 6 * (3 * 5 * 4), 3 * 5 * 4 * 6 + 6)
    assert counts["grouped"] == ("conv", 5 * 6 * 12 * (3 * 3 * 2), 3 * 3 * 2 * 12)
    assert counts["dense"] == ("dense", 12 * 5, 12 * 5 + 5)
    assert sum(parameters for op, _, parameters in counts.values() if op == "affine") == 2 * 12
    assert count_macs(net) == sum(macs for _, macs, _ in counts.values())
    assert count_parameters(net) == sum(parameters for _, _, parameters in counts.values())
    folded = fold_batch_norm(net)
    assert count_macs(folded) == count_macs(net)
    assert count_parameters(folded) == count_parameters(net) - 12  # a bias where a scale and a shift were


def test_abstract_parameters_count():
    net = trace(Small(nnx.Rngs(0)), jax.ShapeDtypeStruct((1, 11, 15, 4), jnp.float32))
    abstract = jax.eval_shape(lambda: net)
    assert node_counts(abstract) == node_counts(net)
    assert count_parameters(abstract) == count_parameters(net)


def test_a_batch_that_is_not_first():
    net = trace(lambda x: jnp.einsum("bhc,cd->hbd", x, jnp.ones((3, 2))) @ jnp.ones((2, 2)), jnp.ones((2, 4, 3)))
    assert [count.macs for count in node_counts(net)] == [4 * 3 * 2, 4 * 2 * 2, 0]
    shapes = tuple((tensor, shape[1::-1] + shape[2:]) for tensor, shape in net.graph.shapes)
    with pytest.raises(GgdjaxError, match="depends on the batch size"):
        node_counts(replace(net, graph=replace(net.graph, shapes=shapes)))
