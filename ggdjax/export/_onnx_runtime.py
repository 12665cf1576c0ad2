"""A written QDQ file in ONNX Runtime: does every level of graph optimization compute the same?"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax.quantization._sqnr import sqnr_db

if TYPE_CHECKING:
    from os import PathLike

    from ggdjax.datapath._program import Program

#: Of the four levels the one that runs the file node by node, in float.
REFERENCE = "ORT_DISABLE_ALL"
LEVELS = ("ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
#: What is nearer is not said. Codes that round the other way at a tie left 30 dB and more in MobileNets of 28 layers,
#: 40 in shallower networks; sums saturating at 16 bits 14 to 27 dB.
LEAST_DB = 25.0
_IMAGES = 8


def warn_of_differences(path: str | PathLike[str], program: Program) -> None:
    """Run the file at all four levels of optimization; say in one warning which levels compute something else.

    Does nothing where ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        return
    x = probe_images(program)
    wanted = _outputs(onnxruntime, path, REFERENCE, x)
    distances = {level: _distance_db(wanted, _outputs(onnxruntime, path, level, x)) for level in LEVELS}
    far = {level: distance for level, distance in distances.items() if distance < LEAST_DB}
    if far:
        said = ", ".join(f"{level} {distance:.0f} dB" for level, distance in far.items())
        warnings.warn(
            f"`{path}`: ONNX Runtime {onnxruntime.__version__} computes something else when it optimizes the graph "
            f"({said} from {REFERENCE}): run it with `graph_optimization_level` {REFERENCE}, or export with `form` "
            "'integer'",
            stacklevel=3,
        )


def probe_images(program: Program) -> np.ndarray:
    """Return images over the range of the input's codes: from even ones to noise, each around a mean of its own."""
    net = program.network
    low, high = _input_range(program)
    rng = np.random.default_rng(0)
    own, *shape = net.graph.shape(net.graph.inputs[0])
    count = max(_IMAGES, own or 0)
    ones = (1,) * len(shape)
    mean = rng.uniform(low, high, (count, *ones))
    contrast = np.linspace(0, 1, count).reshape(-1, *ones)
    noise = rng.uniform(low, high, (count, *shape))
    images = (mean + contrast * (noise - mean)).astype(np.float32)
    return images if own is None else images[-own:]


def _input_range(program: Program) -> tuple[float, float]:
    """Return the least and the largest value that the input's codes stand for; −1 and 1 where it has none."""
    graph = program.graph
    for node in graph.nodes:
        form = program.formats.get(node.output)
        if node.op == "quantize" and node.inputs[0] in graph.inputs and form is not None:
            return form.low * form.scale[0], form.high * form.scale[0]
    return -1.0, 1.0


def _outputs(onnxruntime: Any, path: str | PathLike[str], level: str, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def _distance_db(wanted: list[np.ndarray], got: list[np.ndarray]) -> float:
    """Return the SQNR in dB of the worst output; infinite where nothing differs."""
    distances = [math.inf]
    for w, g in zip(wanted, got, strict=True):
        energy, error = (float(np.square(v, dtype=np.float64).sum()) for v in (w, w - g))
        distances.append(sqnr_db(energy, error) if energy else -error)
    return min(distances)
