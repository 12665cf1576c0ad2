"""Evaluation of a small network that was quantized in part: one layer and its input stay in float."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax._errors import DataError
from ggdjax.network import trace
from ggdjax.quantization import QuantConfig, QuantizedNetwork, accuracy, calibrate, evaluate, quantize

IMAGES = np.random.default_rng(0).integers(0, 9, (12, 4)).astype(np.uint8)
LABELS = np.arange(12) % 3


@pytest.fixture(scope="module")
def partly() -> QuantizedNetwork:
    kernel = np.random.default_rng(1).standard_normal((4, 4), np.float32)
    net = trace(lambda x: jax.nn.relu(x @ kernel) @ kernel[:, :3], jnp.zeros((1, 4)))
    q = quantize(net, calibrate(net, [IMAGES]), QuantConfig(activation_bits=4, scheme="max-abs"))
    first, last = (node.name for node in q.network.graph.quantizable)
    params = dataclasses.replace(
        q.params,
        activations={"input": q.params.activations["input"]},
        weights={first: q.params.weights[first]},
        biases={},
    )
    assert last not in params.weights
    return dataclasses.replace(q, params=params, calibration=None, fit=None)


def test_a_feature_map_in_float_has_only_the_errors_before_it(partly: QuantizedNetwork) -> None:
    found = evaluate(partly, [(IMAGES[:8], LABELS[:8]), (IMAGES[8:], LABELS[8:])])
    alone, accumulated = found.sqnr_db.values(), found.accumulated_sqnr_db.values()
    assert [math.isinf(value) for value in alone] == [False, True]
    assert not any(map(math.isinf, accumulated))
    assert found.quantized_accuracy == accuracy(partly, [(IMAGES, LABELS)])


def test_what_cannot_be_evaluated_is_an_error(partly: QuantizedNetwork) -> None:
    for judge in (lambda batch: evaluate(partly, [batch]), lambda batch: accuracy(partly, [batch])):
        with pytest.raises(DataError, match="a batch holds 6 images, but 8 labels"):
            judge((IMAGES[:6], LABELS[:8]))
        with pytest.raises(DataError, match="the network expects"):
            judge((IMAGES[:, :3], LABELS))
        with pytest.raises(DataError, match="label 3 is outside"):
            judge((IMAGES, LABELS + 1))
