"""Masks: constants that stand for "never" before softmax and maxima, from importers to exports."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax import datapath, export
from ggdjax._errors import DataError, UnsupportedError
from ggdjax.network import load_onnx

if TYPE_CHECKING:
    from collections.abc import Callable

sys.path.append(str(Path(__file__).parents[1] / "network"))
from runtime import make_model, onnx, run_onnx

make_node = onnx.helper.make_node
RNG = np.random.default_rng(0)
LENGTH, WIDTH = 4, 5
CAUSAL = np.tril(np.ones((LENGTH, LENGTH), bool))
W = RNG.standard_normal((WIDTH, WIDTH)).astype(np.float32)
BIAS = RNG.standard_normal((LENGTH, LENGTH)).astype(np.float32)
X = 2 * RNG.standard_normal((40, LENGTH, WIDTH)).astype(np.float32)
pytestmark = pytest.mark.usefixtures("quickly_compiled")
KEPT = np.array([True, False, True, True, False])
LEAST = float(np.finfo(np.float32).min)


def check(net: gd.Network, wanted: np.ndarray, tmp_path: Path) -> None:
    """Compare float, and integers and both files with fake quantization."""
    np.testing.assert_allclose(net(X), wanted, rtol=1e-5, atol=1e-5)
    q = gd.quantize(net, gd.calibrate(net, [X]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program = datapath.compile(q)
    rounded = np.asarray(q(X))
    np.testing.assert_allclose(program(X), rounded, atol=1e-5 * max(1.0, np.abs(rounded).max()))
    for name, value in (("qdq", q), ("integers", program)):
        export.export_onnx(value, path := tmp_path / f"{name}.onnx")
        np.testing.assert_allclose(run_onnx(path, X), rounded, atol=1e-5 * max(1.0, np.abs(rounded).max()))


@pytest.mark.parametrize(
    ("form", "fill"),
    [("kept", -np.inf), ("kept", -1e4), ("masked", LEAST), ("added", -np.inf), ("added", -1e9)],
)
def test_attention_in_a_file(form: str, fill: float, tmp_path: Path) -> None:
    nodes = [
        make_node("MatMul", ["x", "w"], ["q"]),
        make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        make_node("MatMul", ["q", "t"], ["s"]),
        {
            "kept": make_node("Where", ["m", "s", "f"], ["held"]),
            "masked": make_node("Where", ["m", "f", "s"], ["held"]),
            "added": make_node("Add", ["s", "f"], ["held"]),
        }[form],
        make_node("Mul", ["held", "k"], ["scaled"]),
        make_node("Softmax", ["scaled"], ["p"], axis=-1),
        make_node("MatMul", ["p", "x"], ["y"]),
    ]
    constants = {"w": W, "k": np.float32(0.3), "m": CAUSAL if form == "kept" else ~CAUSAL[None], "f": np.float32(fill)}
    if form == "added":
        constants["f"] = np.where(CAUSAL, 0, fill).astype(np.float32)
        del constants["m"]
    model = make_model(nodes, ("n", LENGTH, WIDTH), constants)
    onnx.save(model, path := tmp_path / "net.onnx")
    check(load_onnx(path), run_onnx(model, X), tmp_path)


def attention(scores: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    return lambda x: scores(jnp.einsum("btc,bsc->bts", x @ W, x) * 0.3) @ x


def first_masked(values: jax.Array, fill: float) -> jax.Array:
    return jnp.where(jnp.arange(LENGTH)[:, None] > 0, values, fill)


FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "where": attention(lambda s: jax.nn.softmax(jnp.where(CAUSAL, s, -jnp.inf))),
    "where, least number": attention(lambda s: jax.nn.softmax(jnp.where(~CAUSAL, LEAST, s))),
    "argument of softmax": attention(lambda s: jax.nn.softmax(s, where=CAUSAL)),
    "subtracted": attention(lambda s: jax.nn.softmax(s - 1e9 * ~CAUSAL[None])),
    "beside a bias": attention(lambda s: jax.nn.softmax(s + jnp.where(CAUSAL, BIAS, -1e9)[None])),
    "twice": attention(lambda s: jax.nn.softmax(jnp.where(CAUSAL, jnp.where(BIAS > -1, s, -1e9), -1e9))),
    "by its own values, infinite": lambda x: (
        jax.nn.softmax(jnp.where((y := x @ W) > y.mean(-1, keepdims=True), y, -jnp.inf)) @ W
    ),
    "a mask by itself": lambda x: (
        jax.nn.softmax(4 * (x @ W) + jnp.where(x > x.min(-1, keepdims=True), 0.0, -jnp.inf)) @ W
    ),
    "by its own values": attention(lambda s: jax.nn.softmax(jnp.where(s >= s.max(-1, keepdims=True) - 1, s, -1e9))),
    "of the network's own": lambda x: (
        jax.nn.softmax(x @ W + (1 - (x > x.min(-1, keepdims=True)).astype(jnp.float32)) * LEAST) @ W
    ),
    "logits": lambda x: jax.nn.softmax(x @ W + jnp.where(KEPT[None, None], 0, -jnp.inf)),
    "maximum": lambda x: first_masked(x @ W, -jnp.inf).max(1) @ W,
    "minimum": lambda x: first_masked(x @ W, 1e9).min(1) @ W,
    "index of the largest": lambda x: jnp.argmax(jnp.where(KEPT, x @ W, -jnp.inf), -1),
    "logarithm of a sum": lambda x: jax.nn.logsumexp(jnp.where(KEPT, x @ W, -jnp.inf), axis=-1),
    "offsets that are values": lambda x: (x @ W + jnp.where(KEPT[None, None], 0, -2e3)).max(1) @ W,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_masks_of_functions(name: str, tmp_path: Path) -> None:
    function = FUNCTIONS[name]
    check(gd.trace(function, jnp.zeros((1, LENGTH, WIDTH))), np.asarray(function(jnp.asarray(X))), tmp_path)


def test_padding_that_no_maximum_chooses(tmp_path: Path) -> None:
    nodes = [
        make_node("Conv", ["x", "w"], ["c"]),
        make_node("Pad", ["c", "p", "f"], ["d"]),
        make_node("MaxPool", ["d"], ["y"], kernel_shape=[3, 3], strides=[2, 2]),
    ]
    constants = {"w": W[:2, :3, None, None], "p": np.int64([0, 0, 1, 2, 0, 0, 1, 0]), "f": np.float32(-np.inf)}
    model = make_model(nodes, ("n", 3, 6, 6), constants)
    onnx.save(model, path := tmp_path / "net.onnx")
    net, x = load_onnx(path), RNG.standard_normal((8, 3, 6, 6)).astype(np.float32)
    assert [node.op for node in net.graph.nodes if node.op == "pad"] == []
    np.testing.assert_allclose(net(x), run_onnx(model, x), rtol=1e-5, atol=1e-5)
    q = gd.quantize(net, gd.calibrate(net, [x]))
    np.testing.assert_allclose(datapath.compile(q)(x), q(x), atol=1e-5)


@pytest.mark.parametrize("name", ["logits", "logarithms"])
def test_masked_outputs_come_last(name: str) -> None:
    """And leave the others their digits."""
    mask = jnp.where(KEPT[None, None], 0, -1e9)
    last = {"logits": lambda y: y, "logarithms": jax.nn.log_softmax}[name]
    net = gd.trace(lambda x: last(x @ W + mask), jnp.zeros((1, LENGTH, WIDTH)))
    q = gd.quantize(net, gd.calibrate(net, [X]))
    found, wanted = np.asarray(datapath.compile(q)(X)), np.asarray(q(X))
    np.testing.assert_allclose(found[..., KEPT], wanted[..., KEPT], atol=1e-4)
    assert (found[..., ~KEPT].max(-1) < found[..., KEPT].min(-1)).all()


def test_infinite_numbers_that_integers_do_not_hold() -> None:
    mask = jnp.where(KEPT[None, None], 0, -jnp.inf)
    for function, reader in (
        (lambda x: x @ W + mask, "is an output of the network"),
        (lambda x: jax.nn.sigmoid(x @ W + mask) @ W, r"which `.*` \(sigmoid\) reads"),
    ):
        net = gd.trace(function, jnp.zeros((1, LENGTH, WIDTH)))
        with pytest.raises(UnsupportedError, match=rf"makes numbers infinite in .*{reader}.*; choose a finite one"):
            datapath.compile(gd.quantize(net, gd.calibrate(net, [X])))
    net = gd.trace(lambda x: (x @ W + mask) @ W, jnp.zeros((1, LENGTH, WIDTH)))
    with pytest.raises(DataError, match=r"holds NaN or infinite values: .* masks of −∞"):
        gd.calibrate(net, [X])


@pytest.mark.parametrize("form", ["x / 0", "log 0", "rsqrt 0", "exp"])
def test_what_is_not_finite_where_another_is_chosen(tmp_path: Path, form: str) -> None:
    """0 times infinity was added to the constant, NaN in all numerics and a refusal of integers."""
    kept = KEPT[None, None]
    one, other = kept.astype(np.float32), 1000 * (~kept).astype(np.float32)
    function = {
        "x / 0": lambda y: 1 / (y * one),
        "log 0": lambda y: jnp.log(y * one),
        "rsqrt 0": lambda y: jax.lax.rsqrt(y * one),
        "exp": lambda y: jnp.exp(-y + other),
    }[form]

    def network(x: jax.Array) -> jax.Array:
        return jnp.where(kept, function(jnp.abs(x @ W) + 1.0), 0.25) @ W

    check(gd.trace(network, X), np.asarray(network(X)), tmp_path)
