from __future__ import annotations

import jax.numpy as jnp
import pytest

import ggdjax as gd
from ggdjax._errors import GgdjaxError
from ggdjax.datapath import Accelerator, Overflow, Rounding, compile
from ggdjax.quantization import QuantizedNetwork, Quantizers
from ggdjax.steps import Quantizer


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_saved_is_loaded(tmp_path, suffix):
    spec = Accelerator(accumulator_bits=24, bias_bits=20, overflow=Overflow.WRAP, rounding="floor", channel_tile=16)
    spec.save(tmp_path / f"spec.{suffix}")
    assert Accelerator.load(tmp_path / f"spec.{suffix}") == spec
    assert spec.rounding is Rounding.FLOOR


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation_bits": 17}, "`activation_bits` must be an integer number of bits from 2 to 16, got 17"),
        ({"weight_bits": 8.0}, "`weight_bits`"),
        ({"multiplier_bits": 32}, "from 2 to 31"),
        ({"rounding": "half_evn"}, "did you mean `half_even`"),
        ({"channel_tile": 0}, "`channel_tile`"),
        ({"accumulator_bits": 16}, "`bias_bits` 32 contradicts `accumulator_bits` 16"),
        ({"activation_bits": 10, "residual_bits": 8}, "`residual_bits` 8 contradicts `activation_bits` 10"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(GgdjaxError, match=message):
        Accelerator(**fields)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("spec.json", "{", "not valid JSON"),
        ("spec.toml", "weight_bits = ", "not valid TOML"),
        ("spec.json", "[8]", "one table of fields"),
        ("spec.yaml", "", "must end in .json or .toml"),
        ("spec.json", '{"weigth_bits": 8}', "unknown field `weigth_bits`; did you mean `weight_bits`"),
        ("spec.json", '{"weight_bits": 99}', "spec.json: `weight_bits`"),
    ],
)
def test_wrong_files_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(GgdjaxError, match=message):
        Accelerator.load(tmp_path / name)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(GgdjaxError, match="cannot read"):
        Accelerator.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("overflow", "accumulator_bits", "bias"),
    [("saturate", 24, 7), ("wrap", 4, 80 - 5 * 16), ("wrap", 24, None), ("raise", 24, None)],
)
def test_larger_bias_follows_overflow(overflow, accumulator_bits, bias):
    """A bias of 80 units on the accumulator's grid, in 4 bits."""
    net = gd.trace(lambda x: x @ jnp.ones((1, 1)) + 5.0, jnp.zeros((1, 1)))
    (node,) = net.graph.quantizable
    q = QuantizedNetwork(
        graph=net.graph,
        params=net.params,
        quantizers=Quantizers(
            activations={node.inputs[0]: Quantizer.fixed_point(2, 2, signed=False)},
            weights={node.name: Quantizer.fixed_point(2, 4)},
        ),
    )
    spec = Accelerator(bias_bits=4, accumulator_bits=accumulator_bits, overflow=overflow)
    if bias is None:
        with pytest.raises(GgdjaxError, match="needs 8 bits on the accumulator's grid, `bias_bits` are 4"):
            compile(q, spec)
    else:
        assert compile(q, spec).layers[node.name].bias.tolist() == [bias]
