from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax import tune
from ggdjax._errors import GgdjaxError
from ggdjax.tune._objectives import score_and_loss
from tests.partly_float import IMAGES, LABELS, partly_float


def test_backward_forward_changes_what_is_quantized() -> None:
    config = tune.TuneConfig(objective="cross_entropy", factors=(0.8, 1.0, 1.25), sweeps=1, rows=12)
    history = tune.backward_forward(partly_float(), IMAGES, LABELS, config).history
    last, first = history.decisions
    assert (last.evaluations, last.change) == (0, "")
    assert first.evaluations > 0
    assert history.score >= history.start_score


def test_gradients_leave_the_float_layer_alone() -> None:
    q = partly_float()
    tuned = tune.gradient(q, IMAGES, config=tune.GradientConfig(steps=5, batch_size=12))
    first = q.network.graph.quantizable[0]
    assert tuned.history.kept
    changed = {key for key in q.params if not np.array_equal(tuned.params[key], q.params[key])}
    assert changed == {first.param("kernel"), first.param("bias")}


def test_widths_need_a_calibration() -> None:
    with pytest.raises(GgdjaxError, match="`q` has no calibration"):
        tune.allocate_bits(partly_float(), IMAGES, budget=4.0)


def test_logits_that_are_no_numbers_are_wrong() -> None:
    logits, labels = jnp.asarray([[1.0, jnp.nan], [1.0, 2.0]]), jnp.asarray([1, 1])
    score, _ = score_and_loss(logits, labels, logits, objective="top1")
    np.testing.assert_array_equal(score, [0, 1])
