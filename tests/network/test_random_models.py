"""Random ONNX models and JAX functions, and a small model of each kind that they once found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
from runtime import make_model, onnx, run_onnx

from experiments import random_functions, random_onnx
from experiments.onnx_runtime import session
from ggdjax._errors import ModelError, UnsupportedError
from ggdjax.network import Network, load_onnx
from ggdjax.network._builder import GraphBuilder, View

make_node = onnx.helper.make_node


pytestmark = pytest.mark.usefixtures("quickly_compiled")


@pytest.mark.parametrize("seeds", [range(10 * k, 10 * k + 10) for k in range(4)], ids=str)
def test_random_onnx_models_are_read_as_onnx_runtime_does(seeds: range) -> None:
    outcomes = [random_onnx.check(seed) for seed in seeds]
    assert [(o.seed, o.said) for o in outcomes if o.state == "different"] == []
    assert sum(o.state == "equal" for o in outcomes) >= 8


@pytest.mark.parametrize("seeds", [range(6 * k, 6 * k + 6) for k in range(4)], ids=str)
def test_random_functions_are_traced_as_they_compute(seeds: range) -> None:
    outcomes = [random_functions.check(seed) for seed in seeds]
    assert [(o.seed, o.said) for o in outcomes if o.state == "different"] == []
    assert sum(o.state == "equal" for o in outcomes) >= 4


def test_the_check_sees_a_wrong_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def altered(path: Path, **more: object) -> Network:
        net = load_onnx(path, **more)
        return replace(net, params={key: 1.001 * value for key, value in net.params.items()})

    monkeypatch.setattr(random_onnx.gd, "load_onnx", altered)
    assert any(random_onnx.check(seed).state == "different" for seed in range(8))


def load(tmp_path: Path, *args: object, opset: int = 17, **more: object) -> tuple[object, Network]:
    model = make_model(*args, opset=opset)
    onnx.save(model, tmp_path / "net.onnx")
    return model, load_onnx(tmp_path / "net.onnx", **more)


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


NODES = {
    "a weight with an axis in front": ([make_node("MatMul", ["x", "w"], ["y"])], (4, 5), {"w": numbers(1, 5, 3)}, 17),
    "a dilated window in ceil mode": (
        [make_node("MaxPool", ["x"], ["y"], auto_pad="VALID", ceil_mode=1, kernel_shape=[3], strides=[3])],
        (2, 8),
        {},
        17,
    ),
    "a window narrower than its stride": (
        [make_node("ConvTranspose", ["x", "w"], ["y"], auto_pad="SAME_LOWER", strides=[2, 3])],
        (2, 3, 4),
        {"w": numbers(2, 1, 1, 2)},
        17,
    ),
    "a tie of nearest": (
        [
            make_node(
                "Resize",
                ["x", "", "s"],
                ["y"],
                mode="nearest",
                nearest_mode="ceil",
                coordinate_transformation_mode="pytorch_half_pixel",
            )
        ],
        (2, 3, 6),
        {"s": np.float32([1, 1, 5 / 3, 3])},
        17,
    ),
    "nearest, smaller and larger, as of old": (
        [make_node("Resize", ["x", "s"], ["y"], mode="nearest")],
        (2, 4, 6),
        {"s": np.float32([1, 1, 5 / 3, 0.6])},
        10,
    ),
    "a class token": (
        [
            make_node("Shape", ["x"], ["shape"]),
            make_node("Slice", ["shape", "zero", "one"], ["images"]),
            make_node("Concat", ["images", "rest"], ["target"], axis=0),
            make_node("Expand", ["token", "target"], ["tokens"]),
            make_node("Concat", ["tokens", "x"], ["joined"], axis=1),
            make_node("Add", ["joined", "tokens"], ["y"]),
        ],
        (4, 3),
        {"zero": np.int64([0]), "one": np.int64([1]), "rest": np.int64([1, 3]), "token": numbers(1, 1, 3)},
        17,
    ),
    "equality with a number": (
        [
            make_node("Relu", ["x"], ["r"]),
            make_node("Equal", ["r", "zero"], ["e"]),
            make_node("ReduceMax", ["x"], ["m"], axes=[2]),
            make_node("Where", ["e", "m", "x"], ["y"]),
        ],
        (4, 3),
        {"zero": np.float32(0)},
        17,
    ),
    "a choice of a smaller condition": (
        [
            make_node("ReduceMax", ["x"], ["m"], axes=[2]),
            make_node("Greater", ["m", "c"], ["e"]),
            make_node("Where", ["e", "x", "row"], ["y"]),
        ],
        (4, 3),
        {"c": np.float32(0.5), "row": numbers(3)},
        17,
    ),
    "one-hot of integers": (
        [
            make_node("Abs", ["x"], ["a"]),
            make_node("Clip", ["a", "low", "one"], ["c"]),
            make_node("Reshape", ["c", "column"], ["r"]),
            make_node("Equal", ["r", "classes"], ["e"]),
            make_node("Cast", ["e"], ["y"], to=1),
        ],
        (4, 3),
        {
            "low": np.float32(1),
            "one": np.float32(1),
            "column": np.int64([-1, 4, 3, 1]),
            "classes": np.float32([0, 1, 2, 3]),
        },
        17,
    ),
    "a comparison of two tensors": (
        [
            make_node("ReduceMean", ["x"], ["m"], axes=[2]),
            make_node("Less", ["m", "x"], ["e"]),
            make_node("Where", ["e", "x", "m"], ["y"]),
        ],
        (4, 3),
        {},
        17,
    ),
    "comparisons with numbers of every element": (
        [
            make_node("LessOrEqual", ["row", "x"], ["e"]),
            make_node("Not", ["e"], ["n"]),
            make_node("Cast", ["n"], ["c"], to=1),
            make_node("Max", ["c", "infinite"], ["y"]),
        ],
        (4, 3),
        {"row": numbers(4, 3), "infinite": np.float32(-np.inf)},
        17,
    ),
}


@pytest.mark.parametrize("name", NODES)
def test_kinds_that_onnx_models_found(name: str, tmp_path: Path) -> None:
    nodes, shape, constants, opset = NODES[name]
    model, net = load(tmp_path, nodes, ("images", *shape), constants, opset=opset)
    for batch in (1, 3):
        x = numbers(batch, *shape)
        np.testing.assert_allclose(net(x), run_onnx(model, x, optimize=False), rtol=1e-5, atol=1e-5)


def test_a_declared_batch_in_another_place_mixes_no_images(tmp_path: Path) -> None:
    nodes = [
        make_node("Shape", ["x"], ["shape"]),
        make_node("Gather", ["shape", "zero"], ["one"]),
        make_node("Concat", ["front", "one", "back"], ["target"], axis=0),
        make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"zero": np.int64([0]), "front": np.int64([1, 3]), "back": np.int64([2])}
    model, net = load(tmp_path, nodes, (1, 3, 2), constants)
    x = numbers(4, 3, 2)
    np.testing.assert_array_equal(net(x), np.concatenate([run_onnx(model, x[k : k + 1]) for k in range(4)]))


@pytest.mark.parametrize(
    ("node", "shape", "message"),
    [
        (make_node("MaxPool", ["x"], ["y"], kernel_shape=[3], strides=[2]), ("n", 2, 2), "window of 3 on 2 positions"),
        (make_node("ArgMax", ["x"], ["y"], axis=0, select_last_index=1), ("n", 4), "a reduction over the batch"),
    ],
)
def test_refusals_are_true(node: object, shape: tuple, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=message):
        load(tmp_path, [node], shape)


def test_one_result_for_all_images_is_refused() -> None:
    builder = GraphBuilder()
    view = builder.add_input("x", ((2, 3), (3, 3)))
    total = builder.emit("sum", [view.tensor], name="total", attrs={"axes": (0,), "keepdims": False})
    with pytest.raises(UnsupportedError, match="`total` is one result for all images"):
        builder.finish([View(total, (0,))])


def test_operators_of_other_domains_alone(tmp_path: Path) -> None:
    model = make_model([make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml")], (1, 3))
    model.opset_import[0].domain = "ai.onnx.ml"
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=r"operators of other domains alone \(ai.onnx.ml\)"):
        load_onnx(tmp_path / "net.onnx")


def branch(name: str, *nodes: object) -> object:
    float32 = onnx.TensorProto.FLOAT
    return onnx.helper.make_graph(nodes, name, [], [onnx.helper.make_tensor_value_info(f"{name}_y", float32, None)])


def choosing(condition: str) -> list:
    return [
        make_node("Equal", [condition, "wanted"], ["c"]),
        make_node("Relu", ["x"], ["r"]),
        make_node(
            "If",
            ["c"],
            ["y"],
            then_branch=branch("then", make_node("Add", ["r", "x"], ["then_y"])),
            else_branch=branch("else", make_node("Neg", ["r"], ["else_y"])),
        ),
    ]


def with_inputs(nodes: list, constants: dict, **inputs: tuple) -> object:
    model = make_model(nodes, ("n", 3), constants)
    for name, (kind, shape) in inputs.items():
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    return model


def test_values_of_other_inputs(tmp_path: Path) -> None:
    kinds = onnx.TensorProto
    nodes = [*choosing("rate"), make_node("Add", ["y", "state"], ["z"])]
    model = with_inputs(nodes, {"wanted": np.int64(16)}, rate=(kinds.INT64, []), state=(kinds.FLOAT, ["n", 3]))
    model.graph.output[0].name = "z"
    onnx.save(model, path := tmp_path / "net.onnx")
    x, state = numbers(5, 3), numbers(1, 3)
    for rate, expected in ((16, np.maximum(x, 0) + x), (8, -np.maximum(x, 0))):
        net = load_onnx(path, constants={"rate": rate, "state": state})
        np.testing.assert_allclose(net(x), expected + state, rtol=1e-6)
    net = load_onnx(path, constants={"rate": 16, "state": 2})
    np.testing.assert_allclose(net(x), np.maximum(x, 0) + x + 2, rtol=1e-6)
    with pytest.raises(ModelError, match=r"tensor `state` \(node `.*`\) holds NaN or infinity"):
        load_onnx(path, constants={"rate": 16, "state": float("nan")})
    with pytest.raises(ModelError, match=r"`output` is a list of 2, .*; `outputs` takes several"):
        load_onnx(path, constants={"rate": 16, "state": 2}, output=["y", "z"])
    with pytest.raises(ModelError, match="inputs: `x`, `state`: give the values of all others by `constants`"):
        load_onnx(path, constants={"rate": 16})
    with pytest.raises(ModelError, match=r"`constants` holds `rates`, .* did you mean `rate`"):
        load_onnx(path, constants={"rates": 16})
    with pytest.raises(ModelError, match=r"an array of shape \(4,\) for input `state`, which declares \(None, 3\)"):
        load_onnx(path, constants={"rate": 16, "state": np.zeros(4)})
    with pytest.raises(ModelError, match="no numbers for input `rate`: 'many'"):
        load_onnx(path, constants={"rate": "many", "state": state})


@pytest.fixture
def guided(tmp_path: Path) -> Path:
    """A network of images and of a map for each, both of open sizes, and of a table whose length is its own."""
    nodes = [
        make_node("Concat", ["x", "guide"], ["joined"], axis=1),
        make_node("Conv", ["joined", "w"], ["found"], pads=[1] * 4),
        make_node("ReduceSum", ["table"], ["total"], keepdims=0),
        make_node("Add", ["found", "total"], ["y"]),
    ]
    model = make_model(nodes, ("n", 3, "height", "width"), {"w": numbers(2, 4, 3, 3)})
    kind = onnx.TensorProto.FLOAT
    for name, shape in (("guide", ["n", 1, "height", "width"]), ("table", ["length"])):
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    onnx.save(model, path := tmp_path / "guided.onnx")
    return path


@pytest.mark.parametrize("guide", ["number", "map"])
def test_several_inputs_of_open_sizes(guided: Path, guide: str) -> None:
    given = np.float32(0.5) if guide == "number" else numbers(1, 1, 6, 5)
    net = load_onnx(guided, input_shape=(1, 3, 6, 5), constants={"guide": given, "table": [1, 2]})
    assert net.input_shape == (None, 3, 6, 5)
    x = numbers(4, 3, 6, 5)
    feeds = {"x": x, "guide": np.broadcast_to(given, (4, 1, 6, 5)), "table": np.float32([1, 2])}
    wanted = session(guided.read_bytes()).run(None, feeds)[0]
    np.testing.assert_allclose(net(x), wanted, rtol=1e-5, atol=1e-5)


def test_several_inputs_of_open_sizes_that_are_refused(guided: Path) -> None:
    with pytest.raises(ModelError, match=r"inputs: `x`, `table`: give the values of all others by `constants`"):
        load_onnx(guided, input_shape=(1, 3, 6, 5), constants={"guide": 0})
    with pytest.raises(ModelError, match=r"input `x` of .* has open dimensions .*: give `input_shape`"):
        load_onnx(guided, constants={"guide": 0, "table": 0})
    with pytest.raises(ModelError, match=r"shape \(1, 1, 5, 5\) for input `guide`, which declares \(None, 1, 6, 5\)"):
        load_onnx(guided, input_shape=(1, 3, 6, 5), constants={"guide": np.zeros((1, 1, 5, 5)), "table": 0})


def test_a_condition_that_no_constant_decides_is_refused(tmp_path: Path) -> None:
    nodes = [make_node("ReduceMax", ["x"], ["m"], keepdims=0), *choosing("m")]
    with pytest.raises(UnsupportedError, match=r"control flow `If` \(node .*\) that no constant decides"):
        load(tmp_path, nodes, (1, 3), {"wanted": np.float32(0)})
