from __future__ import annotations

import math
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax._errors import DataError
from ggdjax.network import trace
from ggdjax.quantization import accuracy, calibrate, evaluate, quantize
from tests.partly_float import IMAGES, LABELS, partly_float


def test_a_feature_map_in_float_has_only_the_errors_before_it() -> None:
    q = partly_float()
    found = evaluate(q, [(IMAGES[:8], LABELS[:8]), (IMAGES[8:].astype(np.int8), LABELS[8:])])
    assert [math.isinf(value) for value in found.sqnr_db.values()] == [False, True]
    assert not any(map(math.isinf, found.accumulated_sqnr_db.values()))
    assert found.quantized_accuracy == accuracy(q, [(IMAGES, LABELS)])


def test_a_feature_map_in_float_has_no_prediction() -> None:
    q = partly_float()
    record = replace(q.record, calibration=calibrate(q.network, [IMAGES]))
    assert np.isnan(list(replace(q, record=record).predicted_sqnr_db.values())).tolist() == [True]


def test_what_cannot_be_evaluated_is_an_error() -> None:
    q = partly_float()
    for measure in (lambda *batch: evaluate(q, [batch]), lambda *batch: accuracy(q, [batch])):
        with pytest.raises(DataError, match="a batch holds 6 images, but 8 labels"):
            measure(IMAGES[:6], LABELS[:8])
        with pytest.raises(DataError, match="the network expects"):
            measure(IMAGES[:, :3], LABELS)
        with pytest.raises(DataError, match="label 3 is outside"):
            measure(IMAGES, LABELS + 1)


def test_batches_without_images_change_nothing() -> None:
    quantized = partly_float()
    full, empty = (IMAGES, LABELS), (IMAGES[:0], LABELS[:0])
    expected = accuracy(quantized, [full])
    assert accuracy(quantized, [empty, full, empty]) == expected
    assert evaluate(quantized, [empty, full, empty]).quantized_accuracy == expected
    for measure in (accuracy, evaluate):
        with pytest.raises(DataError, match="no images"):
            measure(quantized, [empty])


@pytest.mark.parametrize(
    ("function", "sizes"),
    [
        (lambda x: x[:, :, None] * jnp.ones((1, 1, 3)), "4 × 3"),
        (lambda x: x[:, None, :, None] * jnp.ones((1, 1, 1, 3)), "1 × 4 × 3"),
        (lambda x: x.reshape(-1, 2, 2), "2 × 2"),
    ],
)
def test_a_map_is_quantized_but_not_scored_as_classes(function, sizes) -> None:
    net = trace(lambda x: function(x @ jnp.eye(4)), jnp.zeros((1, 4)))
    x, labels = np.ones((6, 4), np.float32), np.arange(6) % 3
    q = quantize(net, calibrate(net, [x]))
    for measure in (
        lambda: evaluate(q, [(x, labels)]),
        lambda: accuracy(net, [(x, labels)]),
        lambda: accuracy(q, [(x, labels)]),
    ):
        with pytest.raises(DataError, match=f"the network gives a map of {sizes} values per image, no score per class"):
            measure()


@pytest.mark.parametrize(
    "function",
    [lambda x: x[:, :, None, None], lambda x: x[:, None, None], lambda x: x[:, None], lambda x: x.reshape(-1)],
)
def test_axes_of_size_one_and_a_merged_batch_are_scored(function) -> None:
    net = trace(lambda x: function(x @ jnp.eye(4)), jnp.zeros((1, 4)))
    x, labels = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0, 1]], np.array([0, 1, 2, 3, 1, 0])
    batches = [(x[:4], labels[:4]), (x[4:], labels[4:])]
    assert accuracy(net, batches).top1 == 4 / 6
    assert evaluate(quantize(net, calibrate(net, [x])), batches).float_accuracy.top1 == 4 / 6


def test_labels_of_any_kind_are_left_out_of_calibration() -> None:
    net = trace(lambda x: x @ jnp.eye(4), jnp.zeros((1, 4)))
    x = np.linspace(0, 1, 24, dtype=np.float32).reshape(6, 4)
    wanted = calibrate(net, [x]).histograms
    for labels in (np.arange(6), list(range(6)), np.eye(6), None, ["a"] * 6, {"class": 1}):
        for images in (x, x.tolist(), list(x)):
            found = calibrate(net, [(images, labels)]).histograms
            assert all((a.counts == b.counts).all() for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize(
    "batch", [{"image": IMAGES}, None, "images", 3, IMAGES.astype(complex), [[1.0, 2.0], [3.0]], {1, 2}, object()]
)
def test_batches_that_are_no_arrays_give_one_line(batch) -> None:
    q = partly_float()
    for measure in (lambda b: calibrate(q.network, [b]), lambda b: evaluate(q, [b]), lambda b: accuracy(q, [b])):
        with pytest.raises(DataError) as error:
            measure(batch)
        assert "\n" not in str(error.value)
        assert not isinstance(batch, dict) or "for b in batches" in str(error.value)
