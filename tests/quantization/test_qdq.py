"""Quantized ONNX files, made by ONNX Runtime's own quantizer, read back."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggdjax._errors import UnsupportedError
from ggdjax.network import export_onnx, load_onnx
from ggdjax.quantization import load_qdq

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
    assert set(q.quantizers.weights) == {"conv1", "conv2", "gemm"}
    assert len(q.quantizers.activations) == 3
    assert all(quantizer.frac_bits is None for quantizer in q.quantizers.weights.values())
    kernel_step = q.quantizers.weights["conv2"].step
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


CONSTANTS = {
    "w1": RNG.standard_normal((8, 3, 3, 3)) / 5,
    "b1": RNG.standard_normal(8) / 5,
    "w2": RNG.standard_normal((8, 8, 3, 3)) / 8,
    "wd": RNG.standard_normal((8, 1, 3, 3)) / 3,
    "w3": RNG.standard_normal((8, 5)) / 3,
    "w4": RNG.standard_normal((16, 5)) / 3,
    "low": np.zeros(()),
    "high": np.full((), 6.0),
}
STEM = [
    make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1] * 4),
    make_node("Relu", ["c1"], ["r1"], "relu1"),
    make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1] * 4),
]
HEAD = [
    make_node("AveragePool", ["s"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
    make_node("MaxPool", ["p"], ["m"], "most", kernel_shape=[4, 4]),
    make_node("Flatten", ["m"], ["f"], "flatten"),
]
#: What lies between two convolutions and the output.
BODIES = {
    "residual": [make_node("Add", ["c2", "r1"], ["s"], "add"), *HEAD, make_node("MatMul", ["f", "w3"], ["y"], "mm")],
    "concat": [
        make_node("Concat", ["c2", "r1"], ["s"], "cat", axis=1),
        *HEAD,
        make_node("MatMul", ["f", "w4"], ["y"], "mm"),
    ],
    "depthwise": [
        make_node("Conv", ["c2", "wd"], ["c3"], "conv3", group=8, pads=[1] * 4),
        make_node("Clip", ["c3", "low", "high"], ["s"], "clip"),
        *HEAD,
        make_node("MatMul", ["f", "w3"], ["y"], "mm"),
    ],
}


def _types() -> dict[str, dict[str, Any]]:
    from onnxruntime.quantization import QuantType

    return {
        "default": {},
        "per channel": {"per_channel": True},
        "int8": {"activation_type": QuantType.QInt8},
        "int8, symmetric": {"activation_type": QuantType.QInt8, "extra_options": {"ActivationSymmetric": True}},
        "uint8 weights": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
        "int4 weights": {"weight_type": QuantType.QInt4},
        "convolutions": {"op_types_to_quantize": ["Conv"]},
    }


@pytest.mark.parametrize("types", _types())
@pytest.mark.parametrize("body", BODIES)
def test_roundings_in_the_middle_equal_onnx_runtime(tmp_path: Path, body: str, types: str) -> None:
    nodes = [*STEM, *BODIES[body]]
    used = {name for node in nodes for name in node.input}
    constants = {name: np.asarray(v, np.float32) for name, v in CONSTANTS.items() if name in used}
    path = _quantized(_save(tmp_path / "float.onnx", nodes, constants), tmp_path, **_types()[types])
    expected, q = _logits(path, IMAGES), load_qdq(path)
    for actual in (np.asarray(load_onnx(path)(IMAGES)), np.asarray(q(IMAGES))):
        # Sums of convolutions round in another order: a few values at the middle between two codes.
        equal = np.abs(actual - expected) <= 1e-5 * np.ptp(expected)
        assert equal.mean() >= 0.9
        assert np.square(actual - expected).sum() <= 1e-4 * np.square(expected).sum()


def _rounded(x: str, out: str, step: str, zero: str, limits: tuple[str, str] | None = None) -> list[Any]:
    """Return QuantizeLinear, Clip of the codes if there are limits, DequantizeLinear."""
    code, clipped = f"{out}.code", [make_node("Clip", [f"{out}.code", *limits], [f"{out}.clipped"])] if limits else []
    read = f"{out}.clipped" if limits else code
    return [
        make_node("QuantizeLinear", [x, step, zero], [code]),
        *clipped,
        make_node("DequantizeLinear", [read, step, zero], [out]),
    ]


def test_averages_of_codes_round_as_onnx_runtime_rounds_them(tmp_path: Path) -> None:
    """Means of four codes lie on the middle between two every fourth time: the quotient's last bit decides."""
    pool = make_node("AveragePool", ["a"], ["p"], kernel_shape=[2, 2], strides=[2, 2])
    nodes = [*_rounded("x", "a", "s", "z"), pool, *_rounded("p", "b", "s", "z"), make_node("Flatten", ["b"], ["y"])]
    path = _save(tmp_path / "mean.onnx", nodes, {"s": np.float32(0.031), "z": np.uint8(37)})
    net = load_onnx(path)
    np.testing.assert_array_equal(net(2 * IMAGES), _logits(path, 2 * IMAGES))
    attributes = [dict(node.attrs) for node in net.graph.nodes if node.op == "round_to_grid"]
    assert attributes == [{"step": float(np.float32(0.031)), "low": -37, "high": 218}] * 2


@pytest.mark.parametrize(("least", "most", "bits"), [(-127, 127, 8), (-8, 7, 4), (-7, 7, 4)])
def test_codes_clipped_between_the_pair(tmp_path: Path, least: int, most: int, bits: int) -> None:
    """Brevitas and PyTorch write widths that ONNX lacks as limits of the codes."""
    nodes = [
        *_rounded("x", "a", "s", "z", ("least", "most")),
        *_rounded("k", "b", "ks", "z", ("least", "most")),
        make_node("Conv", ["a", "b"], ["c"], "conv"),
        make_node("GlobalAveragePool", ["c"], ["g"]),
        make_node("Flatten", ["g"], ["y"]),
    ]
    constants = {"s": np.float32(0.3), "ks": np.float32(0.05), "z": np.int8(0), "k": WEIGHTS["w1"].astype(np.float32)}
    constants |= {"least": np.int8(least), "most": np.int8(most)}
    path = _save(tmp_path / "clipped.onnx", nodes, constants)
    q = load_qdq(path)
    for net in (load_onnx(path), q):
        np.testing.assert_allclose(net(8 * IMAGES), _logits(path, 8 * IMAGES), rtol=1e-5, atol=1e-5)
    (activation,) = q.quantizers.activations.values()
    assert (activation.bits, activation.signed, activation.zero_point) == (bits, True, None)


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
    kernel, bias = q.quantizers.weights["conv"], q.quantizers.biases["conv"]
    np.testing.assert_array_equal(kernel.frac_bits, [6, 7, 5, 6])
    assert (kernel.bits, bias.frac_bits, bias.bits) == (8, 11, 32)
    (activation,) = q.quantizers.activations.values()
    assert (float(activation.step), activation.qmin, activation.qmax) == (2.0**-5, -128, 127)
    np.testing.assert_allclose(q(IMAGES), _logits(path, IMAGES), rtol=1e-5, atol=1e-5)
    assert "round_to_grid" not in {node.op for node in q.network.graph.nodes}
    assert q.record.config is None
    assert q.record.calibration is None
    assert np.isnan(list(q.predicted_sqnr_db.values())).all()


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
    for name, fixed in q.quantizers.weights.items():
        assert read.quantizers.weights[name].frac_bits == fixed.frac_bits
    assert [float(a.step) for a in read.quantizers.activations.values()] == [
        float(a.step) for a in q.quantizers.activations.values()
    ]
    # Biases are rounded at another place, to the accumulator's step: a value between two codes may go either way.
    difference = np.abs(np.asarray(read(IMAGES)) - np.asarray(q(IMAGES))) / np.ptp(q(IMAGES))
    assert np.median(difference) <= 1e-3
    assert difference.max() <= 1e-2
