"""Aligned networks: predictions survive, and biases that are changed stay on the accumulator's grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ggdjax as gd
from ggdjax import datapath, tune


@pytest.fixture(scope="module")
def fixed(coarse):
    """The network with biases of 16 bits in fixed point."""
    config = replace(coarse.record.config, bias_bits=16)
    return gd.quantize(coarse.float_network, coarse.record.calibration, config)


@pytest.fixture(scope="module")
def aligned(fixed):
    return datapath.align(fixed)


def on_grid(q):
    """Whether every bias is rounded to the step of its accumulator, in 32 bits."""
    found = []
    for node in q.graph.quantizable:
        if node.name in q.quantizers.biases:
            bias, source = q.quantizers.bias(node), q.quantizers.activations[node.inputs[0]]
            found.append(
                bias.bits == 32 and np.array_equal(bias.step, source.step * q.quantizers.weights[node.name].step)
            )
    return found


def test_predictions_survive(fixed, aligned):
    assert aligned.predicted_sqnr_db == fixed.predicted_sqnr_db
    assert np.isfinite(list(aligned.predicted_sqnr_db.values())).all()
    # The figures of weights and biases are those of the quantizers as they are now.
    assert aligned.weight_sqnr_db == fixed.weight_sqnr_db
    assert aligned.bias_sqnr_db != fixed.bias_sqnr_db


def test_another_step_has_no_prediction(coarse):
    steps = {k: replace(x, step=x.step * np.float32(1.01)) for k, x in coarse.quantizers.activations.items()}
    changed = replace(coarse, quantizers=replace(coarse.quantizers, activations=steps))
    assert np.isnan(list(changed.predicted_sqnr_db.values())).all()


def test_corrected_biases(fixed, aligned, train):
    corrected = tune.correct_biases(aligned, train[0])
    assert on_grid(aligned) == on_grid(corrected) == [True] * len(aligned.quantizers.biases)
    assert not any(on_grid(tune.correct_biases(fixed, train[0])))
    assert corrected.record.stages[-1].name == "bias_correction"
    assert datapath.compile(corrected).layers.keys() == corrected.quantizers.weights.keys()


def test_tuned_biases(aligned, train):
    config = tune.GradientConfig(steps=8, batch_size=64)
    tuned = tune.gradient(aligned, train[0], config=config)
    assert all(on_grid(tuned))
