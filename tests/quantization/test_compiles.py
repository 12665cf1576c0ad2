"""How many programs XLA compiles: a network costs a handful, however many layers it has."""

from __future__ import annotations

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax import report
from tests.programs import Programs


def _network(widths: tuple[int, ...], seed: int) -> gd.Network:
    """Return dense layers of these widths with ReLU between them, every kernel and bias of a shape of its own."""
    rng = np.random.default_rng(seed)
    layers = [
        (rng.normal(0, fan_in**-0.5, (fan_in, fan_out)).astype(np.float32), rng.normal(size=fan_out).astype(np.float32))
        for fan_in, fan_out in itertools.pairwise(widths)
    ]

    def forward(x: jax.Array) -> jax.Array:
        for kernel, bias in layers:
            x = jax.nn.relu(x @ kernel + bias[None])
        return x

    return gd.trace(forward, jnp.zeros((1, widths[0])))


def _images(width: int, count: int = 40) -> np.ndarray:
    return np.random.default_rng(width).normal(size=(count, width)).astype(np.float32)


@pytest.fixture(scope="module")
def counted() -> tuple[gd.quantization.QuantizedNetwork, dict[str, int]]:
    """Return a network of twelve layers, quantized, and what each call compiled; then a second one of other shapes."""
    jax.clear_caches()
    widths = tuple(range(8, 21))
    net, images = _network(widths, seed=0), _images(8)
    with Programs() as calibrate:
        calibration = gd.calibrate(net, [images, images[:7], images[:1]])
    with Programs() as quantize:
        q = gd.quantize(net, calibration, gd.QuantConfig(activation_bits=4, weight_bits=4))
    with Programs() as again:
        gd.quantize(net, calibration, gd.QuantConfig(activation_bits=5, weight_bits=3))
    other = _network(tuple(range(30, 45)), seed=1)
    calibration = gd.calibrate(other, [_images(30)])
    with Programs() as second:
        gd.quantize(other, calibration, gd.QuantConfig(activation_bits=4, weight_bits=4))
    names = ("calibrate", "quantize", "again", "second")
    return q, dict(zip(names, map(len, (calibrate, quantize, again, second)), strict=True))


def test_programs_do_not_grow_with_the_layers(counted: tuple) -> None:
    _, programs = counted
    assert programs["calibrate"] <= 4
    assert programs["quantize"] <= 12
    assert programs["again"] == 0
    assert programs["second"] <= 4


def test_what_reads_a_quantized_network_compiles_next_to_nothing(counted: tuple, tmp_path: Path) -> None:
    q, _ = counted
    with Programs() as figures:
        assert len(q.weight_sqnr_db) == len(q.bias_sqnr_db) == len(q.predicted_sqnr_db) == 12
        q.integer_weights()
    with Programs() as program:
        gd.datapath.compile(q)
    with Programs() as file:
        q.save(tmp_path / "net.safetensors")
        gd.load(tmp_path / "net.safetensors")
    with Programs() as rows:
        report.feature_map_rows(q)
        report.weight_rows(q)
    assert len(figures) == len(program) == 0
    assert max(file, default=0.0) < 0.5
    assert len(rows) <= 1
