from __future__ import annotations

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from ggdjax._errors import GgdjaxError
from ggdjax.network import trace
from ggdjax.quantization import calibrate, quantize
from ggdjax.tune._bits import allocate, allocate_bits
from ggdjax.tune._sensitivity import predict_losses

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


def test_losses_beyond_float32_are_refused_by_name():
    """Squares of values near 1e20: widths were chosen by NaN, with a raw warning, and the record held it."""
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 8), (8, 3)))
    images = rng.normal(size=(16, 6)).astype(np.float32)
    net = trace(lambda x: jax.nn.relu(x @ (np.float32(1e20) * first)) @ second, images[:1])
    q = quantize(net, calibrate(net, [images]))
    with pytest.raises(GgdjaxError, match=r"leaves the range of float32.*give widths"):
        allocate_bits(q, images, budget=4, batch_size=16)


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
    return allocate_bits(coarse, train[0], budget=4.0, widths=range(3, 8))


def test_beats_uniform_widths_on_the_digits(coarse, allocation, net, calibration, test_set):
    images, _ = test_set
    uniform = dataclasses.replace(coarse.record.config, weight_bits=4, activation_bits=4)
    mixed = dataclasses.replace(
        uniform, weight_bits_of=allocation.weight_bits_of, activation_bits_of=allocation.activation_bits_of
    )
    real = np.asarray(net(images))

    def error(config):
        return np.mean(np.square(np.asarray(quantize(net, calibration, config)(images)) - real))

    assert error(mixed) < 0.6 * error(uniform)
    assert 3.9 < allocation.cost <= 4.0


def test_losses_fall_with_the_width(allocation):
    for rows in (allocation.losses.weights, allocation.losses.activations):
        for row in rows.values():
            assert (np.diff(row) <= 0).all()


def test_predicts_the_error_of_the_logits(net, coarse, calibration, train):
    images, _ = train
    losses = predict_losses(coarse, np.asarray(images), [6], 64, 1, lambda _done, _total: None)
    predicted = sum(float(row[0]) for row in (*losses.weights.values(), *losses.activations.values()))
    fine = quantize(net, calibration, dataclasses.replace(coarse.record.config, weight_bits=6, activation_bits=6))
    error = np.asarray(fine(images)) - np.asarray(net(images))
    measured = float(np.mean(np.square(error - error.mean(1, keepdims=True))))
    assert 0.4 < predicted / measured < 2.5


def test_units_count_what_they_say(coarse, train):
    graph, images = coarse.network.graph, train[0]
    sizes = {n.name: coarse.network.params[n.param("kernel")].size for n in graph.quantizable}
    budget = 4 * sum(sizes.values()) / 8
    bytes_ = allocate_bits(coarse, images, budget=budget, unit="weight_bytes", widths=(3, 6))
    assert sum(sizes[n] * b for n, b in bytes_.weight_bits_of.items()) / 8 == bytes_.cost <= budget
    assert bytes_.activation_bits_of == {}


def test_tells_what_is_wrong(coarse, train):
    with pytest.raises(GgdjaxError, match="did you mean `weight_bytes`"):
        allocate_bits(coarse, train[0], budget=3, unit="weights_bytes")
    with pytest.raises(GgdjaxError, match="`widths` must be"):
        allocate_bits(coarse, train[0], budget=3, widths=(1, 2))
    with pytest.raises(GgdjaxError, match="`images` is empty"):
        allocate_bits(coarse, train[0][:0], budget=3)
    with pytest.raises(GgdjaxError, match="`budget` is 1, but 2 bits everywhere cost 2"):
        allocate_bits(coarse, train[0], budget=1)
    with pytest.raises(GgdjaxError, match="2 bits for all but the widths that are given cost 16"):
        allocate_bits(coarse, train[0], budget=15, weight_bits_of={"*": 16})
    with pytest.raises(GgdjaxError, match="`budget` must be more than 0, got nan"):
        allocate_bits(coarse, train[0], budget=float("nan"))
    with pytest.raises(GgdjaxError, match="must be an integer number of bits from 2 to 16, or 'float', got '8'"):
        allocate_bits(coarse, train[0], budget=4, weight_bits_of={"*": "8"})
    with pytest.raises(GgdjaxError, match="`weight_bits_of` names 'nothing', which the network does not have"):
        allocate_bits(coarse, train[0], budget=4, weight_bits_of={"nothing": 8})


@pytest.mark.parametrize("own", [7, 12, "float"])
def test_widths_that_are_given_stay_and_count(coarse, train, own):
    first, *_, last = coarse.network.graph.quantizable
    sizes = {n.name: coarse.network.params[n.param("kernel")].size for n in coarse.network.graph.quantizable}
    weights, maps = {first.name: own, last.name: 2}, {first.inputs[0]: own}
    found = allocate_bits(coarse, train[0], budget=4.0, weight_bits_of=weights, activation_bits_of=maps)
    assert {name: found.weight_bits_of[name] for name in weights} == weights
    assert {name: found.activation_bits_of[name] for name in maps} == maps
    widths = {name: bits for name, bits in found.weight_bits_of.items() if bits != "float"}
    mean = np.average([*widths.values()], weights=[sizes[name] for name in widths])
    assert 3.5 < mean <= 4.0
    # Alone, the others have a budget of their own, which is another one.
    rest = [name for name in widths if name not in weights]
    assert np.average([widths[name] for name in rest], weights=[sizes[name] for name in rest]) != mean
    every = allocate_bits(coarse, train[0], budget=4.0, weight_bits_of={"*": 4}, activation_bits_of={"*": 3})
    assert (set(every.weight_bits_of.values()), set(every.activation_bits_of.values()), every.cost) == ({4}, {3}, 4.0)


def test_widths_that_are_given_count_in_bytes(coarse, train):
    first, *_ = coarse.network.graph.quantizable
    sizes = {n.name: coarse.network.params[n.param("kernel")].size for n in coarse.network.graph.quantizable}
    budget = 6 * sum(sizes.values()) / 8
    found = allocate_bits(coarse, train[0], budget=budget, unit="weight_bytes", weight_bits_of={first.name: "float"})
    bits = {name: 32 if width == "float" else width for name, width in found.weight_bits_of.items()}
    assert found.weight_bits_of[first.name] == "float"
    assert sum(sizes[name] * width for name, width in bits.items()) / 8 == found.cost <= budget
