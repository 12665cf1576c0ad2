"""Lookup tables of functions of one number, computed in float64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Int

    from ggdjax.datapath._formats import Format
    from ggdjax.network import Node


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "abs": np.abs,
    "erf": np.vectorize(math.erf),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
}

#: Operations that become tables.
TABLES = frozenset({*_FUNCTIONS, "hard_sigmoid"})

#: Beyond these inputs the function is flat to 4e-4, less than half a code of 10 bits.
_FLAT = {"erf": 2.5, "sigmoid": 8.0, "tanh": 4.5}


def input_limit(node: Node) -> float | None:
    """Return the magnitude of input beyond which the function is flat on both sides; None where it is not."""
    if node.op == "hard_sigmoid":
        alpha, beta = node.attr("alpha"), node.attr("beta")
        return max(beta, 1 - beta) / alpha
    return _FLAT.get(node.op)


def table(node: Node, step: float, first: int, last: int, form: Format) -> Int[np.ndarray, " entries"]:
    """Return the codes in ``form`` of the function at ``step · i`` for i from ``first`` to ``last``."""
    x = step * np.arange(first, last + 1, dtype=np.float64)
    if node.op == "hard_sigmoid":
        y = np.clip(node.attr("alpha") * x + node.attr("beta"), 0, 1)
    else:
        y = _FUNCTIONS[node.op](x)
    return np.clip(np.rint(y / form.scale[0]), form.low, form.high).astype(np.int32)
