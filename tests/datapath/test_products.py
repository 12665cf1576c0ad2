"""Products of two feature maps, weights by groups, and what attention needs beside them: from importers to exports."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax import datapath, export, tune
from ggdjax._errors import GgdjaxError, UnsupportedError
from ggdjax.network import count_macs, load_onnx

if TYPE_CHECKING:
    from collections.abc import Callable

sys.path.append(str(Path(__file__).parents[1] / "network"))
from runtime import exported, make_model, onnx, run_onnx

pytestmark = pytest.mark.usefixtures("quickly_compiled")

make_node = onnx.helper.make_node
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


W = [0.7 * normal(4, 4) for _ in range(3)]
SLICES = normal(6, 4, 3)


def attention(x: jax.Array) -> jax.Array:
    x = x.reshape(x.shape[0], -1, 4)
    q, k, v = (x @ w for w in W)
    return jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", q, k) / 2, axis=-1) @ v


FUNCTIONS = {
    "attention": attention,
    "bilinear pooling": lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x) / 30,
    "heads": lambda x: jnp.einsum("bhwc,bgwc->bwhg", x, jax.nn.relu(x)) @ SLICES[:, 0, :2],
    "vectors": lambda x: jnp.einsum("bc,bc->b", x[:, 0, 0], x[:, 1, 1])[:, None] @ SLICES[0, :1],
    "outer": lambda x: jnp.einsum("bh,bc->bhc", x[:, :, 0, 0], x[:, 0, 0]) @ W[0],
    "weights by row": lambda x: jax.nn.relu(jnp.einsum("hck,bhwc->bwhk", SLICES, x)) @ SLICES[0, :3],
    "batched, weight first": lambda x: jax.lax.dot_general(SLICES, x, (((1,), (3,)), ((0,), (1,)))).transpose(
        2, 3, 1, 0
    ),
    "softmax over space": lambda x: (jax.nn.softmax(x, axis=(1, 2)) * x).sum((1, 2)) @ W[1],
    "quotient": lambda x: (x / (1 + jnp.abs(x).sum(-1, keepdims=True))) @ W[2],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_from_the_tracer_to_exports(name: str, tmp_path: Path) -> None:
    function, x = FUNCTIONS[name], normal(12, 6, 5, 4)
    net = gd.trace(function, x[:1])
    np.testing.assert_allclose(net(x), function(x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(exported(net, x), function(x), rtol=1e-4, atol=1e-4)
    q = gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(scheme="max-abs"))
    assert set(q.quantizers.activations) == {t for node in net.graph.nodes for t in node.feature_maps}
    program = datapath.compile(q)
    found = datapath.agreement(program, q, [x])
    assert found.equal_given_inputs > 0.999
    assert max(tensor.largest_given_inputs for tensor in found.feature_maps.values()) <= 1
    export.export_onnx(program, tmp_path / "integer.onnx", form="integer")
    np.testing.assert_array_equal(run_onnx(tmp_path / "integer.onnx", x), program.integers(x))
    export.export_onnx(program, tmp_path / "qdq.onnx")
    difference = np.abs(run_onnx(tmp_path / "qdq.onnx", x, optimize=False) - q(x))
    assert np.mean(difference > 1e-3) < 0.01


def test_both_factors_are_rounded_and_narrow_widths_compile() -> None:
    x = normal(12, 6, 5, 4)
    net = gd.trace(attention, x[:1])
    calibration = gd.calibrate(net, [x])
    product = next(node for node in net.graph.nodes if node.op == "matmul")
    assert {fm.tensor for fm in net.graph.feature_maps()} >= set(product.inputs)
    for bits in (3, 12):
        q = gd.quantize(net, calibration, gd.QuantConfig(scheme="max-abs", activation_bits=bits))
        program = datapath.compile(q, datapath.Accelerator(activation_bits=max(bits, 8)))
        assert datapath.agreement(program, q, [x]).equal_given_inputs > 0.99
    with pytest.raises(GgdjaxError, match=r"\(matmul\) can reach .* `accumulator_bits` are 12: raise them"):
        datapath.compile(
            gd.quantize(net, calibration, gd.QuantConfig(scheme="max-abs")),
            datapath.Accelerator(accumulator_bits=12, bias_bits=12, overflow="wrap"),
        )


@pytest.mark.parametrize("which", ["left", "right", "of the last", "all"])
def test_products_in_float_compile_and_export(which: str, tmp_path: Path) -> None:
    """A factor without a width leaves its product in float, between integers."""
    x = normal(12, 6, 5, 4)
    net = gd.trace(attention, x[:1])
    calibration = gd.calibrate(net, [x])
    first, last = (node for node in net.graph.nodes if node.op == "matmul")
    tensor = {"left": first.inputs[0], "right": first.inputs[1], "of the last": last.inputs[0], "all": "*"}[which]
    q = gd.quantize(net, calibration, gd.QuantConfig(scheme="max-abs", activation_bits_of={tensor: "float"}))
    program = datapath.compile(q)
    assert (last if which == "of the last" else first).name in program.in_float
    assert datapath.agreement(program, q, [x]).equal_given_inputs > 0.999
    np.testing.assert_allclose(program(x), q(x), atol=1e-3 if which == "all" else 0.05)
    program.save(tmp_path / "program.safetensors")
    np.testing.assert_array_equal(gd.load(tmp_path / "program.safetensors").integers(x), program.integers(x))
    export.export_onnx(program, tmp_path / "qdq.onnx")
    difference = np.abs(run_onnx(tmp_path / "qdq.onnx", x, optimize=False) - q(x))
    assert np.mean(difference > 1e-3) < 0.01
    with pytest.raises(UnsupportedError, match=r"form=.qdq"):
        export.export_onnx(program, tmp_path / "integer.onnx", form="integer")


def test_tuning_counts_and_files(tmp_path: Path) -> None:
    x = normal(12, 6, 5, 4)
    net = gd.trace(
        lambda x: attention(x).reshape(x.shape[0], -1) @ np.tile(np.eye(5, dtype=np.float32), (24, 1)), x[:1]
    )
    # three projections, two products of 30 by 30 by 4, the head
    assert count_macs(net) == 3 * 30 * 16 + 2 * 30 * 30 * 4 + 120 * 5
    q = gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(scheme="max-abs"))
    assert gd.network.count_macs(tune.round_weights(q, x).network) == count_macs(net)
    q.save(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(gd.load(tmp_path / "net.safetensors")(x), q(x))
    datapath.compile(q).save(tmp_path / "program.safetensors")
    np.testing.assert_array_equal(
        gd.load(tmp_path / "program.safetensors").integers(x), datapath.compile(q).integers(x)
    )


CASES = {
    "two maps": [make_node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]), make_node("MatMul", ["x", "t"], ["y"])],
    "one matrix for all": [make_node("ReduceMean", ["x"], ["m"], axes=[1]), make_node("MatMul", ["x", "m"], ["y"])],
    "weight first": [make_node("MatMul", ["left", "x"], ["y"])],
    "weight of three axes": [make_node("MatMul", ["x", "many"], ["y"])],
    "weight of three axes first": [make_node("MatMul", ["many", "x"], ["y"])],
    "weight of one axis": [make_node("MatMul", ["x", "vector"], ["y"])],
    "weight of one axis first": [make_node("MatMul", ["vector", "x"], ["y"])],
    "einsum": [make_node("Einsum", ["x", "x"], ["y"], equation="bchw,bdhw->bcd")],
    "einsum, hidden axes": [make_node("Einsum", ["x", "x"], ["y"], equation="...ij,...kj->...ki")],
    "einsum, no arrow": [make_node("Einsum", ["x", "left"], ["y"], equation="bchw,kw")],
    "einsum, sums": [make_node("Einsum", ["x", "many"], ["y"], equation="bchw,cij->bih")],
    "einsum of one": [make_node("Einsum", ["x"], ["y"], equation="bchw->bwc")],
}


@pytest.mark.parametrize("name", CASES)
def test_onnx(name: str, tmp_path: Path) -> None:
    constants = {"left": normal(3, 5), "many": normal(4, 5, 5), "vector": normal(5)}
    x = normal(3, 4, 5, 5)
    read = {tensor for node in CASES[name] for tensor in node.input}
    model = make_model(CASES[name], ("batch", 4, 5, 5), {k: v for k, v in constants.items() if k in read})
    onnx.save(model, tmp_path / "net.onnx")
    net, expected = load_onnx(tmp_path / "net.onnx"), run_onnx(model, x)
    np.testing.assert_allclose(net(x), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(exported(net, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (make_node("Einsum", ["x", "x", "x"], ["y"], equation="bchw,bchw,bchw->b"), "more than two operands"),
        (make_node("Einsum", ["x"], ["y"], equation="bchh->bc"), "a diagonal"),
        (make_node("Einsum", ["x", "x"], ["y"], equation="bchw,bchw->chw"), "a sum over the batch: each image"),
        (make_node("Einsum", ["x"], ["y"], equation="bchw->chw"), "a sum over the batch: each image"),
        (make_node("Einsum", ["x", "x"], ["y"], equation="bchw,achw->ab"), "mixes the images of a batch"),
    ],
)
def test_refusals(node: object, message: str, tmp_path: Path) -> None:
    onnx.save(make_model([node], ("batch", 4, 5, 5)), tmp_path / "net.onnx")
    with pytest.raises(UnsupportedError, match=message):
        load_onnx(tmp_path / "net.onnx")


#: Functions whose products give the images as the second axis.
MIX = normal(6, 3)
IMAGES_SECOND = {
    "an enlargement": lambda x: jax.image.resize(x, (x.shape[0], 9, 4, 4), "linear"),
    "a weight first": lambda x: jnp.einsum("hd,bhwc->dbwc", MIX, x).transpose(1, 0, 2, 3),
    "heads first": lambda x: jnp.einsum("bhqc,bhkc->hbqk", x, x).transpose(1, 0, 2, 3),
}


def images_first(net: gd.Network, x: np.ndarray) -> None:
    """Count, round, compile: of five images in batches of two."""
    assert {net.graph.shape(m.tensor)[0] for m in net.graph.feature_maps()} == {None}
    calibration = gd.calibrate(net, [x[:2], x[2:4], x[4:]])
    whole = gd.calibrate(net, [x])
    np.testing.assert_array_equal(calibration.histograms.counts, whole.histograms.counts)
    q = tune.round_weights(gd.quantize(net, calibration, gd.QuantConfig(scheme="max-abs")), x)
    assert datapath.agreement(datapath.compile(q), q, [x]).equal_given_inputs > 0.999


@pytest.mark.parametrize("inner", IMAGES_SECOND.values(), ids=IMAGES_SECOND)
def test_images_are_the_first_axis_of_every_feature_map(inner: Callable[[jax.Array], jax.Array]) -> None:
    """They lay along the second: rounding failed, and the images of a padded batch could not be told from it."""
    x = normal(5, 6, 5, 4)
    size = int(np.prod(jax.eval_shape(inner, x[:1]).shape))
    head = normal(size, 3)
    first = normal(4, 4)
    images_first(gd.trace(lambda x: inner(jax.nn.relu(x @ first)).reshape(x.shape[0], -1) @ head, x[:1]), x)


def test_images_are_the_first_axis_in_files(tmp_path: Path) -> None:
    """Heads first, as some files have attention."""
    nodes = [
        make_node("MatMul", ["x", "v"], ["a"]),
        make_node("Transpose", ["a"], ["b"], perm=[1, 0, 2, 3]),
        make_node("Transpose", ["a"], ["c"], perm=[1, 0, 3, 2]),
        make_node("MatMul", ["b", "c"], ["d"]),
        make_node("Transpose", ["d"], ["e"], perm=[1, 0, 2, 3]),
        make_node("MatMul", ["e", "w"], ["y"]),
    ]
    x = normal(5, 2, 6, 4)
    model = make_model(nodes, ("batch", 2, 6, 4), {"v": normal(4, 4), "w": normal(6, 3)})
    onnx.save(model, tmp_path / "net.onnx")
    net = load_onnx(tmp_path / "net.onnx")
    np.testing.assert_allclose(net(x), run_onnx(model, x), rtol=1e-4, atol=1e-4)
    images_first(net, x)
