"""Files of operator sets 7 to 21, each form that an operator had: equal to ONNX Runtime, read and written again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime import exported, make_model, onnx, run_onnx

from ggdjax.network import load_onnx

IMAGE = ("batch", 4, 9, 8)


def one(operator: str, *more: str, **attributes: Any) -> list[Any]:
    """Return one node that reads ``x`` and names of constants, and gives ``y``."""
    return [onnx.helper.make_node(operator, ["x", *more], ["y"], **attributes)]


def nodes(*lines: tuple) -> list[Any]:
    """Return nodes, each from (operator, inputs, outputs, attributes)."""
    made = []
    for operator, inputs, outputs, *attributes in lines:
        given = attributes[0] if attributes else {}
        made.append(onnx.helper.make_node(operator, inputs.split(), outputs.split(), **given))
    return made


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def tensor(value: np.ndarray) -> Any:
    return onnx.numpy_helper.from_array(value)


KERNEL = {"w": draw(6, 4, 3, 3)}
NORM = {"s": draw(4), "b": draw(4), "m": draw(4), "v": np.abs(draw(4)) + 0.5}

#: name: (operator set, nodes, constants)
CASES: dict[str, tuple[int, list[Any], dict[str, np.ndarray]]] = {
    "conv pads 7": (7, one("Conv", "w", pads=[1, 0, 2, 1], strides=[2, 1]), KERNEL),
    "conv SAME_UPPER 7": (7, one("Conv", "w", auto_pad="SAME_UPPER", strides=[2, 3], kernel_shape=[3, 3]), KERNEL),
    "conv SAME_LOWER 11": (11, one("Conv", "w", auto_pad="SAME_LOWER", strides=[2, 2]), KERNEL),
    "conv VALID dilated 11": (11, one("Conv", "w", auto_pad="VALID", dilations=[2, 1]), KERNEL),
    "conv groups and bias 7": (7, one("Conv", "w", "b", group=2), {"w": draw(6, 2, 3, 3), "b": draw(6)}),
    "conv depthwise 17": (17, one("Conv", "w", group=4, pads=[1, 1, 1, 1]), {"w": draw(8, 1, 3, 3)}),
    "max pool 7": (7, one("MaxPool", kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_LOWER"), {}),
    "max pool ceil 10": (10, one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), {}),
    "max pool ceil and pads 12": (
        12,
        one("MaxPool", kernel_shape=[2, 2], strides=[2, 2], pads=[1] * 4, ceil_mode=1),
        {},
    ),
    "max pool dilated 12": (12, one("MaxPool", kernel_shape=[2, 3], dilations=[2, 2]), {}),
    "average pool 7": (7, one("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]), {}),
    "average pool, padding counted 7": (
        7,
        one("AveragePool", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
        {},
    ),
    "average pool ceil 10": (10, one("AveragePool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), {}),
    "average pool ceil, padding counted 19": (
        19,
        one("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=1, count_include_pad=1),
        {},
    ),
    "global average pool 7": (7, one("GlobalAveragePool"), {}),
    "global max pool 7": (7, one("GlobalMaxPool"), {}),
    "batch normalization 7": (7, one("BatchNormalization", *"sbmv", epsilon=1e-3, momentum=0.9), NORM),
    "batch normalization 9": (9, one("BatchNormalization", *"sbmv"), NORM),
    "batch normalization 15": (15, one("BatchNormalization", *"sbmv", training_mode=0), NORM),
    "local response normalization 7": (7, one("LRN", size=3, alpha=0.2, beta=0.6, bias=2.0), {}),
    "dropout 7": (7, one("Dropout", ratio=0.4), {}),
    "dropout 13": (13, one("Dropout", "r"), {"r": np.float32(0.4)}),
    "clip 7": (7, one("Clip", min=-0.5, max=0.75), {}),
    "clip one side 7": (7, one("Clip", min=0.0), {}),
    "clip without limits 13": (13, nodes(("Relu", "x", "r"), ("Clip", "r", "y")), {}),
    "clip 11": (11, one("Clip", "l", "h"), {"l": np.float32(-0.5), "h": np.float32(0.75)}),
    "clip one side 13": (13, one("Clip", "", "h"), {"h": np.float32(0.75)}),
    "pad 7": (7, one("Pad", pads=[0, 0, 1, 2, 0, 0, 0, 1], value=0.5), {}),
    "pad reflect 7": (7, one("Pad", pads=[0, 0, 1, 2, 0, 0, 0, 1], mode="reflect"), {}),
    "pad 11": (11, one("Pad", "p", "c"), {"p": ints(0, 1, 1, 2, 0, 0, 0, 1), "c": np.float32(0.5)}),
    "pad edge 13": (13, one("Pad", "p", mode="edge"), {"p": ints(0, 0, 1, 2, 0, 0, 0, 1)}),
    "pad axes 18": (18, one("Pad", "p", "", "a"), {"p": ints(1, -2, 0, 1), "a": ints(2, -1)}),
    "flatten 7": (7, one("Flatten"), {}),
    "flatten 11": (11, one("Flatten", axis=-3), {}),
    "reshape 7": (7, one("Reshape", "t"), {"t": ints(0, -1, 8)}),
    "reshape by a Constant node 7": (
        7,
        nodes(("Constant", "", "t", {"value": tensor(ints(-1, 288))}), ("Reshape", "x t", "y")),
        {},
    ),
    "reshape, ints as attribute 13": (
        13,
        nodes(("Constant", "", "t", {"value_ints": [0, 8, 36]}), ("Reshape", "x t", "y")),
        {},
    ),
    "reshape by computed shape 11": (
        11,
        nodes(
            ("Shape", "x", "shape"),
            ("Gather", "shape i", "n"),
            ("Unsqueeze", "n", "n1", {"axes": [0]}),
            ("Concat", "n1 minus", "t", {"axis": 0}),
            ("Reshape", "x t", "y"),
        ),
        {"i": np.int64(0), "minus": ints(-1)},
    ),
    "reshape with a fixed batch 9": (9, one("Reshape", "t"), {"t": ints(1, 288)}),
    "reshape with a fixed batch, the rest open 9": (9, one("Reshape", "t"), {"t": ints(1, -1)}),
    "squeeze 7": (7, nodes(("GlobalAveragePool", "x", "p"), ("Squeeze", "p", "y", {"axes": [2, 3]})), {}),
    "squeeze 13": (13, nodes(("GlobalAveragePool", "x", "p"), ("Squeeze", "p a", "y")), {"a": ints(-1, 2)}),
    "unsqueeze 7": (7, one("Unsqueeze", axes=[1, 5]), {}),
    "unsqueeze 13": (13, one("Unsqueeze", "a"), {"a": ints(-1, 1)}),
    "transpose 7": (7, one("Transpose", perm=[0, 2, 3, 1]), {}),
    "reduce mean 7": (7, one("ReduceMean", axes=[2, 3], keepdims=0), {}),
    "reduce mean 18": (18, one("ReduceMean", "a", keepdims=1), {"a": ints(-2, -1)}),
    "reduce sum 11": (11, one("ReduceSum", axes=[1], keepdims=0), {}),
    "reduce sum 13": (13, one("ReduceSum", "a", keepdims=0), {"a": ints(1, 3)}),
    "reduce max 12": (12, one("ReduceMax", axes=[-1], keepdims=1), {}),
    "slice 7": (7, one("Slice", starts=[1, 0], ends=[1000, -1], axes=[2, 3]), {}),
    "slice 10": (
        10,
        one("Slice", "s", "e", "a", "p"),
        {"s": ints(-1, 0), "e": ints(-99, 7), "a": ints(2, 3), "p": ints(-2, 2)},
    ),
    "split 7": (7, nodes(("Split", "x", "p q", {"axis": 1, "split": [1, 3]}), ("Add", "p q", "y")), {}),
    "split 13": (
        13,
        nodes(("Split", "x s", "p q", {"axis": -1}), ("Concat", "q p", "y", {"axis": 3})),
        {"s": ints(3, 5)},
    ),
    "split 18": (18, nodes(("Split", "x", "p q r", {"axis": 2, "num_outputs": 3}), ("Sub", "p r", "y")), {}),
    "softmax 7": (7, one("Softmax"), {}),
    "softmax 13": (13, one("Softmax", axis=1), {}),
    "prelu 7": (7, one("PRelu", "s"), {"s": draw(4, 1, 1)}),
    "leaky relu 7": (7, one("LeakyRelu", alpha=0.1), {}),
    "hard sigmoid 7": (7, one("HardSigmoid", alpha=0.3), {}),
    "hard swish 14": (14, one("HardSwish"), {}),
    "hard swish spelled out 11": (
        11,
        nodes(("Add", "x t", "a"), ("Clip", "a z s", "c"), ("Mul", "x c", "m"), ("Div", "m s", "y")),
        {"t": np.float32(3), "z": np.float32(0), "s": np.float32(6)},
    ),
    "sum of several 8": (8, nodes(("Relu", "x", "r"), ("Abs", "x", "a"), ("Sum", "x r a", "y")), {}),
    "maximum of a constant 8": (8, one("Max", "l"), {"l": np.float32(-0.25)}),
    "minimum of two 12": (12, nodes(("Abs", "x", "a"), ("Sqrt", "a", "q"), ("Min", "q a", "y")), {}),
    "power 7": (7, nodes(("Abs", "x", "a"), ("Pow", "a e", "y")), {"e": np.float32(1.5)}),
    "expand 8": (8, nodes(("GlobalAveragePool", "x", "p"), ("Expand", "p t", "y")), {"t": ints(1, 4, 3, 5)}),
    "cast and identity 13": (13, nodes(("Identity", "x", "i"), ("Cast", "i", "y", {"to": 1})), {}),
    "constant arithmetic 12": (
        12,
        nodes(
            ("Constant", "", "c", {"value_float": 2.0}),
            ("ConstantOfShape", "t", "o", {"value": tensor(np.ones(1, np.float32))}),
            ("Mul", "o c", "w"),
            ("Mul", "w x", "y"),
        ),
        {"t": ints(4, 1, 1)},
    ),
    "upsample 7": (7, one("Upsample", scales=[1.0, 1.0, 2.0, 3.0]), {}),
    "upsample linear 9": (9, one("Upsample", "s", mode="linear"), {"s": np.float32([1, 1, 2, 2])}),
    "resize 10": (10, one("Resize", "s"), {"s": np.float32([1, 1, 2, 0.5])}),
    "resize scales 11": (11, one("Resize", "r", "s", mode="linear"), {"r": draw(0), "s": np.float32([1, 1, 2, 1.5])}),
    "resize sizes 11": (
        11,
        nodes(
            ("Shape", "x", "shape"),
            ("Slice", "shape zero two", "front"),
            ("Concat", "front size", "t", {"axis": 0}),
            (
                "Resize",
                "x r r t",
                "y",
                {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
            ),
        ),
        {"r": draw(0), "zero": ints(0), "two": ints(2), "size": ints(18, 12)},
    ),
    "resize nearest 13": (
        13,
        one("Resize", "", "s", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        {"s": np.float32([1, 1, 2, 2])},
    ),
    "resize to an integer in float32 only 13": (
        13,
        one("Resize", "", "s", mode="linear"),
        {"s": np.float32([1, 1, 5 / 3, 1])},
    ),
    "resize axes 18": (18, one("Resize", "", "s", axes=[2, 3], mode="linear"), {"s": np.float32([2, 1.5])}),
}
#: Of a vector: (operator set, node, constants)
DENSE: dict[str, tuple[int, list[Any], dict[str, np.ndarray]]] = {
    "gemm 7": (7, one("Gemm", "w", "b"), {"w": draw(12, 5), "b": draw(5)}),
    "gemm transposed and scaled 9": (
        9,
        one("Gemm", "w", "b", transB=1, alpha=0.5, beta=2.0),
        {"w": draw(5, 12), "b": draw(1, 5)},
    ),
    "gemm without bias 11": (11, one("Gemm", "w"), {"w": draw(12, 5)}),
    "matmul and add 7": (7, nodes(("MatMul", "x w", "m"), ("Add", "m b", "y")), {"w": draw(12, 5), "b": draw(5)}),
}


def _check(tmp_path: Path, shape: tuple, case: tuple, tolerance: float = 1e-5) -> None:
    opset, made, constants = case
    model = make_model(made, shape, constants, opset=opset)
    onnx.save(model, tmp_path / "model.onnx")
    net = load_onnx(tmp_path / "model.onnx")
    # To ONNX Runtime a batch size that is written down is fixed; to us it is free.
    fixed = np.ravel(constants.get("t", ())).tolist() in ([1, 288], [1, -1])
    assert net.output_shape[0] is None
    x = draw(1 if fixed else 2, *shape[1:])
    expected = run_onnx(model, x)
    for actual in (np.asarray(net(x)), exported(net, x)):
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_images(tmp_path: Path, name: str) -> None:
    _check(tmp_path, IMAGE, CASES[name])


@pytest.mark.parametrize("name", DENSE)
def test_vectors(tmp_path: Path, name: str) -> None:
    _check(tmp_path, ("batch", 12), DENSE[name])
