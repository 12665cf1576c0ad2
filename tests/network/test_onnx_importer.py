"""What a file may be beside its operators: external data, several outputs, float16, open shapes; and every refusal."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime import make_model, onnx, run_onnx

import ggdjax as gd
from ggdjax._errors import GgdjaxError, ModelError
from ggdjax.network import load_onnx

make_node = onnx.helper.make_node
RNG = np.random.default_rng(3)
WEIGHTS = {
    "w": RNG.standard_normal((8, 3, 3, 3)).astype(np.float32),
    "b": RNG.standard_normal(8).astype(np.float32),
    "v": RNG.standard_normal((8, 5)).astype(np.float32),
}
NODES = [
    make_node("Conv", ["x", "w", "b"], ["conv"], "conv"),
    make_node("Relu", ["conv"], ["act"], "act"),
    make_node("GlobalAveragePool", ["act"], ["pool"], "pool"),
    make_node("Flatten", ["pool"], ["flat"], "flat"),
    make_node("Gemm", ["flat", "v"], ["y"], "gemm"),
]
X = RNG.standard_normal((2, 3, 6, 6)).astype(np.float32)


def _save(path: Path, nodes: list[Any] = NODES, shape: tuple = ("batch", 3, 6, 6), **more: Any) -> Path:
    onnx.save(make_model(nodes, shape, WEIGHTS, **more), path)
    return path


def test_external_data(tmp_path: Path) -> None:
    model = make_model(NODES, ("batch", 3, 6, 6), WEIGHTS)
    expected = run_onnx(model, X)
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    np.testing.assert_allclose(load_onnx(path)(X), expected, rtol=1e-5, atol=1e-5)
    data = (tmp_path / "net.data").read_bytes()
    (tmp_path / "net.data").write_bytes(data[:100])
    with pytest.raises(ModelError, match=r"external data of `.*net.onnx` is missing or damaged"):
        load_onnx(path)
    (tmp_path / "net.data").unlink()
    with pytest.raises(ModelError, match=r"external data of `.*net.onnx` is missing or damaged: .*net\.data"):
        load_onnx(path)


def test_several_outputs_are_chosen_by_name(tmp_path: Path) -> None:
    path = _save(tmp_path / "net.onnx", outputs=("y", "pool"))
    with pytest.raises(ModelError, match="several outputs: choose one of y, pool by `output`, or some by `outputs`"):
        load_onnx(path)
    with pytest.raises(ModelError, match="'pol' is no tensor of the model; did you mean `pool`"):
        load_onnx(path, "pol")
    for wrong in ("y", [], ["y", "y"]):
        with pytest.raises(ModelError, match=r"give names of tensors, each once, without `output`; .* are y, pool"):
            load_onnx(path, outputs=wrong)
    with pytest.raises(ModelError, match="`outputs`: 'pol' is no tensor of the model; did you mean `pool`"):
        load_onnx(path, outputs=["y", "pol"])
    logits, pooled = load_onnx(path, outputs=("y", "pool"))(X)
    assert logits.shape == (2, 5)
    assert pooled.shape == (2, 8, 1, 1)
    assert load_onnx(path, "pool").output_shape == (None, 8, 1, 1)
    # Any tensor will do: what it does not need is left out.
    inner = load_onnx(path, "act")
    assert inner.output_shape == (None, 8, 4, 4)
    assert [node.op for node in inner.graph.nodes][-1] == "transpose"
    np.testing.assert_allclose(load_onnx(path, "y")(X), run_onnx(path, X), rtol=1e-5, atol=1e-5)


def test_nodes_that_read_one_tensor_share_one_array(tmp_path: Path) -> None:
    """An unrolled loop reads its weight once for each of its steps."""
    weights = {"w": RNG.standard_normal((8, 8)).astype(np.float32), "b": RNG.standard_normal(8).astype(np.float32)}
    names = ["x", "h1", "h2", "h3"]
    nodes = [make_node("Gemm", [x, "w", "b"], [y], y, transB=1) for x, y in pairwise(names)]
    path = tmp_path / "net.onnx"
    onnx.save(make_model(nodes, ("batch", 8), weights, outputs=("h3",)), path)
    net = load_onnx(path)
    net.save(tmp_path / "net.safetensors")
    x = RNG.standard_normal((2, 8))
    for found in (net, gd.load(tmp_path / "net.safetensors")):
        assert len(found.params) == 6
        assert len({id(value) for value in found.params.values()}) == 2
        np.testing.assert_array_equal(found(x), net(x))


def test_float16_weights_become_float32(tmp_path: Path) -> None:
    half = {f"{name}16": value.astype(np.float16) for name, value in WEIGHTS.items()}
    casts = [make_node("Cast", [f"{name}16"], [name], to=onnx.TensorProto.FLOAT) for name in WEIGHTS]
    onnx.save(make_model([*casts, *NODES], ("batch", 3, 6, 6), half), tmp_path / "net.onnx")
    net = load_onnx(tmp_path / "net.onnx")
    assert {str(value.dtype) for value in net.params.values()} == {"float32"}
    np.testing.assert_allclose(net(X), run_onnx(tmp_path / "net.onnx", X), rtol=1e-5, atol=1e-5)


def test_a_float16_network_is_computed_in_float32(tmp_path: Path) -> None:
    float16 = onnx.TensorProto.FLOAT16
    graph = onnx.helper.make_graph(
        NODES,
        "half",
        [onnx.helper.make_tensor_value_info("x", float16, ["batch", 3, 6, 6])],
        [onnx.helper.make_tensor_value_info("y", float16, None)],
        [onnx.numpy_helper.from_array(value.astype(np.float16), name) for name, value in WEIGHTS.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    expected = run_onnx(model, X.astype(np.float16)).astype(np.float32)
    np.testing.assert_allclose(load_onnx(tmp_path / "net.onnx")(X), expected, rtol=2e-2, atol=2e-2)


def test_weights_listed_as_inputs_and_a_fixed_batch(tmp_path: Path) -> None:
    model = make_model(NODES[:-1], (1, 3, 6, 6), WEIGHTS, opset=8, outputs=("flat",))
    for name, value in WEIGHTS.items():  # as files of intermediate representation 3 do
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, value.shape))
    onnx.save(model, tmp_path / "net.onnx")
    net = load_onnx(tmp_path / "net.onnx")
    assert net.input_shape == (None, 3, 6, 6)
    expected = np.concatenate([run_onnx(model, x[None]) for x in X])
    np.testing.assert_allclose(net(X), expected, rtol=1e-5, atol=1e-5)


def test_open_image_sizes_are_given_by_the_user(tmp_path: Path) -> None:
    path = _save(tmp_path / "net.onnx", shape=("batch", 3, "height", "width"))
    with pytest.raises(ModelError, match=r"input `x` of .* has open dimensions .*: give `input_shape`"):
        load_onnx(path)
    net = load_onnx(path, input_shape=(1, 3, 6, 6))
    assert net.input_shape == (None, 3, 6, 6)
    np.testing.assert_allclose(net(X), run_onnx(path, X), rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match=r"`input_shape` is \(1, 4, 6, 6\); .* declares \(batch, 3, height, width\)"):
        load_onnx(path, input_shape=(1, 4, 6, 6))
    with pytest.raises(ModelError, match=r"`input_shape` is \(1, 3, 6\); "):
        load_onnx(path, input_shape=(1, 3, 6))
    with pytest.raises(ModelError, match=r"`input_shape` is \(1, 3, 6, 'w'\); "):
        load_onnx(path, input_shape=(1, 3, 6, "w"))


def _branch(name: str) -> Any:
    value = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)
    return onnx.helper.make_graph([make_node(name, ["x"], ["out"])], name, [], [value])


SHAPED = ("batch", 3, 6, 6)
REFUSALS: dict[str, tuple[list[Any], dict[str, np.ndarray], str]] = {
    "outside the set": (
        [make_node("Asinh", ["x"], ["y"], "m")],
        {},
        r"unsupported operator `Asinh` \(node `m`\); supported: ",
    ),
    "another domain": (
        [make_node("Thing", ["x"], ["y"], domain="com.acme")],
        {},
        r"unsupported operator `com.acme.Thing` \(node `thing.y`\)",
    ),
    "if": (
        [
            make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            make_node("Greater", ["largest", "c"], ["above"]),
            make_node("If", ["above"], ["y"], then_branch=_branch("Relu"), else_branch=_branch("Abs")),
        ],
        {"c": np.float32(0)},
        r"control flow `If` \(node `if.y`\) that no constant decides: a network is one fixed sequence of operations",
    ),
    "scan": (
        [make_node("Scan", ["x"], ["y"], num_scan_inputs=1, body=_branch("Relu"))],
        {},
        r"control flow `Scan`",
    ),
    "loop": (
        [make_node("Loop", ["n", "", "x"], ["y"], body=_branch("Relu"))],
        {"n": np.int64(3)},
        "control flow `Loop`",
    ),
    "lstm": (
        [make_node("LSTM", ["x", "w", "w"], ["y"], "cell", hidden_size=8)],
        {},
        r"recurrent layer `LSTM` \(node `cell`\): feed-forward convolutional networks are supported",
    ),
    "shape from values": (
        [make_node("ReduceMax", ["x"], ["m"], axes=[1, 2, 3], keepdims=0), make_node("Reshape", ["x", "m"], ["y"])],
        {},
        "`m` computed from the network's input; a constant is needed",
    ),
    "training": ([make_node("Dropout", ["x", "", "t"], ["y"])], {"t": np.asarray(True)}, "dropout in training mode"),
    "batch norm in training": (
        [make_node("BatchNormalization", ["x", *"sbmv"], ["y"], training_mode=1)],
        {name: np.ones(3, np.float32) for name in "sbmv"},
        "batch normalization in training mode",
    ),
    "batch concatenated": ([make_node("Concat", ["x", "x"], ["y"], axis=0)], {}, "a concatenation along the batch"),
    "batch reduced": ([make_node("ReduceMean", ["x"], ["y"], axes=[0])], {}, "a reduction over the batch"),
    "batch sliced": (
        [make_node("Slice", ["x", "o", "l", "o"], ["y"])],
        {"o": np.zeros(1, np.int64), "l": np.ones(1, np.int64)},
        "a slice of the batch dimension",
    ),
    "computed indices": (
        [make_node("ArgMax", ["x"], ["i"], axis=1), make_node("GatherElements", ["x", "i"], ["y"], "g", axis=1)],
        {},
        r"a choice by indices that the network computes; choose a tensor before it as the output .* node `g`",
    ),
    "elements of the first image": (
        [make_node("GatherElements", ["x", "i"], ["y"], axis=1)],
        {"i": np.zeros((1, 3, 6, 6), np.int64)},
        "elements of some images, or others of each",
    ),
    "batch padded": (
        [make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2, 3]), make_node("Pad", ["t", "p"], ["y"])],
        {"p": np.asarray([0, 1, 0, 0, 0, 0, 0, 0])},
        "padding of the batch",
    ),
    "resized by an old rule": (
        [make_node("Resize", ["x", "", "r"], ["y"], coordinate_transformation_mode="tf_half_pixel_for_nn")],
        {"r": np.float32([1, 1, 2, 2])},
        "resizing other than",
    ),
    "scales along no axis": (
        [make_node("DequantizeLinear", ["q", "s"], ["d"], "dq"), make_node("Add", ["x", "d"], ["y"])],
        {"q": np.zeros(6, np.int32), "s": np.ones(6, np.float32)},
        r"scales along axis 1 of a tensor of 1 axes; give the attribute `axis` .* node `dq`",
    ),
    "batch softmax": ([make_node("Softmax", ["x"], ["y"], axis=0)], {}, "softmax over the batch"),
    "wrong channels": (
        [make_node("Conv", ["x", "k"], ["y"], "c")],
        {"k": np.ones((4, 5, 3, 3), np.float32)},
        r"node `c` \(conv\) does not accept inputs of shape",
    ),
    "not a number": (
        [make_node("Conv", ["x", "k"], ["y"], "c")],
        {"k": np.full((4, 3, 3, 3), np.nan, np.float32)},
        r"tensor `k` \(node `c`\) holds NaN or infinity",
    ),
    "nothing produces it": (
        [make_node("Add", ["x", "ghost"], ["y"], "a")],
        {},
        "node `a` reads `ghost`, which nothing produces",
    ),
    "a constant": (
        [make_node("Identity", ["k"], ["y"])],
        {"k": np.ones(3, np.float32)},
        "does not depend on the network's input",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(tmp_path: Path, name: str) -> None:
    nodes, constants, message = REFUSALS[name]
    onnx.save(make_model(nodes, SHAPED, WEIGHTS | constants), tmp_path / "net.onnx")
    with pytest.raises(GgdjaxError, match=message) as caught:
        load_onnx(tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)


def test_codes_by_output_dtype_alone(tmp_path: Path) -> None:
    nodes = [
        make_node("QuantizeLinear", ["x", "s"], ["q"], output_dtype=onnx.TensorProto.INT8),
        make_node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    onnx.save(make_model(nodes, ("batch", 3), {"s": np.float32(0.5)}, opset=21), tmp_path / "net.onnx")
    net = load_onnx(tmp_path / "net.onnx")
    np.testing.assert_array_equal(net(np.float32([[-90.0, -0.5, 90.0]])), [[-64.0, -0.5, 63.5]])


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = _save(tmp_path / "net.onnx")
    (tmp_path / "half.onnx").write_bytes(path.read_bytes()[:300])
    (tmp_path / "text.onnx").write_text("no network", encoding="utf-8")
    for name in ("half", "text"):
        with pytest.raises(ModelError, match="cannot be read as ONNX"):
            load_onnx(tmp_path / f"{name}.onnx")
    with pytest.raises(ModelError, match=r"no model file `.*absent\.onnx`"):
        load_onnx(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match=r"uses operator set 6; 7 is the oldest .* `onnx.version_converter`"):
        load_onnx(_save(tmp_path / "old.onnx", opset=6))
    two = make_model([make_node("Add", ["x", "z"], ["y"])], SHAPED)
    two.graph.input.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1]))
    onnx.save(two, tmp_path / "two.onnx")
    with pytest.raises(ModelError, match=r"one input, a batch of images; this model's inputs: `x`, `z`"):
        load_onnx(tmp_path / "two.onnx")
