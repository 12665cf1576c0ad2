"""The candidates of one unit: changes to the step of a feature map and the fractional lengths of its readers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ggdjax.quantization import Quantizers
from ggdjax.steps import Quantizer
from ggdjax.steps._fixed_point import FRAC_BITS_MAX

if TYPE_CHECKING:
    from ggdjax.tune._config import TuneConfig
    from ggdjax.tune._segments import Unit


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """``step → factor · step``; fractional lengths of the named weights and biases plus an offset."""

    factor: float = 1.0
    weights: tuple[tuple[str, int], ...] = ()
    biases: tuple[tuple[str, int], ...] = ()

    @property
    def distance(self) -> float:
        """How far it is from the present values, in octaves."""
        return abs(math.log2(self.factor)) + sum(abs(offset) for _, offset in (*self.weights, *self.biases))

    @property
    def fixed(self) -> tuple[tuple[tuple[str, int], ...], ...]:
        """What it changes but for the step: candidates with equal ones run in one program call."""
        return self.weights, self.biases

    def describe(self) -> str:
        """Return the change in words; empty for none."""
        parts = [f"step × {self.factor:.4g}"] if self.factor != 1.0 else []
        for what, offsets in (("weights", self.weights), ("bias", self.biases)):
            parts += [f"{what} of {name}: F {'+' if offset > 0 else '−'} {abs(offset)}" for name, offset in offsets]
        return ", ".join(parts)

    def fixed_point(self, quantizers: Quantizers) -> Quantizers:
        """Return the quantizers with the fractional lengths changed, the step left as it is."""
        return replace(
            quantizers,
            weights=_shifted(quantizers.weights, self.weights),
            biases=_shifted(quantizers.biases, self.biases),
        )

    def apply(self, quantizers: Quantizers, tensor: str) -> Quantizers:
        """Return the quantizers with the whole change."""
        quantizers = self.fixed_point(quantizers)
        if (old := quantizers.activations.get(tensor)) is None:
            return quantizers
        changed = replace(old, step=np.asarray(old.step) * np.float32(self.factor))
        return replace(quantizers, activations={**quantizers.activations, tensor: changed})


def _shifted(quantizers: dict[str, Quantizer], offsets: tuple[tuple[str, int], ...]) -> dict[str, Quantizer]:
    # Held where 2^(−F) is a normal number: a dead channel may be there already, and the others still move.
    changed = {}
    for name, offset in offsets:
        old = quantizers[name]
        frac_bits = np.clip(old.frac_bits + np.int32(offset), -FRAC_BITS_MAX, FRAC_BITS_MAX)
        changed[name] = Quantizer.fixed_point(frac_bits, old.bits, signed=old.signed)
    return {**quantizers, **changed}


def candidates_of(unit: Unit, quantizers: Quantizers, config: TuneConfig) -> list[Candidate]:
    """Return every candidate but the present values; those with equal fractional lengths stand together."""
    # A feature map that stays in float has no step to change.
    factors = [f for f in config.factors if f != 1.0 and unit.tensor in quantizers.activations]
    found = [Candidate(factor=f) for f in factors]
    for kind in ("weights", "biases"):
        for name in unit.readers:
            quantizer = getattr(quantizers, kind).get(name)
            if quantizer is None or quantizer.frac_bits is None:
                continue  # no bias, or a free step
            for offset in config.frac_bits_offsets:
                if offset:
                    steps = [1.0, *factors] if config.joint and kind == "weights" else [1.0]
                    found += [Candidate(factor=f, **{kind: ((name, offset),)}) for f in steps]
    return found
