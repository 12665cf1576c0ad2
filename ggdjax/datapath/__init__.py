"""The accelerator's datapath in integers: its specification, the compiled program and its simulator."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ggdjax.datapath._agreement import Agreement, MapAgreement, agreement, align
from ggdjax.datapath._compile import compile
from ggdjax.datapath._formats import Format
from ggdjax.datapath._layers import IntegerLayer
from ggdjax.datapath._program import Program, RunResult
from ggdjax.datapath._rounding import Overflow, Requantization, Rounding, rounding_shift
from ggdjax.datapath._simulate import LayerCounts
from ggdjax.datapath._spec import Accelerator

__all__ = [
    "Accelerator",
    "Agreement",
    "Format",
    "IntegerLayer",
    "LayerCounts",
    "MapAgreement",
    "Overflow",
    "Program",
    "Requantization",
    "Rounding",
    "RunResult",
    "agreement",
    "align",
    "compile",
    "rounding_shift",
]

#: Where what stood here before is now: scripts written then run on.
_MOVED = {"export": "export_bundle", "export_onnx": "export_onnx"}


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        return getattr(import_module("ggdjax.export"), _MOVED[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
