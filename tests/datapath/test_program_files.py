"""Integer programs as one file: the same integers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax import _files, datapath, zoo
from ggdjax._errors import GgdjaxError
from tests.datapath.mixed_network import mixed_program


def same_program(program: datapath.Program, x: np.ndarray, path) -> datapath.Program:
    program.save(path)
    loaded = gd.load(path)
    assert type(loaded) is datapath.Program
    assert repr((loaded.graph, loaded.graph.shapes)) == repr((program.graph, program.graph.shapes))
    assert loaded.network.graph == program.network.graph
    for name in ("graph", "accelerator", "formats", "feature_maps", "code_formats", "output_scale"):
        assert getattr(loaded, name) == getattr(program, name), name
    assert list(loaded.feature_maps) == list(program.feature_maps)
    for name, layer in program.layers.items():
        found = loaded.layers[name]
        assert (found.source, found.accumulator, found.magnitude) == (layer.source, layer.accumulator, layer.magnitude)
        np.testing.assert_array_equal(found.kernel, layer.kernel)
        np.testing.assert_array_equal(found.bias, layer.bias)
    for key, value in program.params.items():
        assert loaded.params[key].dtype == value.dtype
        np.testing.assert_array_equal(loaded.params[key], value)
    np.testing.assert_array_equal(loaded.integers(x), program.integers(x))
    np.testing.assert_array_equal(loaded(x), program(x))
    np.testing.assert_array_equal(loaded.network(x), program.network(x))
    return loaded


def test_digits(by_largest, images, tmp_path):
    program = datapath.compile(by_largest(gd.trace(zoo.digits_net(), jnp.zeros((1, 8, 8, 1))), images[0]))
    loaded = same_program(program, images[1][:4], tmp_path / "p")
    found, known = loaded.codes(images[1][:4]), program.codes(images[1][:4])
    assert list(found) == list(known)
    for name, codes in known.items():
        np.testing.assert_array_equal(found[name], codes)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "p").read_bytes()


def test_tables_and_factors_per_position(by_largest, tmp_path):
    same_program(*mixed_program(by_largest), tmp_path / "p")


def test_rules_of_the_accelerator_and_of_an_enlargement(by_largest, tmp_path):
    def function(x):
        return jax.image.resize(x @ jnp.eye(2), (x.shape[0], 6, 6, 2), "nearest") @ jnp.ones((2, 2))

    x = np.random.default_rng(0).normal(size=(4, 3, 3, 2)).astype(np.float32)
    accelerator = datapath.Accelerator(rounding="half_up", overflow="wrap", channel_tile=1)
    program = datapath.compile(by_largest(gd.trace(function, x), x), accelerator)
    same_program(program, x, tmp_path / "p")


def test_wrong_records_are_one_line(by_largest, tmp_path):
    program, _ = mixed_program(by_largest)
    program.save(tmp_path / "p")
    _, record, arrays = _files.read(tmp_path / "p", ("program",))
    layer = next(iter(record["layers"]))
    wrong = [
        (record | {"accelerator": {"weight_bits": 99}}, arrays, "`weight_bits`"),
        (record | {"accelerator": {"weigth_bits": 8}}, arrays, "TypeError: .*weigth_bits"),
        (record | {"formats": {"x": {}}}, arrays, "KeyError: 'scale'"),
        (record | {"graph": record["network"] | {"nodes": [{}]}}, arrays, "KeyError: 'name'"),
        (record, {k: v for k, v in arrays.items() if k != f"params/{layer}/kernel"}, "KeyError"),
    ]
    for changed, held, match in wrong:
        _files.write(tmp_path / "wrong", "program", changed, held)
        with pytest.raises(GgdjaxError, match=match) as caught:
            gd.load(tmp_path / "wrong")
        assert "\n" not in str(caught.value)
