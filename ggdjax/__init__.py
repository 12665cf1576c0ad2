"""Post-training quantization of convolutional networks with the generalized gamma distribution."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

#: Public name -> module that defines it. Modules are imported on first use, so that `import ggdjax` stays light.
_PUBLIC = {
    "GeneralizedGamma": "ggdjax.ggd",
    "Histogram": "ggdjax.ggd",
    "fit": "ggdjax.ggd",
    "closed_form_step": "ggdjax.steps",
    "optimal_step": "ggdjax.steps",
    "Network": "ggdjax.network",
    "load_onnx": "ggdjax.network",
    "trace": "ggdjax.network",
    "QuantConfig": "ggdjax.quantization",
    "calibrate": "ggdjax.quantization",
    "quantize": "ggdjax.quantization",
    "evaluate": "ggdjax.quantization",
    "GgdjaxError": "ggdjax._errors",
}
_ROOMS = ("data", "datapath", "ggd", "network", "quantization", "report", "schemes", "steps", "tune", "zoo")

__all__ = ["__version__", *_PUBLIC, *_ROOMS]  # noqa: PLE0604 - the names are strings


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"ggdjax.{name}")
    raise AttributeError(f"module 'ggdjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
