"""What a user decides about a quantization: widths and schemes."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ggdjax import schemes
from ggdjax._errors import GgdjaxError

if TYPE_CHECKING:
    from ggdjax.network import Graph


@dataclass(frozen=True, kw_only=True)
class QuantConfig:
    """Widths and schemes of one quantized network.

    Raises:
        GgdjaxError: a width outside its range, or an unknown scheme, ``weights_per``, ``activations_per`` or
            ``activation_steps``.

    Example:
        >>> gd.QuantConfig(weight_bits=4, activation_bits=6).scheme
        'ggd'
    """

    weight_bits: int = 8
    """Width of every weight in bits, 2 to 16; codes lie in [-2^(b-1), 2^(b-1) - 1]."""
    activation_bits: int = 8
    """Width of every quantized feature map in bits, 2 to 16; unsigned where no value is negative."""
    bias_bits: int | None = None
    """None: every bias lies on the grid of its layer's accumulator, Δ_in · Δ_w, where integer hardware adds it. Or the
    width of fixed point in bits, 2 to 32, with the fractional length of least squared error (the paper's rule)."""
    factor_bits: int | None = None
    """Width in bits, 4 to 16, to which both factors of every product of two tensors, such as a feature map and its
    gate, are rounded: signed fixed point, as on an accelerator whose ``factor_bits`` are as many. None: not at all, as
    on the default accelerator, whose products follow the real ones."""
    scheme: str = "ggd"
    """Name of the scheme that chooses the step of every feature map (see ``ggdjax.schemes.names()``)."""
    predictive: bool | None = None
    """Whether the scheme gets the predictive histograms of `Calibration.predictive` instead of the counted ones. None:
    where ``scheme`` is one of the tail-weighted "ggd" and fewer than 1,000 images were counted. With 512 images
    of CIFAR-10 it changes the mean SQNR of ResNet-20 by at most 0.008 dB (`python -m experiments run few-images`).
    Other schemes are taken as published; the largest value, which some read, is of no meaning in a predictive
    histogram."""
    activations_per: str = "tensor"
    """One step per feature map (``"tensor"``), or one per channel of it (``"channel"``: needs a calibration that
    counted channels, and an accelerator that rescales its accumulators per input channel)."""
    activation_steps: str = "free"
    """``"free"``, or ``"power-of-two"`` for hardware that only shifts: the power of two of least squared error on the
    calibration histogram, near the scheme's step."""
    activations_signed: bool = False
    """Signed codes for every feature map, for hardware that has no others."""
    weight_scheme: str = "fixed-point"
    """``"fixed-point"``, the paper's: steps are powers of two, of least squared error. Or the name of a scheme that
    chooses a free step for the weights from their histogram, for comparison."""
    weights_per: str = "tensor"
    """One fractional length, or free step, per layer (``"tensor"``, the paper's) or per output channel
    (``"channel"``)."""
    weight_bits_of: Mapping[str, int | Literal["float"]] = field(default_factory=dict)
    """Widths of single layers' weights that differ from ``weight_bits``, by node name or pattern (``blocks/3/*``; the
    last that matches holds). ``"float"``: they stay in float. `ggdjax inspect` lists the names."""
    activation_bits_of: Mapping[str, int | Literal["float"]] = field(default_factory=dict)
    """Widths of single feature maps that differ from ``activation_bits``, by tensor name or pattern; ``"float"``: they
    stay in float."""

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits", "bias_bits", "factor_bits"):
            object.__setattr__(self, name, _plain(getattr(self, name)))
        for name in ("weight_bits_of", "activation_bits_of"):
            given = getattr(self, name)
            if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
                raise GgdjaxError(f"`{name}` must map names or patterns to widths, as {{'conv1': 4}}, got {given!r}")
            object.__setattr__(self, name, {key: _plain(value) for key, value in getattr(self, name).items()})
        widths = [(name, getattr(self, name), 16) for name in ("weight_bits", "activation_bits")]
        widths.extend([] if self.bias_bits is None else [("bias_bits", self.bias_bits, 32)])
        for name in ("weight_bits_of", "activation_bits_of"):
            named = getattr(self, name).items()
            widths.extend((f"{name}[{key!r}]", value, 16) for key, value in named if value != "float")
        for name, value, largest in widths:
            if not isinstance(value, int) or not 2 <= value <= largest:
                named = ", or 'float'" if name.endswith("]") else ""
                raise GgdjaxError(
                    f"`{name}` must be an integer number of bits from 2 to {largest}{named}, got {value!r}"
                )
        if self.factor_bits is not None and not (isinstance(self.factor_bits, int) and 4 <= self.factor_bits <= 16):
            raise GgdjaxError(f"`factor_bits` must be None or an integer number from 4 to 16, got {self.factor_bits!r}")
        if self.predictive not in (None, True, False):
            raise GgdjaxError(f"`predictive` must be None, True or False, got {self.predictive!r}")
        schemes.get(self.scheme)
        if self.weight_scheme != "fixed-point":
            schemes.get(self.weight_scheme)
        for name in ("activations_per", "weights_per"):
            if getattr(self, name) not in ("tensor", "channel"):
                raise GgdjaxError(f"`{name}` must be 'tensor' or 'channel', got {getattr(self, name)!r}")
        if self.activation_steps not in ("free", "power-of-two"):
            raise GgdjaxError(f"`activation_steps` must be 'free' or 'power-of-two', got {self.activation_steps!r}")


def _plain(value: Any) -> Any:
    """Return NumPy's integers, such as those of `np.arange`, as Python's: only those go into JSON."""
    return int(value) if isinstance(value, np.integer) else value


def widths_of(config: QuantConfig, field: str, names: Sequence[str]) -> dict[str, int | None]:
    """Return the width of each of ``names``, layers or feature maps; None: it stays in float.

    Args:
        config: its ``field`` says which widths differ from the usual one, by name or pattern.
        field: ``"weight_bits"`` or ``"activation_bits"``.
        names: all that the network has.

    Raises:
        GgdjaxError: a name or pattern that matches none of them; near names are given.
    """
    option, found = f"{field}_of", dict.fromkeys(names, getattr(config, field))
    for pattern, bits in getattr(config, option).items():
        found |= dict.fromkeys(matching(option, pattern, names), None if bits == "float" else bits)
    return found


def check_names(config: QuantConfig, graph: Graph) -> None:
    """Refuse a name or pattern of ``config`` that a graph without batch normalization does not have.

    Raises:
        GgdjaxError: see `widths_of`.
    """
    widths_of(config, "activation_bits", [feature_map.tensor for feature_map in graph.feature_maps()])
    widths_of(config, "weight_bits", [node.name for node in graph.quantizable])


def matching(option: str, pattern: str, names: Sequence[str]) -> list[str]:
    """Return the names of nodes or tensors that a name or pattern of ``option`` means; raise where there is none."""
    # A name may hold what is a wildcard elsewhere.
    matched = [pattern] if pattern in names else fnmatch.filter(names, pattern)
    if not matched:
        near = difflib.get_close_matches(pattern.replace("*", ""), names, n=3, cutoff=0.3)
        known = (
            f"near: {', '.join(near)}" if near else f"it has {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
        )
        raise GgdjaxError(f"`{option}` names {pattern!r}, which the network does not have; {known}")
    return matched
