"""A small ONNX network and a small image folder, for tests of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = 3


def write_network(path: Path, *, op: str = "Relu", kernel_scale: float = 1.0, channels: int = 3) -> Path:
    """Write conv → ``op`` → global average pool → gemm on 8×8 images; batch free."""
    rng = np.random.default_rng(0)
    tensors = {
        "k": kernel_scale * rng.normal(size=(4, channels, 3, 3)),
        "b": rng.normal(size=4),
        "w": rng.normal(size=(4, CLASSES)),
        "c": rng.normal(size=CLASSES),
    }
    nodes = [
        helper.make_node("Conv", ["input", "k", "b"], ["conv"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node(op, ["conv"], ["act"], "act"),
        helper.make_node("GlobalAveragePool", ["act"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "w", "c"], ["logits"], "gemm"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", channels, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def write_images(folder: Path, per_class: int = 8, classes: int = CLASSES) -> Path:
    """Write class folders of 8×8 PNG images."""
    from PIL import Image

    rng = np.random.default_rng(1)
    for c in range(classes):
        (folder / f"class{c}").mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{c}" / f"{i}.png")
    return folder
