from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax._errors import GgdjaxError
from ggdjax.tune import GradientConfig, gradient
from ggdjax.tune._selective import selected

BUDGET = GradientConfig(steps=40, batch_size=32)


@pytest.fixture(scope="module")
def tuned(coarse, train):
    seen = []
    images, _ = train
    return gradient(coarse, images, config=BUDGET, progress=lambda step, loss: seen.append((step, loss))), seen


def test_lowers_the_divergence_and_wins_accuracy(coarse, tuned, test_set):
    result, _ = tuned
    assert result.history.kept
    assert result.history.after < 0.5 * result.history.before
    images, labels = test_set

    def top1(q):
        return float(np.mean(np.argmax(np.asarray(q(images)), axis=1) == labels))

    assert top1(result) > top1(coarse) + 0.02


def test_reports_progress_and_history(tuned, train):
    result, seen = tuned
    assert [step for step, _ in seen] == list(range(1, 41))
    np.testing.assert_allclose(result.history.losses, [loss for _, loss in seen], rtol=1e-6)
    assert result.history.images == len(train[0])


def test_kernels_lie_on_their_grid_within_the_bound(coarse, tuned):
    result, _ = tuned
    moved = 0
    for node in result.network.graph.quantizable:
        key = node.param("kernel")
        quantizer = result.quantizers.weights[node.name]
        kernel = result.params[key]
        np.testing.assert_array_equal(quantizer(kernel), kernel)
        codes, before = (np.asarray(quantizer.encode(w)) for w in (kernel, coarse.params[key]))
        assert np.abs(codes - before).max() <= BUDGET.offset_bound + 0.5
        moved += int((codes != before).sum())
        floats = np.asarray(coarse.params[key], np.float64)
        lost = np.sum((floats - np.asarray(kernel, np.float64)) ** 2)
        assert result.weight_sqnr_db[node.name] == pytest.approx(10 * np.log10(np.sum(floats**2) / lost), abs=1e-3)
    assert moved


def test_fractional_lengths_of_weights_stay(coarse, tuned):
    result, _ = tuned
    for name, weight in coarse.quantizers.weights.items():
        assert int(result.quantizers.weights[name].frac_bits) == int(weight.frac_bits)


def test_same_seed_same_result(coarse, tuned, train):
    first, second = tuned[0], gradient(coarse, train[0], config=BUDGET)
    np.testing.assert_array_equal(first.history.losses, second.history.losses)
    for name, x in first.quantizers.activations.items():
        assert float(x.step) == float(second.quantizers.activations[name].step)


def test_never_worse_than_the_start(coarse, train):
    wild = dataclasses.replace(BUDGET, steps=3, step_rate=5.0, offset_rate=5.0, bias_rate=5.0)
    result = gradient(coarse, train[0], config=wild)
    assert not result.history.kept
    np.testing.assert_array_equal(result(train[0][:4]), coarse(train[0][:4]))


def test_layers_that_do_harm_elsewhere_are_put_back(coarse, train):
    graph, (harmed, unharmed) = coarse.graph, [node.name for node in coarse.graph.quantizable][:2]
    kernels = {name: coarse.graph.node(name).param("kernel") for name in (harmed, unharmed)}
    better = {kernels[unharmed]: coarse.float_network.params[kernels[unharmed]]}
    changed = dataclasses.replace(
        coarse, params={**coarse.params, kernels[harmed]: 0 * coarse.params[kernels[harmed]], **better}
    )
    seen = []

    def measured(q):
        seen.append(q)
        kept = np.asarray(q.params[kernels[unharmed]] == changed.params[kernels[unharmed]]).all()
        return float(np.asarray(q.params[kernels[harmed]] == 0).all()) - 0.1 * kept

    found, loss, back = selected(graph, coarse, changed, measured)
    assert back == (harmed,)
    assert loss == pytest.approx(-0.1)
    assert len(seen) == 1 + len(graph.quantizable)
    np.testing.assert_array_equal(found.params[kernels[harmed]], coarse.params[kernels[harmed]])


def test_what_is_held_back_tunes_nothing(coarse, tuned, train):
    images, _ = train
    config = dataclasses.replace(BUDGET, held_back=0.0)
    every, result = gradient(coarse, images, config=config), tuned[0]
    assert not every.history.reverted
    assert every.history.losses.tolist() != result.history.losses.tolist()
    assert type(result.history).from_dict(result.history.to_dict()).reverted == result.history.reverted
    # One batch is left to tune on.
    assert gradient(coarse, images[:32], config=dataclasses.replace(BUDGET, steps=1)).history.reverted == ()
    with pytest.raises(GgdjaxError, match="`held_back` must be a share from 0 to below 1, got 1"):
        GradientConfig(held_back=1)


def test_layer_by_layer(coarse, train):
    nodes = len(coarse.network.graph.quantizable)
    config = dataclasses.replace(BUDGET, per_layer=True, steps=12 * nodes, objective="output")
    history = gradient(coarse, train[0], config=config).history
    assert history.after < 0.7 * history.before
    assert len(history.losses) == 12 * nodes


def test_free_weight_steps_are_tuned_too_and_labels_can_teach(coarse, train):
    images, labels = train
    free = {
        name: dataclasses.replace(weight, step=weight.step * np.float32(1.01))
        for name, weight in coarse.quantizers.weights.items()
    }
    q = dataclasses.replace(coarse, quantizers=dataclasses.replace(coarse.quantizers, weights=free))
    config = dataclasses.replace(BUDGET, objective="cross_entropy")
    result = gradient(q, images, labels, config)
    assert result.history.after < 0.5 * result.history.before
    node = result.network.graph.quantizable[0]
    step = float(result.quantizers.weights[node.name].step)
    assert step != float(free[node.name].step)
    codes = np.asarray(result.params[node.param("kernel")]) / step
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
    with pytest.raises(GgdjaxError, match="`labels` are missing"):
        gradient(coarse, images, config=config)
    with pytest.raises(GgdjaxError, match="label 10 is outside"):
        gradient(coarse, images, np.full(len(images), 10), config)


def test_tells_what_is_wrong(coarse, train):
    with pytest.raises(GgdjaxError, match="did you mean `cross_entropy`"):
        GradientConfig(objective="crossentropy")
    with pytest.raises(GgdjaxError, match="`steps` must be"):
        GradientConfig(steps=0)
    with pytest.raises(GgdjaxError, match="`offset_bound` must be"):
        GradientConfig(offset_bound=-1)
    with pytest.raises(GgdjaxError, match="fewer than one batch of 32"):
        gradient(coarse, train[0][:31], config=BUDGET)
    with pytest.raises(GgdjaxError, match="the network expects"):
        gradient(coarse, jnp.zeros((32, 4, 4, 1)), config=BUDGET)
