"""Quantized networks as records and arrays, which one file holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from ggdjax.quantization._quantizers import Quantizers
from ggdjax.steps import Quantizer

if TYPE_CHECKING:
    from collections.abc import Mapping

_KINDS = ("activations", "weights", "biases")


def quantizers_record(quantizers: Quantizers) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the static part of all quantizers as JSON holds it, and their arrays by ``kind/name/field``."""
    record: dict[str, Any] = {}
    arrays = {}
    for kind in _KINDS:
        record[kind] = {}
        for name, quantizer in getattr(quantizers, kind).items():
            record[kind][name] = {"bits": quantizer.bits, "signed": quantizer.signed}
            for field in ("step", "zero_point"):
                if (value := getattr(quantizer, field)) is not None:
                    arrays[f"{kind}/{name}/{field}"] = np.asarray(value)
    return record, arrays


def quantizers_from_record(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Quantizers:
    """Undo `quantizers_record`; ``arrays`` may hold more."""

    def quantizer(kind: str, name: str, static: Mapping[str, Any]) -> Quantizer:
        zero_point = arrays.get(f"{kind}/{name}/zero_point")
        return Quantizer(
            step=jnp.asarray(arrays[f"{kind}/{name}/step"]),
            bits=static["bits"],
            signed=static["signed"],
            zero_point=None if zero_point is None else jnp.asarray(zero_point),
        )

    return Quantizers(
        **{kind: {name: quantizer(kind, name, static) for name, static in record[kind].items()} for kind in _KINDS}
    )
