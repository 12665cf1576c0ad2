"""What the integer hardware is: the widths and rules of its datapath, as one value that files can hold."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ggdjax._atomic import atomic_write
from ggdjax._errors import GgdjaxError, expect, expect_path, near_matches
from ggdjax._fields import from_fields
from ggdjax.datapath._rounding import Overflow, Requantization, Rounding

if TYPE_CHECKING:
    import enum
    import os
    from pathlib import Path

    from ggdjax.quantization import QuantizedNetwork

#: Field -> smallest and largest width in bits.
_WIDTHS = {
    "activation_bits": (2, 16),
    "weight_bits": (2, 16),
    "bias_bits": (4, 32),
    "multiplier_bits": (2, 31),
    "accumulator_bits": (4, 32),
    "residual_bits": (8, 30),
    "lookup_bits": (4, 16),
    "factor_bits": (4, 30),
}
_ENUMS: dict[str, type[enum.StrEnum]] = {
    "rounding": Rounding,
    "overflow": Overflow,
    "requantization": Requantization,
}


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """The datapath of one accelerator: ``acc = Σ q_x q_w + q_b``, ``q_y = clip(round(acc · m0 · 2^(−r)))``.

    All integers are two's complement, unsigned where a feature map has no negative value. Codes always saturate.

    Raises:
        GgdjaxError: a field is out of its range, or two contradict each other.

    Example:
        >>> accelerator = gd.datapath.Accelerator(accumulator_bits=24, bias_bits=24, overflow="saturate")
        >>> accelerator.save("accelerator.toml")
        >>> gd.datapath.Accelerator.load("accelerator.toml") == accelerator
        True
    """

    activation_bits: int = 8
    """Widest code of a feature map, 2 to 16."""
    weight_bits: int = 8
    """Widest code of a weight, 2 to 16."""
    bias_bits: int = 32
    """Width of a bias, on the accumulator's grid Δ_in · 2^(−F), 4 to 32. A larger bias follows ``overflow``: it is
    refused under ``RAISE``, saturates under ``SATURATE``, and wraps with its accumulator under ``WRAP`` where both have
    one width (else it is refused)."""
    multiplier_bits: int = 31
    """Width of the unsigned multiplier m0, 2 to 31. Sixteen suffice for accuracy; 31 make codes equal to those of the
    real ratio of steps (see `experiments/results/agreement`)."""
    accumulator_bits: int = 32
    """Width of an accumulator, 4 to 32."""
    residual_bits: int = 30
    """Width of what is kept between layers beside codes (residual branches, inputs of averages and of tables), 8 to
    30: signed fixed point, each tensor on a grid 2^e of its own. Sixteen suffice for accuracy; 30 make codes equal as
    above."""
    lookup_bits: int = 12
    """Width of the index of a table (swish, sigmoid, GELU and other activation functions), 4 to 16: it has
    2^lookup_bits cells, interpolated by up to 18 further bits of its input, of up to ``residual_bits`` in all."""
    factor_bits: int = 30
    """Width of each factor of a product of two tensors, such as a feature map and its gate, 4 to 30. A product of more
    than 32 bits is rounded to 30. Sixteen suffice for accuracy; 30 make codes equal as above."""
    rounding: Rounding = Rounding.HALF_EVEN
    """How requantization rounds. Half even is what fake quantization does, so that both see the same codes."""
    overflow: Overflow = Overflow.RAISE
    """What an accumulator does with a sum that it cannot hold."""
    requantization: Requantization = Requantization.MULTIPLIER_AND_SHIFT
    """How accumulators become codes."""
    channel_tile: int | None = None
    """Input channels whose products are summed before the accumulator is updated: under ``SATURATE`` it saturates
    after every such partial sum. None: once, after all."""

    def __post_init__(self) -> None:
        for name, (least, most) in _WIDTHS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise GgdjaxError(f"`{name}` must be an integer number of bits from {least} to {most}, got {value!r}")
        for name, kind in _ENUMS.items():
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, kind(value))
            except ValueError:
                raise GgdjaxError(f"`{name}` is {value!r}; {near_matches(str(value), list(kind))}") from None
        tile = self.channel_tile
        if tile is not None and (not isinstance(tile, int) or isinstance(tile, bool) or tile < 1):
            raise GgdjaxError(f"`channel_tile` must be a positive number of input channels or None, got {tile!r}")
        if self.bias_bits > self.accumulator_bits:
            raise GgdjaxError(
                f"`bias_bits` {self.bias_bits} contradicts `accumulator_bits` {self.accumulator_bits}: "
                "a bias starts the accumulator and must fit in it; lower `bias_bits`"
            )
        if self.activation_bits > self.residual_bits:
            raise GgdjaxError(
                f"`residual_bits` {self.residual_bits} contradicts `activation_bits` {self.activation_bits}: "
                "what is carried must be at least as fine as codes; raise `residual_bits`"
            )

    def widened(self, q: QuantizedNetwork) -> Accelerator:
        """Return it with weights and feature maps as wide as those of a network, where its own are narrower.

        Raises:
            GgdjaxError: a width contradicts another.
        """
        expect("q", q, "QuantizedNetwork")
        return dataclasses.replace(
            self,
            weight_bits=max((self.weight_bits, *(w.bits for w in q.quantizers.weights.values()))),
            activation_bits=max((self.activation_bits, *(x.bits for x in q.quantizers.activations.values()))),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Accelerator:
        """Read a specification: JSON or TOML by the file's suffix, field names as in this class.

        Raises:
            GgdjaxError: the file is missing, unreadable or of another kind; a field is unknown, out of range or
                contradicts another.
        """
        path = expect_path("path", path)
        fields = _read(path)
        return from_fields(cls, fields, path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write every field to a JSON or TOML file, by its suffix; a ``channel_tile`` of None is left out.

        Raises:
            GgdjaxError: the suffix is another, or the file cannot be written.
        """
        path = expect_path("path", path)
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if path.suffix == ".json":
            text = json.dumps(fields, indent=2) + "\n"
        elif path.suffix == ".toml":
            text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items())
        else:
            raise GgdjaxError(f"`path` {path} must end in .json or .toml")
        with atomic_write(path, "path") as part:
            part.write_text(text, encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GgdjaxError(
            f"cannot read the accelerator's specification {path} ({error}): give a JSON or TOML file"
        ) from None
    if path.suffix not in {".json", ".toml"}:
        raise GgdjaxError(f"`path` {path} must end in .json or .toml")
    try:
        fields = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise GgdjaxError(f"{path} is not valid {path.suffix[1:].upper()}: {error}") from None
    if not isinstance(fields, dict):
        raise GgdjaxError(f"{path} must hold one table of fields, got {type(fields).__name__}")
    return fields
