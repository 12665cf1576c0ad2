"""Reading an ONNX file: every way in which it can be damaged is one clear line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import ModelError, expect_path

if TYPE_CHECKING:
    from os import PathLike

#: Older operator sets broadcast by other rules.
OLDEST_OPSET = 7


def read_model(path: str | PathLike[str]) -> Any:
    """Return the `onnx.ModelProto` in the file, external data included.

    Raises:
      ModelError: no such file, no ONNX, truncated, external data missing, operator set too old.
    """
    import onnx

    path = expect_path("path", path, "the name of an ONNX file", ModelError)
    if not path.is_file():
        kind = " but a folder" if path.is_dir() else ""
        raise ModelError(f"no model file `{path}`{kind}: name an ONNX file")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise ModelError(
            f"`{path}` cannot be read as ONNX: it is another kind of file, or truncated; export it again"
        ) from error
    if not model.graph.output or not model.opset_import:
        raise ModelError(f"`{path}` cannot be read as ONNX: it holds no graph with an output; export it again")
    try:
        onnx.load_external_data_for_model(model, str(path.resolve().parent))
    except Exception as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ModelError(
            f"external data of `{path}` is missing or damaged: {reason}; keep its files beside it"
        ) from error
    if not opset(model):
        domains = ", ".join(sorted({node.domain for node in model.graph.node if node.domain}))
        raise ModelError(f"`{path}` holds operators of other domains alone ({domains}): it is no neural network")
    if opset(model) < OLDEST_OPSET:
        raise ModelError(
            f"`{path}` uses operator set {opset(model)}; {OLDEST_OPSET} is the oldest that can be read: "
            "convert it with `onnx.version_converter`"
        )
    return model


def opset(model: Any) -> int:
    """Return the version of the default operator set that ``model`` uses."""
    return max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=0)


def read_tensor(tensor: Any) -> np.ndarray:
    """Return an initializer as an array; every floating type becomes float32.

    Raises:
      ModelError: its data is incomplete.
    """
    import onnx

    try:
        value = onnx.numpy_helper.to_array(tensor)
    except Exception as error:
        raise ModelError(f"the data of tensor `{tensor.name}` is incomplete or damaged") from error
    return as_float32(value)


def as_float32(value: np.ndarray) -> np.ndarray:
    """Return ``value`` in float32 if it is of any floating type, else unchanged."""
    if value.dtype.kind == "f" or value.dtype.name == "bfloat16":
        return value.astype(np.float32)
    return value
