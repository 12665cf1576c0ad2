"""Small ONNX files from nodes and constants, ONNX Runtime's answer to them, and the distance between two answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

node = helper.make_node


def save(
    path: Path, nodes: Sequence[Any], shape: Sequence[Any], constants: Mapping[str, Any], *, opset: int = 17
) -> Path:
    """Write a model with input ``x`` of ``shape`` and output ``y``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def run(path: Path, x: np.ndarray, *, optimize: bool = True) -> np.ndarray:
    """Return what ONNX Runtime computes, with or without its graph optimizations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def sqnr_db(wanted: Any, got: Any) -> float:
    """Return 10 log10(signal / error); infinite where nothing differs."""
    wanted, got = np.asarray(wanted, np.float64), np.asarray(got, np.float64)
    error = np.square(wanted - got).sum()
    return float("inf") if error == 0 else float(10 * np.log10(np.square(wanted).sum() / error))
