"""Step solvers: closed form, support equation, exact minimiser, powers of two; fixed point for weights.

A table of contents; names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

#: Public name -> module of this package that defines it.
_PUBLIC = {
    "closed_form_step": "_solve",
    "support_step": "_solve",
    "optimal_step": "_solve",
    "power_of_two_step": "_solve",
    "solve": "_solve",
    "predict": "_solve",
    "saturated_step": "saturated",
    "StepResult": "_solve",
    "StepCode": "_solve",
    "Distortion": "_solve",
    "METHODS": "_solve",
    "Source": "source",
    "best_fractional_length": "fixed_point",
    "max_fractional_length": "fixed_point",
    "quantize_fixed_point": "fixed_point",
    "power_of_two": "fixed_point",
    "FractionalLength": "fixed_point",
    "FixedPointCode": "fixed_point",
    "weight_step": "weights",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
