"""The Verilog reference against the simulator, on the layers of the embedded network."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib import resources

import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax import datapath, export, zoo
from ggdjax._errors import GgdjaxError
from ggdjax.datapath import Accelerator, Rounding
from ggdjax.export._hex import hex_lines, parse_hex
from ggdjax.export._rtl import rtl_layers
from ggdjax.export._testbench import parts, verilog_parameters
from tests.datapath.mixed_network import mixed_program

needs_icarus = pytest.mark.skipif(
    shutil.which("iverilog") is None, reason="Icarus Verilog (Debian's package iverilog) is not installed"
)


@pytest.fixture(scope="module")
def q(by_largest, images):
    return by_largest(gd.trace(zoo.digits_net(), jnp.zeros((1, 8, 8, 1))), images[0])


@pytest.fixture(scope="module")
def program(q):
    return datapath.compile(q)


@needs_icarus
def test_every_layer(program, images):
    found = export.verify_rtl(program, images[1][:1])
    assert [part.layer for part in found.parts] == list(rtl_layers(program))
    assert {part.op for part in found.parts} == {"conv", "dense", "add", "max_pool", "sum_over"}
    assert found.values == 4834
    assert found.wrong == 0


@needs_icarus
def test_every_rounding(program, images):
    layers = ["stem/conv", "residual1/second/conv/add"]
    found = export.verify_rtl(program, images[1][:1], layers=layers, rounding=list(Rounding))
    assert [part.checks for part in found.parts] == [768 * 11 + 1, 768 * 6 + 1]
    assert found.wrong == 0


@needs_icarus
@pytest.mark.parametrize(
    "spec",
    [{"overflow": "wrap"}, {"overflow": "saturate", "channel_tile": 5, "rounding": "floor"}],
    ids=str,
)
def test_narrow_accumulators_overflow_alike(q, images, spec):
    program = datapath.compile(q, Accelerator(accumulator_bits=13, bias_bits=13, multiplier_bits=16, **spec))
    layer = "residual2/first/conv"
    found = export.verify_rtl(program, images[1][:1], layers=[layer], lanes=7)
    assert found.parts[0].overflows > 0
    assert found.wrong == 0


@needs_icarus
def test_codes_with_a_zero_point(q, images):
    first, *_ = q.quantizers.activations
    shifted = replace(q.quantizers.activations[first], zero_point=jnp.float32(1))
    q = replace(q, quantizers=replace(q.quantizers, activations=q.quantizers.activations | {first: shifted}))
    assert export.verify_rtl(datapath.compile(q), images[1][:1], layers=["stem/conv"]).wrong == 0


@needs_icarus
def test_groups_strides_and_windows(by_largest):
    program, x = mixed_program(by_largest)
    found = export.verify_rtl(program, x[:2], lanes=5)
    assert {"sub", "sum_pool", "max_pool", "max"} <= {part.op for part in found.parts}
    assert found.wrong == 0


@needs_icarus
def test_a_wrong_simulator_is_noticed(program, images):
    """Another weight in the simulator than in the memory of the hardware changes sums, and every one is counted."""
    layer = program.layers["head"]
    other = replace(layer, kernel=layer.kernel.copy(), bias=layer.bias + 1)
    changed = replace(program, layers={**program.layers, "head": other})
    assert export.verify_rtl(changed, images[1][:1], layers=["head"]).wrong == 10


def test_vectors_are_written_without_icarus(program, images, tmp_path):
    (name,) = export.write_testbenches(program, images[1][:1], tmp_path, layers=["stem/conv"])
    files = {path.name for path in (tmp_path / name).iterdir()}
    assert {"testbench.v", "processing_element.v", "requantizer.v", "parameters.vh", "rows.hex", "sums.hex"} <= files
    sums = (tmp_path / name / "sums.hex").read_text(encoding="utf-8").splitlines()
    part = parts(program)["stem/conv"]
    assert len(sums) == np.prod(program.graph.shape(part.node.output)[1:])
    assert all(len(line) == 8 for line in sums)


def test_shipped_parameters_are_those_of_the_default_accelerator():
    shipped = resources.files("ggdjax.export") / "rtl" / "parameters.vh"
    assert shipped.read_text(encoding="utf-8") == verilog_parameters(Accelerator())


def test_wrong_arguments_are_refused(program, images, tmp_path, monkeypatch):
    x = images[1][:1]
    with pytest.raises(GgdjaxError, match=r"`layers` holds `stem`, which .* did you mean `stem/conv`"):
        export.write_testbenches(program, x, tmp_path, layers=["stem"])
    with pytest.raises(GgdjaxError, match=r"`rounding` .* must hold some of half_away"):
        export.write_testbenches(program, x, tmp_path, rounding=["nearest"])
    with pytest.raises(GgdjaxError, match="`lanes` must be a positive number"):
        export.write_testbenches(program, x, tmp_path, lanes=0)
    (tmp_path / "file").touch()
    with pytest.raises(GgdjaxError, match=r"`folder` .* cannot be written"):
        export.write_testbenches(program, x, tmp_path / "file", layers=["stem/conv"])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(GgdjaxError, match="install Icarus Verilog"):
        export.verify_rtl(program, x)


@pytest.mark.parametrize("bits", [1, 3, 8, 13, 32])
def test_hex_words(bits):
    low = -(1 << (bits - 1))
    values = np.unique(np.linspace(low, -low - 1, 50).astype(np.int64))
    text = hex_lines(values[:, None], bits)
    np.testing.assert_array_equal(parse_hex(text, bits, True, "it"), values)
    np.testing.assert_array_equal(parse_hex(text, bits, False, "it"), values % (1 << bits))
    assert hex_lines(np.array([[1, 2, 3]]), 4) == b"321\n"
    with pytest.raises(GgdjaxError, match="it must hold one word"):
        parse_hex(text[:-1], bits, True, "it")
    with pytest.raises(GgdjaxError, match="something else than hexadecimal"):
        parse_hex(b"g" * (len(text.splitlines()[0])) + b"\n", bits, True, "it")
