"""ONNX Runtime on the CPU, with which networks are compared; needs nothing of JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def session(
    model: Path | bytes, *, optimize: bool = True, spin: bool = True, threads: int = 0, severity: int = 3
) -> Any:
    """Return the session of a file.

    Args:
        model: the file, or what it holds.
        optimize: let the graph be optimized; else it runs as it is written.
        spin: let waiting threads keep their cores, from others too.
        threads: how many; 0: one for each core.
        severity: what is said: 3 errors, 4 fatal ones alone.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = severity, threads
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def predictor(model: Path | bytes, **options: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return the forward pass of a file with one input: its first output; options of `session`."""
    opened = session(model, **options)
    name = opened.get_inputs()[0].name
    return lambda x: opened.run(None, {name: np.asarray(x)})[0]
