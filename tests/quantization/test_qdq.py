"""Quantized ONNX files, made by ONNX Runtime's own quantizer, read back."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax._errors import UnsupportedError
from ggdjax.network import export_onnx, load_onnx
from ggdjax.quantization import FixedPoint, load_qdq
from ggdjax.schemes import Range

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
make_node = onnx.helper.make_node

RNG = np.random.default_rng(5)
IMAGES = RNG.standard_normal((16, 3, 8, 8)).astype(np.float32)
WEIGHTS = {
    "w1": RNG.standard_normal((8, 3, 3, 3)) / 5,
    "b1": RNG.standard_normal(8) / 5,
    "w2": RNG.standard_normal((12, 8, 3, 3)) / 8,
    "b2": RNG.standard_normal(12) / 5,
    "w3": RNG.standard_normal((12, 5)) / 3,
    "b3": RNG.standard_normal(5),
}


def _save(path: Path, nodes: list[Any], constants: dict[str, np.ndarray]) -> Path:
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "small",
        [onnx.helper.make_tensor_value_info("x", float32, ["batch", 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("y", float32, ["batch", None])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    nodes = [
        make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        make_node("Relu", ["c1"], ["r1"], "relu1"),
        make_node("MaxPool", ["r1"], ["p1"], "pool1", kernel_shape=[2, 2], strides=[2, 2]),
        make_node("Conv", ["p1", "w2", "b2"], ["c2"], "conv2"),
        make_node("Relu", ["c2"], ["r2"], "relu2"),
        make_node("GlobalAveragePool", ["r2"], ["g"], "pool2"),
        make_node("Flatten", ["g"], ["f"], "flatten"),
        make_node("Gemm", ["f", "w3", "b3"], ["y"], "gemm"),
    ]
    constants = {name: value.astype(np.float32) for name, value in WEIGHTS.items()}
    return _save(tmp_path_factory.mktemp("qdq") / "float.onnx", nodes, constants)


def _quantized(float_file: Path, tmp_path: Path, **options: Any) -> Path:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{"x": IMAGES}])

        def get_next(self) -> Any:
            return next(self.batches, None)

    logging.getLogger().setLevel(logging.ERROR)
    path = tmp_path / "quantized.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization.quantize_static(float_file, path, Reader(), quant_format=quantization.QuantFormat.QDQ, **options)
    return path


def _logits(path: Path, x: np.ndarray) -> np.ndarray:
    options = runtime.SessionOptions()
    # As the file says: float arithmetic between the roundings, not ONNX Runtime's integer kernels.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


OPTIONS = {
    "per tensor": {},
    "per channel": {"per_channel": True},
    "layers only": {"op_types_to_quantize": ["Conv", "Gemm"]},
    "signed": {"extra_options": {"ActivationSymmetric": True}},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_logits_equal_onnx_runtime(float_file: Path, tmp_path: Path, name: str) -> None:
    path = _quantized(float_file, tmp_path, **OPTIONS[name])
    expected, unrounded = _logits(path, IMAGES), _logits(float_file, IMAGES)
    scale = expected.max() - expected.min()
    error = np.abs(expected - unrounded).max()
    q = load_qdq(path)
    # A value between two codes may go either way; all else is equal.
    for actual in (np.asarray(load_onnx(path)(IMAGES)), np.asarray(q(IMAGES))):
        assert np.median(np.abs(actual - expected)) <= 1e-5 * scale
        assert np.abs(actual - expected).max() <= error
    assert set(q.params.weights) == {"conv1", "conv2", "gemm"}
    assert len(q.params.activations) == 3
    assert all(isinstance(quantizer, Range) for quantizer in q.params.weights.values())
    kernel_step = q.params.weights["conv2"].step
    assert kernel_step.shape == ((12,) if name == "per channel" else ())
    # The network without its roundings is the float network, up to the weights' own rounding.
    assert "relu" in {node.op for node in q.network.graph.nodes} or name != "layers only"
    assert np.abs(np.asarray(q.network(IMAGES)) - unrounded).max() <= 4 * error


def test_written_and_read_again(float_file: Path, tmp_path: Path) -> None:
    path = _quantized(float_file, tmp_path)
    net = load_onnx(path)
    assert sum(node.op == "round_to_grid" for node in net.graph.nodes) >= 4
    export_onnx(net, tmp_path / "again.onnx")
    np.testing.assert_allclose(_logits(tmp_path / "again.onnx", IMAGES), _logits(path, IMAGES), rtol=1e-4, atol=1e-4)


def _pairs(scale: float, kernel_scale: np.ndarray, axis: int) -> tuple[list[Any], dict[str, np.ndarray]]:
    kernel = RNG.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8)
    nodes = [
        make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        make_node("DequantizeLinear", ["k", "ks", "kz"], ["kd"], axis=axis),
        make_node("DequantizeLinear", ["b", "bs"], ["bd"]),
        make_node("Conv", ["xd", "kd", "bd"], ["c"], "conv"),
        make_node("GlobalAveragePool", ["c"], ["g"]),
        make_node("Flatten", ["g"], ["y"]),
    ]
    constants = {
        "s": np.float32(scale),
        "z": np.int8(0),
        "k": kernel,
        "ks": kernel_scale.astype(np.float32),
        "kz": np.zeros(kernel_scale.shape, np.int8),
        "b": RNG.integers(-1000, 1000, 4).astype(np.int32),
        "bs": np.float32(2.0**-11),
    }
    return nodes, constants


def test_powers_of_two_become_fixed_point(tmp_path: Path) -> None:
    path = _save(tmp_path / "net.onnx", *_pairs(2.0**-5, 2.0 ** -np.asarray([6, 7, 5, 6]), 0))
    q = load_qdq(path)
    kernel, bias = q.params.weights["conv"], q.params.biases["conv"]
    assert isinstance(kernel, FixedPoint)
    np.testing.assert_array_equal(kernel.frac_bits, [6, 7, 5, 6])
    assert (int(kernel.bits), int(bias.frac_bits), int(bias.bits)) == (8, 11, 32)
    (activation,) = q.params.activations.values()
    assert (float(activation.step), int(activation.qmin), int(activation.qmax)) == (2.0**-5, -128, 127)
    np.testing.assert_allclose(q(IMAGES), _logits(path, IMAGES), rtol=1e-5, atol=1e-5)
    assert "round_to_grid" not in {node.op for node in q.network.graph.nodes}
    assert q.calibration is None
    assert q.fit is None
    assert jnp.isnan(q.predicted_sqnr_db).all()


def test_refusals(float_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"float.onnx` quantizes nothing .*: use `load_onnx`"):
        load_qdq(float_file)
    path = _save(tmp_path / "axis.onnx", *_pairs(2.0**-5, np.asarray([0.01, 0.02, 0.03]), 1))
    with pytest.raises(UnsupportedError, match="the kernel of node `conv` is quantized along another axis"):
        load_qdq(path)
    nodes, constants = _pairs(2.0**-5, np.asarray(0.01), 0)
    nodes[4].output[0] = "half"
    nodes.insert(5, make_node("Mul", ["half", "two"], ["c"]))
    with pytest.raises(UnsupportedError, match=r"the kernel of node `conv` is .* or rescaled after"):
        load_qdq(_save(tmp_path / "twice.onnx", nodes, constants | {"two": np.float32(2)}))
    nodes, constants = _pairs(2.0**-5, np.asarray(0.01), 0)
    constants["other"] = np.float32(0.5)
    nodes[1].input[1] = "other"
    with pytest.raises(UnsupportedError, match="what was not quantized by the same scale and zero point"):
        load_qdq(_save(tmp_path / "pair.onnx", nodes, constants))
    nodes, constants = _pairs(2.0**-5, np.asarray(0.01), 0)
    constants |= {"s": np.full(3, 0.1, np.float32), "z": np.zeros(3, np.int8)}
    with pytest.raises(UnsupportedError, match="an activation with one scale per channel"):
        load_qdq(_save(tmp_path / "channel.onnx", nodes, constants))


def test_our_own_files_come_back(float_file: Path, tmp_path: Path) -> None:
    from ggdjax import datapath, export
    from ggdjax.quantization import calibrate, quantize

    net = load_onnx(float_file)
    q = quantize(net, calibrate(net, [IMAGES]))
    export.export_onnx(datapath.compile(q, datapath.Accelerator()), tmp_path / "ours.onnx")
    read = load_qdq(tmp_path / "ours.onnx")
    for name, fixed in q.params.weights.items():
        assert isinstance(read.params.weights[name], FixedPoint)
        assert int(read.params.weights[name].frac_bits) == int(fixed.frac_bits)
    assert [float(a.step) for a in read.params.activations.values()] == [
        float(a.step) for a in q.params.activations.values()
    ]
    # Biases are rounded at another place, to the accumulator's step: a value between two codes may go either way.
    difference = np.abs(np.asarray(read(IMAGES)) - np.asarray(q(IMAGES))) / np.ptp(q(IMAGES))
    assert np.median(difference) <= 1e-3
    assert difference.max() <= 1e-2
