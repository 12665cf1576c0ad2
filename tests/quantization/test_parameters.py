from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggdjax.quantization import QuantParams
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
