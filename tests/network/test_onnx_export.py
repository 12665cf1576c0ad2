"""Networks written as ONNX files give ONNX Runtime the same logits; small functions are in `test_trace`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runtime import exported, onnx, run_onnx

from ggdjax._errors import GgdjaxError
from ggdjax.network import Network, export_onnx, fold_batch_norm, load_onnx, supported_ops, trace
from ggdjax.network.onnx._writer_ops import WRITERS

#: file, image size, magnitude of its input
NETWORKS = [
    ("resnet20_cifar10", 32, 1.0),
    ("resnet20_cifar10_folded", 32, 1.0),
    ("squeezenet1.0_imagenet", 227, 60.0),
    ("mobilenet_v1_075_192_imagenet", 192, 1.0),
    ("mobilenet_v1_025_128_imagenet", 128, 1.0),
]


def _close(actual: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(actual - expected).max() <= 1e-5 * (expected.max() - expected.min())


@pytest.mark.parametrize(("name", "size", "magnitude"), NETWORKS)
def test_real_networks_come_back(real_data: Path, tmp_path: Path, name: str, size: int, magnitude: float) -> None:
    path = real_data / "models" / f"{name}.onnx"
    x = magnitude * np.random.default_rng(0).standard_normal((2, 3, size, size), np.float32)
    net = load_onnx(path)
    export_onnx(net, tmp_path / "net.onnx")
    _close(run_onnx(tmp_path / "net.onnx", x), run_onnx(path, x))
    written = onnx.load(tmp_path / "net.onnx").graph
    # Channels first all through: no transpose between a file's layout and its convolutions.
    assert not [node for node in written.node if node.op_type == "Transpose"]
    assert load_onnx(tmp_path / "net.onnx").graph.feature_maps() == net.graph.feature_maps()


def test_digits_network_with_a_transpose_at_the_input_only(tmp_path: Path) -> None:
    from ggdjax.zoo import digits_net

    module = digits_net()
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        net = fold_batch_norm(trace(module, x))
    _close(exported(net, x), np.asarray(net(x)))
    export_onnx(net, tmp_path / "net.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert operators.count("Transpose") + operators.count("Reshape") <= 2


def test_every_operation_has_a_writer() -> None:
    assert set(WRITERS) == set(supported_ops())


def _net(function: object, *shape: int) -> Network:
    return trace(function, jax.ShapeDtypeStruct((1, *shape), jnp.float32))


def test_numbers_are_scalars(tmp_path: Path) -> None:
    # ONNX wants limits, scales and zero points of shape (), which not every runtime lets be (1,).
    export_onnx(_net(lambda x: jnp.clip(x, -1.0, 2.0), 3), tmp_path / "net.onnx")
    assert [list(held.dims) for held in onnx.load(tmp_path / "net.onnx").graph.initializer] == [[], []]


def test_one_tensor_as_two_outputs(tmp_path: Path) -> None:
    net = _net(lambda x: [jnp.tanh(x)] * 2, 3)
    export_onnx(net, tmp_path / "net.onnx")
    outputs = onnx.load(tmp_path / "net.onnx").graph.output
    assert [value.name for value in outputs] == [net.graph.outputs[0], f"{net.graph.outputs[0]}.out"]


@pytest.mark.parametrize("opset", [13, 15, 18, 21])
def test_every_operator_set(opset: int) -> None:
    x = np.random.default_rng(1).standard_normal((3, 6, 6, 4), np.float32)

    def function(x: jax.Array) -> jax.Array:
        y = jnp.pad(x * jnp.clip(x + 3, 0, 6) / 6, ((0, 0), (1, 0), (0, 1), (0, 0)))[:, ::-1, 1:-1]
        y = jax.nn.softmax(y - y.max((1, 2), keepdims=True), axis=(1, 2)) + y.sum((1, 2), keepdims=True)
        return jnp.concatenate([y.mean(1), y.max(1)], axis=-1)

    net = _net(function, 6, 6, 4)
    _close(exported(net, x, opset), np.asarray(net(x)))


def test_errors(tmp_path: Path) -> None:
    net = _net(jax.nn.relu, 4)
    with pytest.raises(GgdjaxError, match=r"`opset` is 12; operator sets 13 to 21"):
        export_onnx(net, tmp_path / "net.onnx", opset=12)
    with pytest.raises(GgdjaxError, match="cannot be written: No such file or directory"):
        export_onnx(net, tmp_path / "absent" / "net.onnx")
    wrapped = _net(lambda x: jnp.pad(x, ((0, 0), (1, 1)), mode="constant"), 4)
    node = wrapped.graph.nodes[0].with_attrs(mode="wrap")
    wrapped = replace(wrapped, graph=replace(wrapped.graph, nodes=(node,)))
    # Operator set 17 has no padding that wraps around: elements are picked.
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(exported(wrapped, x, 17), np.pad(x, ((0, 0), (1, 1)), mode="wrap"))
