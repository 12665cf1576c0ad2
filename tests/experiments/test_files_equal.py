"""What the experiment of saved networks compares, on a few networks: see `experiments/configs/files_equal.py`."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from experiments.configs import files_equal

pytest.importorskip("onnx", reason="onnx is not installed")


def quantized():
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=(4, 4)), jnp.float32)
    net = gd.trace(lambda x: jnp.maximum(x @ kernel, 0) @ kernel, x[:1])
    calibration = gd.calibrate(net, [x])
    return gd.quantize(net, calibration, gd.QuantConfig(scheme="max-abs")), calibration, x


def test_a_loaded_network_is_equal_in_every_numerics():
    compared = files_equal.compare(*quantized())
    assert all(compared.values()), compared
    assert {"float outputs", "fake quantization", "integers of the program loaded", "writes qdq"} <= compared.keys()


def test_differences_are_found():
    q, _, x = quantized()
    other = dataclasses.replace(q, params={key: np.nextafter(value, 9) for key, value in q.params.items()})
    assert not files_equal.equal(other, q)
    assert not files_equal.equal(x, x.astype(np.float64))
    assert not files_equal.equal(np.float32(0.0), np.float32(-0.0))


def test_damaged_files_are_one_line():
    counts, wrong = files_equal.damaged(20)
    assert not wrong
    assert counts["one-line errors"] == 20
