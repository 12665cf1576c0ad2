"""MODEL of the commands: files, networks of the zoo, functions of the user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ggdjax as gd
from ggdjax import GgdjaxError, zoo
from ggdjax.cli import main
from ggdjax.cli._models import load_network

OWN = """
import ggdjax as gd
import jax, jax.numpy as jnp

kernel = jnp.eye(4)

def build():
    return gd.trace(lambda x: jax.nn.relu(x) @ kernel, jnp.zeros((1, 4)))

def pair():
    return (lambda x: jax.nn.relu(x) @ kernel), jnp.zeros((1, 4))

def nothing():
    return 3

def raises():
    raise ValueError("two\\nlines")

def leaves():
    raise SystemExit(3)

def in_trace():
    return (lambda x: x + 1 / 0), jnp.zeros((1, 4))

ready = build()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "nets_of_mine.py").write_text(OWN)
    (tmp_path / "no_python_of_mine.py").write_text("def build(:")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("what", ["build", "pair", "ready"])
def test_a_function_of_the_users_gives_a_network(own, what):
    net = load_network(Path(f"nets_of_mine:{what}"))
    np.testing.assert_array_equal(net(np.ones((2, 4), np.float32)), np.ones((2, 4)))


def test_a_network_of_the_zoo_with_weights(tmp_path):
    module = zoo.create("lenet5", seed=1)
    zoo.save_weights(module, tmp_path / "lenet.safetensors")
    net = load_network(Path("lenet5"), weights=tmp_path / "lenet.safetensors")
    x = np.random.default_rng(0).normal(size=(2, *zoo.entry("lenet5").input_shape)).astype(np.float32)
    np.testing.assert_allclose(net(x), module(x), rtol=1e-4, atol=1e-4)
    assert isinstance(load_network(Path("digits")), gd.Network)


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        ("nets_of_mine:absent", {}, "has no `absent`"),
        ("nets_of_mine:nothing", {}, "gave int: return what `gd.trace`"),
        ("nets_of_mine:raises", {}, r"cannot be called: ValueError at nets_of_mine.py:\d+: two lines"),
        ("nets_of_mine:leaves", {}, r"cannot be called: SystemExit at nets_of_mine.py:\d+: 3"),
        ("nets_of_mine:in_trace", {}, "cannot be traced .*ZeroDivisionError: division by zero"),
        ("no_python_of_mine:build", {}, "cannot be imported: SyntaxError"),
        ("no_such_module:build", {}, "cannot be imported"),
        ("resnet21", {}, "did you mean `resnet"),
        ("absent.onnx", {"weights": Path("w.safetensors")}, "`--weights` goes with a network of the zoo"),
        ("lenet5", {"output": "x"}, "`--output`, `--input-shape` and `--constant` choose what of an ONNX file"),
        ("resnet50", {}, "no weights of `resnet50` come with the package: give `--weights`"),
    ],
)
def test_what_is_no_model_is_one_line(own, model, given, said):
    with pytest.raises(GgdjaxError, match=said) as error:
        load_network(Path(model), **given)
    assert "\n" not in str(error.value)


def test_inspect_shows_them(own, capsys):
    main(["inspect", "nets_of_mine:build"])
    assert "dense" in capsys.readouterr().out
