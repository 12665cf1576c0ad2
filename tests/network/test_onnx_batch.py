"""Files whose shapes name the batch size: a batch of one becomes any batch, and what mixes images keeps its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime import exported, make_model, onnx, run_onnx

from ggdjax._errors import DataError, GgdjaxError, ModelError, UnsupportedError
from ggdjax.network import Network, load_onnx

RNG = np.random.default_rng(4)
IMAGE = (4, 6, 6)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def one(operator: str, *inputs: str, **attributes: Any) -> list[Any]:
    return [onnx.helper.make_node(operator, ["x", *inputs], ["y"], **attributes)]


def then(first: list[Any], operator: str, *inputs: str, **attributes: Any) -> list[Any]:
    """Return ``first`` with its result called ``h``, and a node that reads it."""
    first[-1].output[0] = "h"
    return [*first, onnx.helper.make_node(operator, ["h", *inputs], ["y"], **attributes)]


def _load(tmp_path: Path, nodes: list[Any], shape: tuple, constants: dict, opset: int = 17) -> tuple[Any, Network]:
    model = make_model(nodes, shape, constants, opset=opset)
    onnx.save(model, tmp_path / "model.onnx")
    return model, load_onnx(tmp_path / "model.onnx")


RESIZE = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
#: (nodes, constants) of operator set 17, for an image of 4 x 6 x 6, each image by itself
BATCH_OF_ONE: dict[str, tuple[list[Any], dict[str, np.ndarray]]] = {
    "elements by indices": (one("GatherElements", "i", axis=-1), {"i": RNG.integers(-6, 6, (1, 3, 6, 2))}),
    "reshape to channels and space": (then(one("Reshape", "t"), "Softmax", axis=-1), {"t": ints(4, -1)}),
    "reshape without the batch": (one("Reshape", "t"), {"t": ints(4, 6, 6)}),
    "reshape to one axis": (one("Reshape", "t"), {"t": ints(-1)}),
    "reshape there and back": (
        then(one("Reshape", "t"), "Reshape", "u"),
        {"t": ints(2, 2, -1), "u": ints(1, 4, 6, 6)},
    ),
    "reshape of groups of channels": (one("Reshape", "t"), {"t": ints(1, 2, 2, 6, 6)}),
    "reshape with a copied axis": (one("Reshape", "t"), {"t": ints(1, 0, -1)}),
    "reshape of moved channels": (
        then(one("Transpose", perm=[1, 0, 2, 3]), "Reshape", "t"),
        {"t": ints(4, 36)},
    ),
    "flatten of everything": (one("Flatten", axis=0), {}),
    "resize by sizes": (one("Resize", "", "", "s", **RESIZE), {"s": ints(1, 4, 12, 9)}),
    "slice of the batch": (one("Slice", "s", "e", "a"), {"s": ints(0), "e": ints(1), "a": ints(0)}),
    "slice of the last image": (one("Slice", "s", "e", "a"), {"s": ints(-1), "e": ints(2**63 - 1), "a": ints(-4)}),
    "mean over the batch": (one("ReduceMean", axes=[0], keepdims=1), {}),
    "mean over the batch, dropped": (one("ReduceMean", axes=[0], keepdims=0), {}),
    "mean over batch and space": (one("ReduceMean", axes=[0, 2, 3], keepdims=0), {}),
    "maximum over everything": (one("ReduceMax", keepdims=1), {}),
    "squeeze of the batch": (one("Squeeze", "a"), {"a": ints(0)}),
    "squeeze of all units": (then(one("GlobalAveragePool"), "Squeeze"), {}),
    "squeeze and unsqueeze": (
        [
            onnx.helper.make_node("Squeeze", ["x", "a"], ["g"]),
            onnx.helper.make_node("Relu", ["g"], ["h"]),
            onnx.helper.make_node("Unsqueeze", ["h", "a"], ["y"]),
        ],
        {"a": ints(0)},
    ),
    "expand": (then(one("GlobalAveragePool"), "Expand", "t"), {"t": ints(1, 4, 3, 5)}),
    "expand of the last axes": (then(one("GlobalAveragePool"), "Expand", "t"), {"t": ints(4, 3, 5)}),
    "tile": (one("Tile", "t"), {"t": ints(1, 2, 1, 3)}),
    "tile of one pixel": (then(one("GlobalAveragePool"), "Tile", "t"), {"t": ints(1, 1, 3, 5)}),
    "concatenation with a constant": (
        [onnx.helper.make_node("Concat", ["c", "x", "d", "x"], ["y"], axis=1)],
        {"c": draw(1, 2, 6, 6), "d": draw(1, 1, 6, 6)},
    ),
    "concatenation of one": (one("Concat", axis=0), {}),
    "split into one": (one("Split", "s", axis=0), {"s": ints(1)}),
}


@pytest.mark.parametrize("name", BATCH_OF_ONE)
def test_a_batch_of_one_becomes_any_batch(tmp_path: Path, name: str) -> None:
    nodes, constants = BATCH_OF_ONE[name]
    model, net = _load(tmp_path, nodes, (1, *IMAGE), constants)
    assert net.input_shape == (None, *IMAGE)
    images = draw(3, *IMAGE)
    single = [run_onnx(model, image[None]) for image in images]
    for compute in (net, lambda x: exported(net, x)):
        result = np.asarray(compute(images[:1]))
        assert result.shape == single[0].shape
        np.testing.assert_allclose(result, single[0], rtol=1e-5, atol=1e-5)
    many = np.asarray(net(images))
    axis = next(k for k, size in enumerate(many.shape) if size != single[0].shape[k])
    np.testing.assert_allclose(many, np.concatenate(single, axis), rtol=1e-5, atol=1e-5)


#: (nodes, constants) of operator set 17: what works on the images of a batch together
TOGETHER: dict[str, tuple[list[Any], dict[str, np.ndarray]]] = {
    "concatenation of images": (one("Concat", "x", axis=0), {}),
    "softmax over images": (one("Softmax", axis=0), {}),
    "sum of everything": (then(one("ReduceSum", keepdims=0), "Relu"), {}),
    "copies of images": (one("Tile", "t"), {"t": ints(2, 1, 1, 1)}),
    "an image of padding": (one("Pad", "t"), {"t": ints(1, 0, 0, 0, 0, 0, 0, 0)}),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", TOGETHER)
def test_what_mixes_images_keeps_the_declared_batch(tmp_path: Path, name: str, batch: int) -> None:
    nodes, constants = TOGETHER[name]
    model, net = _load(tmp_path, nodes, (batch, *IMAGE), constants)
    x = draw(batch, *IMAGE)
    expected = run_onnx(model, x)
    for actual in (np.asarray(net(x)), exported(net, x)):
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(DataError, match=f"`x` holds 5 images; the network computes batches of {batch} together"):
        net(draw(5, *IMAGE))
    with pytest.raises(UnsupportedError):
        _load(tmp_path, nodes, ("n", *IMAGE), constants)


def test_slices_of_several_declared_images_are_kept(tmp_path: Path) -> None:
    constants = {"s": ints(0), "e": ints(3), "a": ints(0)}
    model, net = _load(tmp_path, one("Slice", "s", "e", "a"), (8, *IMAGE), constants)
    x = draw(8, *IMAGE)
    np.testing.assert_array_equal(net(x), run_onnx(model, x))


@pytest.mark.parametrize(("start", "end"), [(0, 1), (0, 3), (0, 1000), (-3, 2**63 - 1), (1, 2**63 - 1), (0, -1)])
@pytest.mark.parametrize("opset", [9, 17])
def test_slices_of_a_free_batch_are_refused(tmp_path: Path, start: int, end: int, opset: int) -> None:
    inputs = {"s": ints(start), "e": ints(end), "a": ints(0)}
    new = one("Slice", *inputs)
    old = one("Slice", starts=[start], ends=[end], axes=[0])
    with pytest.raises(UnsupportedError, match="a slice of the batch dimension"):
        _load(tmp_path, new if opset == 17 else old, ("n", *IMAGE), inputs if opset == 17 else {}, opset)


@pytest.mark.parametrize("end", [2**63 - 1, 2**31 - 1, 10**9])  # the last one is tf2onnx's
def test_a_slice_of_all_of_a_free_batch_is_kept(tmp_path: Path, end: int) -> None:
    inputs = {"s": ints(0, 1), "e": ints(end, 3), "a": ints(0, 1)}
    model, net = _load(tmp_path, one("Slice", *inputs), ("n", *IMAGE), inputs)
    x = draw(5, *IMAGE)
    np.testing.assert_array_equal(net(x), run_onnx(model, x))


@pytest.mark.parametrize("target", [(4, -1), (2, -1), (36, 4, -1)])
def test_reshapes_that_leave_no_axis_to_a_free_batch_are_refused(tmp_path: Path, target: tuple[int, ...]) -> None:
    with pytest.raises(UnsupportedError, match="which leaves no axis to the batch: its size is free"):
        _load(tmp_path, one("Reshape", "t"), ("n", *IMAGE), {"t": ints(*target)})


@pytest.mark.parametrize("operator", ["SpaceToDepth", "DepthToSpace"])
def test_blocks_of_images_in_channels_are_refused(tmp_path: Path, operator: str) -> None:
    """What TensorFlow makes of a dilated convolution: images become channels, and blocks of them images."""
    nodes = then(one("Transpose", perm=[1, 0, 2, 3]), operator, blocksize=2)
    with pytest.raises(UnsupportedError, match="blocks of images moved into channels, or back"):
        _load(tmp_path, nodes, ("n", *IMAGE), {})


@pytest.mark.parametrize("target", [(8, 4), (1, 4), (4,), (8, 1)])
def test_expand_to_a_declared_batch(tmp_path: Path, target: tuple[int, ...]) -> None:
    model, net = _load(tmp_path, one("Expand", "t"), (8, 1), {"t": ints(*target)})
    x = draw(8, 1)
    np.testing.assert_array_equal(net(x), run_onnx(model, x))
    if target[0] == 8:
        with pytest.raises(UnsupportedError, match="a repetition of the batch up to 8"):
            _load(tmp_path, one("Expand", "t"), ("n", 1), {"t": ints(*target)})


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("noop", [0, 1])
@pytest.mark.parametrize(("operator", "opset"), [("ReduceSum", 13), ("ReduceMean", 18), ("ReduceMax", 18)])
@pytest.mark.parametrize("axes", [None, ints()])
def test_reductions_over_no_axis(
    tmp_path: Path, operator: str, opset: int, noop: int, keepdims: int, axes: np.ndarray | None
) -> None:
    constants = {} if axes is None else {"a": axes}
    nodes = one(operator, *constants, keepdims=keepdims, noop_with_empty_axes=noop)
    model, net = _load(tmp_path, nodes, (1, *IMAGE), constants, opset)
    x = draw(1, *IMAGE)
    expected = run_onnx(model, x)
    for actual in (np.asarray(net(x)), exported(net, x)):
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 14, 15])
def test_batch_norm_in_training_mode_is_refused(tmp_path: Path, opset: int) -> None:
    constants = {name: np.ones(4, np.float32) for name in "sbmv"}
    outputs = ["y", "o1", "o2", "o3", "o4"][: 3 if opset >= 14 else 5]
    attributes = {"training_mode": 1} if opset >= 14 else {}
    nodes = [onnx.helper.make_node("BatchNormalization", ["x", *"sbmv"], outputs, **attributes)]
    with pytest.raises(UnsupportedError, match="batch normalization in training mode"):
        _load(tmp_path, nodes, ("n", *IMAGE), constants, opset)
    nodes[0].output[1:] = [""] * len(outputs[1:])
    if opset < 14:
        assert _load(tmp_path, nodes, ("n", *IMAGE), constants, opset)[1].output_shape == (None, *IMAGE)


def test_dimensions_declared_as_minus_one_are_open(tmp_path: Path) -> None:
    kernel = draw(3, 4, 3, 3)
    model = make_model(one("Conv", "w", pads=[1] * 4), (-1, 4, -1, -1), {"w": kernel})
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    assert load_onnx(path, input_shape=(None, 4, 6, 6)).input_shape == (None, 4, 6, 6)
    with pytest.raises(ModelError, match=r"has open dimensions \(None, 4, None, None\): give `input_shape`"):
        load_onnx(path)
    with pytest.raises(GgdjaxError, match=r"declares \(\?, 4, \?, \?\)"):
        load_onnx(path, input_shape=(None, 3, 6, 6))
