"""The quantization parameters of a network: a pytree of small arrays, saved as safetensors + JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import GgdjaxError
from ggdjax._whole import whole_file, write_safetensors
from ggdjax.schemes import Range
from ggdjax.steps import best_fractional_length, power_of_two

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from jaxtyping import Array, Float, Int

_FORMAT = "ggdjax quantization parameters"
_VERSION = "1"


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """``w_hat = q · 2^(−frac_bits)`` with ``q`` an integer of ``bits`` bits, two's complement.

    ``frac_bits`` (F) may be negative, and is a scalar or one value per output channel (last axis).
    """

    frac_bits: Int[Array, "*chan"]
    bits: Int[Array, ""]

    def as_range(self) -> Range:
        """Return the same quantizer by its step ``2^(−F)`` and codes ``[−2^(bits−1), 2^(bits−1) − 1]``."""
        # At 32 bits 2^31 wraps to −2^31; negated and less one it wraps to the right limits all the same.
        half = jnp.left_shift(jnp.ones_like(self.bits), self.bits - 1)
        zero = jnp.zeros_like(half)
        step = power_of_two(-self.frac_bits)
        return Range(step=step, qmin=-half, qmax=half - 1, zero_point=zero, code=zero)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class QuantParams:
    """All steps and fractional lengths of a network.

    ``activations`` maps the name of each quantized feature map to its quantizer; ``weights`` and ``biases`` map the
    name of each convolution or dense node to its fixed-point format (a weight with a free step: to its `Range`).
    """

    activations: dict[str, Range]
    weights: dict[str, FixedPoint | Range]
    biases: dict[str, FixedPoint]

    def save(self, stem: Path) -> None:
        """Write ``stem.safetensors`` (arrays) and ``stem.json`` (the same, readable); a dot in ``stem`` stays.

        Raises:
            GgdjaxError: the files cannot be written.
        """
        flat = self.to_arrays()
        write_safetensors(_beside(stem, ".safetensors"), "stem", flat, {"format": _FORMAT, "version": _VERSION})
        readable = {"format": _FORMAT, "version": _VERSION, "arrays": {k: v.tolist() for k, v in flat.items()}}
        with whole_file(_beside(stem, ".json"), "stem") as part:
            part.write_text(json.dumps(readable, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, stem: Path) -> QuantParams:
        """Read what :meth:`save` wrote.

        Raises:
            GgdjaxError: the file is missing, damaged, or of another format or version.
        """
        from safetensors import SafetensorError, safe_open

        path = _beside(stem, ".safetensors")
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                flat = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise GgdjaxError(f"no quantization parameters at {path}: name what `save` wrote") from None
        except (SafetensorError, OSError) as error:
            raise GgdjaxError(f"{path} is not a readable safetensors file ({error}): `save` it again") from None
        if (metadata.get("format"), metadata.get("version")) != (_FORMAT, _VERSION):
            raise GgdjaxError(
                f"{path} does not hold {_FORMAT} of version {_VERSION}, but {metadata}: name what `save` wrote"
            )
        return cls.from_arrays(flat)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return every array by ``room|name|field``, as it is saved."""
        return {
            f"{room}|{name}|{field}": np.asarray(getattr(quantizer, field))
            for room in _ROOMS
            for name, quantizer in getattr(self, room).items()
            for field in quantizer.__dataclass_fields__
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> QuantParams:
        """Undo `to_arrays`."""
        fields: dict[str, dict[str, dict[str, Array]]] = {room: {} for room in _ROOMS}
        for key, value in arrays.items():
            room, rest = key.split("|", 1)
            name, field = rest.rsplit("|", 1)
            fields[room].setdefault(name, {})[field] = jnp.asarray(value)
        rooms: dict[str, Any] = {
            room: {name: (FixedPoint if "frac_bits" in f else Range)(**f) for name, f in quantizers.items()}
            for room, quantizers in fields.items()
        }
        return cls(**rooms)


def best_format(w: Array, bits: int | Int[Array, ""], *, per_channel: bool = False) -> FixedPoint:
    """Return the format of least squared error for a kernel (output channels last) or bias."""
    rows = rows_of(w, per_channel=per_channel)
    # Zeros cost nothing under any format: padded to a power of four, all layers share a few compiled searches.
    size = 4 ** math.ceil(math.log(max(rows.shape[1], 2), 4))
    best = best_fractional_length(jnp.pad(rows, ((0, 0), (0, size - rows.shape[1]))), bits, axis=1)
    frac_bits = best.frac_bits if per_channel else best.frac_bits[0]
    return FixedPoint(frac_bits=frac_bits, bits=jnp.asarray(bits, jnp.int32))


def rows_of(w: Float[Array, "*rest chan"], *, per_channel: bool) -> Float[Array, "row value"]:
    """Return the values that share one quantizer as rows: one, or one per output channel."""
    return w.reshape(-1, w.shape[-1]).T if per_channel else w.reshape(1, -1)


def as_range(quantizer: FixedPoint | Range) -> Range:
    """Return any quantizer by its step and codes."""
    return quantizer if isinstance(quantizer, Range) else quantizer.as_range()


def _beside(stem: Path, suffix: str) -> Path:
    """Return the file of ``stem``, which may be named by either of its files; other dots belong to the name."""
    base = stem.with_suffix("") if stem.suffix in (".safetensors", ".json") else stem
    return base.with_name(base.name + suffix)


_ROOMS = ("activations", "weights", "biases")
