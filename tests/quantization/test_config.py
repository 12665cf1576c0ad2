from __future__ import annotations

import json

import numpy as np
import pytest

from ggdjax._errors import GgdjaxError
from ggdjax.quantization import QuantConfig


def test_widths_may_be_numpy_integers():
    """As `np.arange` gives them; kept as Python's, which go into JSON."""
    config = QuantConfig(weight_bits=np.int64(4), bias_bits=np.uint8(12), activation_bits_of={"x": np.int32(3)})
    assert config == QuantConfig(weight_bits=4, bias_bits=12, activation_bits_of={"x": 3})
    assert json.dumps([config.weight_bits, config.bias_bits, config.activation_bits_of]) == '[4, 12, {"x": 3}]'
    with pytest.raises(GgdjaxError, match="from 2 to 16, got 17"):
        QuantConfig(weight_bits=np.int64(17))


def test_unknown_schemes_are_refused_at_once():
    with pytest.raises(GgdjaxError, match="did you mean `max-abs`"):
        QuantConfig(scheme="max-abz")
    with pytest.raises(GgdjaxError, match="did you mean `mse-search`"):
        QuantConfig(weight_scheme="mse-serch")
