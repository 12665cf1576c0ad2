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


SOME = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 0, 1, 1, 0], [0, 1, 1, 0, 1]], bool)
#: What can stand between a branch's operation and the choice.
PASSED: dict[str, Callable] = {
    "reshape": lambda y: y.reshape(-1, 2, 10),
    "raised": lambda y: y[:, None, :, None],
    "transpose": lambda y: y.transpose(0, 2, 1),
    "slice": lambda y: y[:, ::2, 1:],
    "reverse": lambda y: y[:, ::-1],
    "concat": lambda y: jnp.concatenate([y[:, 1:], y], 1),
    "broadcast": lambda y: jnp.broadcast_to(y[:, :, None], (y.shape[0], 4, 3, 5)),
    "gather": lambda y: y[:, [2, 0, 0, 1]],
    "pad": lambda y: jnp.pad(y, ((0, 0), (1, 2), (0, 1)), constant_values=1.0),
    "edge": lambda y: jnp.pad(y, ((0, 0), (1, 2), (0, 0)), mode="edge"),
    "tile": lambda y: jnp.tile(y, (1, 2, 1)),
    "several": lambda y: y.transpose(0, 2, 1).reshape(-1, 10, 2)[:, 1:].reshape(-1, 3, 6).transpose(0, 2, 1),
    "sum": lambda y: y.sum(2, keepdims=True),
    "mean": lambda y: y.mean(1),
    "max": lambda y: y.max(2),
}


@pytest.mark.parametrize("name", PASSED)
def test_what_is_not_finite_is_passed_on_to_a_choice(tmp_path: Path, name: str) -> None:
    """Behind anything but operations on each value it was 0 times infinity all the same."""
    passed = PASSED[name]
    some = SOME[None].astype(np.float32)
    # Negated, a maximum is of all that is kept.
    kept = np.asarray(passed(-some) == passed(-np.ones((1, LENGTH, WIDTH), np.float32)))

    def network(x: jax.Array) -> jax.Array:
        y = jnp.abs(x @ W) + 1.0
        found = passed(jnp.log(y * some) / (y * some))
        chosen = jnp.where(kept, found * jax.lax.rsqrt(passed(y * some)), 0.25)
        return chosen @ jnp.linspace(-1.0, 1.0, 3 * chosen.shape[-1]).reshape(-1, 3)

    check(gd.trace(network, X), np.asarray(network(X)), tmp_path)


def test_what_is_not_finite_where_images_are_joined(tmp_path: Path) -> None:
    def network(x: jax.Array) -> jax.Array:
        y = (jnp.abs(x @ W) + 1.0) * SOME[None].astype(np.float32)
        return jnp.where(SOME[None], (2 * jnp.log(y.reshape(-1, WIDTH))).reshape(-1, LENGTH, WIDTH), 0.25) @ W

    check(gd.trace(network, X), np.asarray(network(X)), tmp_path)


def numbers_of(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


#: Nodes from l to v, and the initializers they read.
NODES: dict[str, tuple[list, dict[str, np.ndarray]]] = {
    "Reshape": ([make_node("Reshape", ["l", "to"], ["v"])], {"to": numbers_of(0, 2, 10)}),
    "Flatten": ([make_node("Flatten", ["l"], ["v"])], {}),
    "Transpose": ([make_node("Transpose", ["l"], ["v"], perm=[0, 2, 1])], {}),
    "Unsqueeze": ([make_node("Unsqueeze", ["l", "at"], ["v"])], {"at": numbers_of(2)}),
    "Squeeze": (
        [make_node("Unsqueeze", ["l", "at"], ["u"]), make_node("Squeeze", ["u", "at"], ["v"])],
        {"at": numbers_of(1)},
    ),
    "Slice": (
        [make_node("Slice", ["l", "from", "to", "at"], ["v"])],
        {"from": numbers_of(1), "to": numbers_of(4), "at": numbers_of(2)},
    ),
    "Split": (
        [make_node("Split", ["l", "sizes"], ["a", "b"], axis=2), make_node("Concat", ["b", "a"], ["v"], axis=2)],
        {"sizes": numbers_of(2, 3)},
    ),
    "Expand": (
        [make_node("Unsqueeze", ["l", "at"], ["u"]), make_node("Expand", ["u", "to"], ["v"])],
        {"at": numbers_of(1), "to": numbers_of(1, 3, 1, 1)},
    ),
    "Tile": ([make_node("Tile", ["l", "copies"], ["v"])], {"copies": numbers_of(1, 2, 1)}),
    "Gather": ([make_node("Gather", ["l", "picked"], ["v"], axis=1)], {"picked": numbers_of(3, 0, 0)}),
    "Pad": ([make_node("Pad", ["l", "widths"], ["v"])], {"widths": numbers_of(0, 1, 0, 0, 0, 2)}),
    "Resize": (
        [
            make_node("Unsqueeze", ["l", "at"], ["u"]),
            make_node("Resize", ["u", "", "scales"], ["v"], mode="nearest"),
        ],
        {"at": numbers_of(1), "scales": np.float32([1, 1, 2, 2])},
    ),
    "DepthToSpace": (
        [make_node("Reshape", ["l", "to"], ["u"]), make_node("DepthToSpace", ["u"], ["v"], blocksize=2)],
        {"to": numbers_of(0, 4, 5, 1)},
    ),
}


@pytest.mark.parametrize("name", NODES)
def test_what_is_not_finite_is_passed_on_to_where(tmp_path: Path, name: str) -> None:
    nodes, given = NODES[name]
    # Which are chosen: what the same nodes make of the numbers that are kept.
    moving = [make_node("Abs", ["x"], ["l"]), *nodes]
    kept = run_onnx(make_model(moving, ("n", LENGTH, WIDTH), given, outputs=["v"]), SOME[None].astype(np.float32)) > 0
    nodes = [
        make_node("MatMul", ["x", "w"], ["d"]),
        make_node("Exp", ["d"], ["e"]),
        make_node("Mul", ["e", "some"], ["m"]),
        make_node("Log", ["m"], ["l"]),
        *nodes,
        make_node("Where", ["kept", "v", "quarter"], ["c"]),
        make_node("MatMul", ["c", "last"], ["y"]),
    ]
    last = np.linspace(-1, 1, 3 * kept.shape[-1], dtype=np.float32).reshape(-1, 3)
    weights = {
        "last": last,
        "w": W / 4,
        "some": SOME.astype(np.float32),
        "kept": kept,
        "quarter": np.float32(0.25),
        **given,
    }
    onnx.save(model := make_model(nodes, ("n", LENGTH, WIDTH), weights), path := tmp_path / "model.onnx")
    check(load_onnx(path), run_onnx(model, X), tmp_path)
