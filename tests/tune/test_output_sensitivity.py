"""What rounding one feature map or layer alone does to the output, against doing just that."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax._errors import DataError
from ggdjax.quantization import Quantizers
from ggdjax.report._page import _output


@pytest.fixture(scope="module")
def quantized():
    x, first, second = (
        np.asarray(jax.random.normal(jax.random.key(i), shape)) for i, shape in enumerate(((40, 6), (6, 8), (8, 3)))
    )
    net = gd.trace(lambda x: jax.nn.softmax(jax.nn.relu(x @ first + 0.1) @ second - 0.2), x[:1])
    config = gd.QuantConfig(weight_bits=4, activation_bits=4, scheme="max-abs")
    return gd.quantize(net, gd.calibrate(net, [x]), config), x


def test_each_is_what_rounding_that_one_alone_gives(quantized):
    q, x = quantized
    found = gd.tune.sensitivity(q, x, batch_size=16)
    empty, own = Quantizers(activations={}, weights={}, biases={}), q.quantizers
    real = np.log(np.asarray(q.float_network(x), np.float64))
    assert found.images == 40
    alone = {name: replace(q, quantizers=replace(empty, activations={name: a})) for name, a in own.activations.items()}
    for node in q.graph.quantizable:
        key = node.param("bias")
        params = {**q.params, key: own.bias(node)(q.params[key])}  # on the accumulator's grid
        weights = {node.name: own.weights[node.name]}
        alone[node.name] = replace(q, params=params, quantizers=replace(empty, weights=weights))
    alone["network"] = q
    changes = {**found.feature_maps, **found.weights, "network": found.network}
    assert list(changes) == list(alone)
    for name, changed in alone.items():
        p = np.asarray(changed(x), np.float64)
        kl = np.sum(np.exp(real) * (real - np.log(p)), -1).mean()
        np.testing.assert_allclose(changes[name].kl, kl, rtol=2e-3, atol=1e-7)
        assert changes[name].cosine < 1


def test_sqnr_and_cosine_are_of_logits(quantized):
    q, x = quantized
    logits = jax.jit(lambda net, x: net(x))
    bare = gd.trace(lambda x: x @ q.params[q.graph.quantizable[0].param("kernel")], x[:1])
    small = gd.quantize(bare, gd.calibrate(bare, [x]), gd.QuantConfig(weight_bits=3, scheme="max-abs"))
    found = gd.tune.sensitivity(small, x)
    real, rounded = (np.asarray(logits(net, jnp.asarray(x)), np.float64) for net in (bare, small))
    error = np.sum(np.square(real - rounded))
    assert found.network.sqnr_db == pytest.approx(10 * np.log10(np.sum(real**2) / error), abs=1e-3)
    cosines = np.sum(real * rounded, -1) / np.linalg.norm(real, axis=-1) / np.linalg.norm(rounded, axis=-1)
    assert found.network.cosine == pytest.approx(cosines.mean(), abs=1e-6)
    assert found.to_dict()["network"]["cosine"] == found.network.cosine


def test_table_and_rows(quantized):
    found = gd.tune.sensitivity(*quantized)
    rows = found.rows()
    assert [row["rounded"] for row in rows] == ["feature map"] * 2 + ["weights"] * 2 + ["all"]
    assert gd.report.sensitivity_table(found).row_count == 5
    page = _output({"images": found.images, "rows": rows})
    assert page.count('<tr class="output"') == 5
    assert _output(None) == ""
    with pytest.raises(DataError, match="`images` is empty"):
        gd.tune.sensitivity(quantized[0], np.zeros((0, 6)))
