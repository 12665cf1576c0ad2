from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ggdjax._errors import GgdjaxError
from ggdjax.quantization import QuantConfig, QuantParams
from tests.partly_float import partly_float


@pytest.mark.parametrize("stem", ["run.1", "run.1.safetensors", "run.1.json"])
def test_saved_parameters_come_back_and_dots_stay(tmp_path: Path, stem: str) -> None:
    params = partly_float().params
    params.save(tmp_path / stem)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.1.json", "run.1.safetensors"]
    again = QuantParams.load(tmp_path / "run.1").to_arrays()
    assert again.keys() == params.to_arrays().keys()
    for key, value in params.to_arrays().items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)


def test_widths_may_be_numpy_integers():
    """As `np.arange` gives them; kept as Python's, which go into JSON."""
    config = QuantConfig(weight_bits=np.int64(4), bias_bits=np.uint8(12), activation_bits_of={"x": np.int32(3)})
    assert config == QuantConfig(weight_bits=4, bias_bits=12, activation_bits_of={"x": 3})
    assert json.dumps([config.weight_bits, config.bias_bits, config.activation_bits_of]) == '[4, 12, {"x": 3}]'
    with pytest.raises(GgdjaxError, match="from 2 to 16, got 17"):
        QuantConfig(weight_bits=np.int64(17))
