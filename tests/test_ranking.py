"""The rank of the true class: ties count against it, and so does what is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax._ranking import rank_of_label

NAN, INF = np.nan, np.inf
CASES = [
    ([3.0, 1.0, 2.0], 0, 0),
    ([3.0, 1.0, 2.0], 1, 2),
    ([3.0, 3.0, 2.0], 0, 1),
    ([3.0, 3.0, 2.0], 1, 1),
    ([0.0, 0.0, 0.0], 0, 2),
    ([NAN, 1.0, 2.0], 0, 3),
    ([NAN, 1.0, 2.0], 2, 3),
    ([1.0, INF, 2.0], 1, 3),
    ([1.0, INF, 2.0], 2, 1),
    ([-INF, 1.0, -INF], 1, 0),
]


@pytest.mark.parametrize("compiled", [False, True])
def test_ranks(compiled):
    logits, labels, expected = (np.asarray(part) for part in zip(*CASES, strict=True))
    logits = logits.astype(np.float32)
    ranks = jax.jit(rank_of_label)(logits, labels) if compiled else rank_of_label(logits, labels)
    np.testing.assert_array_equal(ranks, expected)
    np.testing.assert_array_equal(rank_of_label(jnp.asarray(logits), jnp.asarray(labels)), expected)


def test_a_network_that_collapsed_is_never_right():
    images, labels = np.zeros((20, 3), np.float32), np.zeros(20, int)
    flat = gd.quantization.accuracy(lambda x: np.zeros((len(x), 10), np.float32), [(images, labels)])
    assert (flat.top1, flat.top5, flat.not_finite) == (0.0, 0.0, 0)
    broken = gd.quantization.accuracy(lambda x: np.full((len(x), 10), NAN, np.float32), [(images, labels)])
    assert (broken.top1, broken.not_finite) == (0.0, 20)


@pytest.mark.parametrize("objective", ["top1", "top5", "agreement"])
def test_no_search_prefers_a_network_that_collapsed(objective):
    from ggdjax.tune._objectives import score_and_loss

    reference = jnp.eye(10)[:4]
    score, _ = score_and_loss(jnp.zeros((4, 10)), jnp.arange(4), reference, objective=objective)
    np.testing.assert_array_equal(score, 0.0)
