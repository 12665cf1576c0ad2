"""The four real networks against ONNX Runtime, on real images."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ggdjax.network import Float, fold_batch_norm, load_onnx, run

#: file, image size, scale and offset of 8-bit values (the exact preprocessing does not matter here, its range does)
NETWORKS = [
    ("resnet20_cifar10", 32, 1 / 58.0, -2.0),
    ("resnet20_cifar10_folded", 32, 1 / 58.0, -2.0),
    ("squeezenet1.0_imagenet", 227, 1.0, -115.0),
    ("mobilenet_v1_075_192_imagenet", 192, 1 / 127.5, -1.0),
    ("mobilenet_v1_025_128_imagenet", 128, 1 / 127.5, -1.0),
]


def _images(folder: Path, size: int, count: int) -> np.ndarray:
    files = sorted((folder / "imagenet1k-sample").glob("*.jpg"))[:count]
    images = [np.asarray(Image.open(file).convert("RGB").resize((size, size))) for file in files]
    return np.stack(images).astype(np.float32).transpose(0, 3, 1, 2)


@pytest.mark.parametrize(("name", "size", "scale", "offset"), NETWORKS)
def test_logits_equal_onnx_runtime(real_data: Path, name: str, size: int, scale: float, offset: float) -> None:
    runtime = pytest.importorskip("onnxruntime")
    path = real_data / "models" / f"{name}.onnx"
    x = scale * _images(real_data, size, 4) + np.float32(offset)
    expected = runtime.InferenceSession(str(path)).run(None, {"input": x})[0]
    net = load_onnx(path)
    tolerance = 1e-5 * (expected.max() - expected.min())
    np.testing.assert_allclose(net(x), expected, rtol=0, atol=tolerance)
    if name == "resnet20_cifar10":
        folded = fold_batch_norm(net)
        assert not any(node.op == "affine" for node in folded.graph.nodes)
        np.testing.assert_allclose(folded(x), expected, rtol=0, atol=tolerance)


def test_suffix_runs_equal_the_whole(real_data: Path) -> None:
    net = load_onnx(real_data / "models" / "resnet20_cifar10_folded.onnx")
    x = np.float32(1 / 58) * _images(real_data, 32, 2) - np.float32(2)
    for cut in (1, len(net.graph.nodes) // 2, len(net.graph.nodes) - 1):

        @jax.jit
        def split(params: dict, x: jax.Array, cut: int = cut) -> jax.Array:
            values = run(net.graph, params, x, Float(), stop=cut)
            assert tuple(values) == net.graph.live(cut)
            return run(net.graph, params, values, Float(), start=cut)

        np.testing.assert_allclose(split(net.params, x), net(x), rtol=1e-5, atol=1e-5)


def test_feature_maps_are_what_enters_the_quantizable_nodes(real_data: Path) -> None:
    graph = load_onnx(real_data / "models" / "squeezenet1.0_imagenet.onnx").graph
    maps = graph.feature_maps()
    assert len(graph.quantizable) == 26
    # The two expand convolutions of a fire module read one tensor.
    assert len(maps) == 18
    assert {reader for entry in maps for reader in entry.readers} == {node.name for node in graph.quantizable}
    assert [entry.tensor for entry in maps][:2] == ["input.channels_last", "pool1"]
    assert maps[0].readers == ("conv1",)
