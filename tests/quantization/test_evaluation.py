from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ggdjax._errors import DataError
from ggdjax.quantization import accuracy, calibrate, evaluate
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
    for judge in (lambda *batch: evaluate(q, [batch]), lambda *batch: accuracy(q, [batch])):
        with pytest.raises(DataError, match="a batch holds 6 images, but 8 labels"):
            judge(IMAGES[:6], LABELS[:8])
        with pytest.raises(DataError, match="the network expects"):
            judge(IMAGES[:, :3], LABELS)
        with pytest.raises(DataError, match="label 3 is outside"):
            judge(IMAGES, LABELS + 1)


def test_batches_without_images_change_nothing() -> None:
    quantized = partly_float()
    full, empty = (IMAGES, LABELS), (IMAGES[:0], LABELS[:0])
    expected = accuracy(quantized, [full])
    assert accuracy(quantized, [empty, full, empty]) == expected
    assert evaluate(quantized, [empty, full, empty]).quantized_accuracy == expected
    for judge in (accuracy, evaluate):
        with pytest.raises(DataError, match="no images"):
            judge(quantized, [empty])
