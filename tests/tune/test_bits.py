from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from ggdjax._errors import GgdjaxError
from ggdjax.quantization import quantize
from ggdjax.tune.bits import allocate, allocate_bits
from ggdjax.tune.sensitivity import predict_losses

WIDTHS = [2, 3, 4, 5]


def _table(rng, count):
    """Losses that fall by about 6 dB a bit, of very different sizes."""
    steepness = rng.uniform(1.7, 2.1, (count, 1))
    return 10 ** rng.uniform(-3, 1, (count, 1)) * 2.0 ** (-steepness * np.asarray(WIDTHS)[None, :])


@pytest.mark.parametrize("seed", range(6))
def test_close_to_the_best_of_all_allocations(seed):
    rng = np.random.default_rng(seed)
    table, sizes = _table(rng, 5), rng.integers(1, 40, 5).astype(float)

    def costs(bits):
        return (sizes @ bits)[None]

    budget = 3.5 * sizes.sum()
    chosen = allocate(table, WIDTHS, costs, budget)
    assert costs(np.asarray(WIDTHS)[chosen])[0] <= budget
    losses = [
        sum(table[i, k] for i, k in enumerate(pick))
        for pick in itertools.product(range(4), repeat=5)
        if costs(np.asarray(WIDTHS)[list(pick)])[0] <= budget
    ]
    assert table[np.arange(5), chosen].sum() <= 1.15 * min(losses)


def test_equal_costs_meet_the_budget_exactly():
    table = _table(np.random.default_rng(7), 12)
    chosen = allocate(table, WIDTHS, lambda bits: bits.mean()[None], 3.5)
    assert np.asarray(WIDTHS)[chosen].mean() == 3.5
    best = [sum(np.sort(np.diff(-table, axis=1).ravel())[::-1][: int(12 * 1.5)])]
    # Convex losses and equal costs: marginal returns are optimal.
    assert table[:, 0].sum() - table[np.arange(12), chosen].sum() == pytest.approx(best[0])


def test_two_constraints_hold_each():
    table = _table(np.random.default_rng(3), 8)
    chosen = allocate(table, WIDTHS, lambda bits: np.stack([bits[:4].mean(), bits[4:].mean()]), 4.0)
    bits = np.asarray(WIDTHS)[chosen]
    assert bits[:4].mean() == 4.0
    assert bits[4:].mean() == 4.0


@pytest.fixture(scope="module")
def allocation(coarse, train):
    return allocate_bits(coarse, train[0][:64], budget=3.0, widths=range(2, 7))


def test_beats_uniform_widths_on_the_digits(coarse, allocation, net, calibration, train):
    config = dataclasses.replace(
        coarse.config,
        weight_bits_of=allocation.weight_bits_of,
        activation_bits_of=allocation.activation_bits_of,
    )
    mixed = quantize(net, calibration, config)
    images, _ = train

    def divergence(q):
        p = np.asarray(net(images), np.float64)
        r = np.asarray(q(images), np.float64)
        p, r = (
            x - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)) - x.max(1, keepdims=True)
            for x in (p, r)
        )
        return float(np.mean(np.sum(np.exp(p) * (p - r), axis=1)))

    assert divergence(mixed) < 0.7 * divergence(coarse)
    assert 2.9 < allocation.cost <= 3.0


def test_losses_fall_with_the_width_and_need_no_particular_batch(coarse, allocation, train):
    for rows in (allocation.losses.weights, allocation.losses.activations):
        for row in rows.values():
            assert (np.diff(row) <= 1e-9).all()
    # Other draws of classes, other images: the same within sampling error.
    other = predict_losses(coarse, np.asarray(train[0][64:128]), [3], 64, 1)
    ratios = [other.weights[n][0] / allocation.losses.weights[n][1] for n in other.weights]
    assert 0.2 < np.median(ratios) < 5


def test_units_count_what_they_say(coarse, train):
    graph, images = coarse.network.graph, train[0][:64]
    sizes = {n.name: coarse.network.params[n.param("kernel")].size for n in graph.quantizable}
    budget = 3 * sum(sizes.values()) / 8
    bytes_ = allocate_bits(coarse, images, budget=budget, unit="weight_bytes", widths=(2, 3, 6))
    assert sum(sizes[n] * b for n, b in bytes_.weight_bits_of.items()) / 8 == bytes_.cost <= budget
    assert bytes_.activation_bits_of == {}


def test_tells_what_is_wrong(coarse, train):
    with pytest.raises(GgdjaxError, match="did you mean `weight_bytes`"):
        allocate_bits(coarse, train[0], budget=3, unit="weights_bytes")
    with pytest.raises(GgdjaxError, match="`widths` must be"):
        allocate_bits(coarse, train[0], budget=3, widths=(1, 2))
    with pytest.raises(GgdjaxError, match="`images` is empty"):
        allocate_bits(coarse, train[0][:0], budget=3)
    with pytest.raises(GgdjaxError, match="2 bits everywhere cost 2"):
        allocate(np.ones((2, 2)), [2, 3], lambda bits: bits.mean()[None], 1.0)
