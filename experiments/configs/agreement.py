"""The integer program against the fake-quantized network, code by code.

    python -m experiments run agreement                                  the default accelerator, 1,000 images
    python -m experiments run agreement --networks resnet20 --held-out-images 10000 --bits 8 6 4
    python -m experiments run agreement --networks resnet20 --variants multiplier-16 carry-24

Scheme `ggd`, all defaults (`nearest`: weights rounded to nearest, as `gd.quantize` alone does; `own-biases`: biases of
16 bits in fixed point; `power-of-two`: steps rounded to powers of two, where all must be equal). Expected with the
default accelerator: never more than one LSB apart in a layer given equal inputs, and apart in fewer than ten values of
a million, the last bit of a float; ResNet-20 and SqueezeNet: equal codes on at least 99.9 % of all values, the same
class for at least 99.8 % of the images. MobileNets let single codes grow through their 28 layers: 95 % and 98 %. Both
networks run by themselves in `equal`: one changed code changes others in all layers after it, so it says how exact the
sums must be; `given inputs` feeds each layer of the program with the codes of the fake-quantized network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

import ggdjax as gd
from experiments.bench import Bench
from experiments.experiment import Cell, Experiment, check_known
from experiments.real_networks import NETWORKS
from ggdjax import datapath, tune
from ggdjax.recipe import target

DEFAULT = ("default", "nearest", "own-biases", "power-of-two")
#: Other variants: what each changes in the default accelerator.
CHANGES: dict[str, dict[str, Any]] = {
    "multiplier-24": {"multiplier_bits": 24},
    "multiplier-16": {"multiplier_bits": 16},
    "multiplier-8": {"multiplier_bits": 8},
    "carry-30": {"residual_bits": 30},
    "carry-28": {"residual_bits": 28},
    "carry-24": {"residual_bits": 24},
    "carry-20": {"residual_bits": 20},
    "carry-16": {"residual_bits": 16},
    "half-away": {"rounding": "half_away"},
    "floor": {"rounding": "floor"},
}


@dataclass(frozen=True, kw_only=True)
class Agreement(Experiment):
    """Codes of the integer program against fake quantization, of networks × widths × variants."""

    NAME: ClassVar[str] = "agreement"
    AXES: ClassVar[tuple[str, ...]] = ("bits", "variants")
    PASSES: ClassVar = {"calibration": 1}, {"accuracy": 3}  # alone, and given the inputs of fake quantization
    BESIDES: ClassVar[str] = "rounding for the output of layers"

    bits: tuple[int, ...] = (8,)
    """Widths of weights and feature maps."""
    variants: tuple[str, ...] = DEFAULT
    """Of the network, or of the accelerator."""
    held_out_images: int | None = 1000
    """On up to N held-out images; none: on all of them."""
    double: bool = False
    """Compare with fake quantization in float64."""

    def check(self) -> None:
        """Refuse unknown names, missing data and numbers out of range."""
        check_known(self, "variants", (*DEFAULT, *CHANGES))
        super().check()

    def measure(self, prepared: Bench, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return shares of equal codes and the largest differences, in LSB."""
        nearest = prepared.quantized((cell["bits"], cell["bits"]))
        variant = cell["variant"]
        if variant == "nearest":
            q = nearest
        elif variant == "own-biases":
            config = replace(nearest.record.config, bias_bits=16)
            q = gd.quantize(nearest.float_network, prepared.calibration, config)
        else:
            q = tune.round_weights(nearest, prepared.calibration_inputs)
            q = datapath.align(target("fixed-point").fitted(q)) if variant == "power-of-two" else q
        before = jax.config.read("jax_enable_x64")
        jax.config.update("jax_enable_x64", self.double)
        try:
            program = datapath.compile(q, datapath.Accelerator(**CHANGES.get(variant, {})))
            kind = np.float64 if self.double else np.float32
            found = datapath.agreement(program, q, [np.asarray(x, kind) for x, _ in prepared.batches])
        finally:
            jax.config.update("jax_enable_x64", before)
        maps = found.feature_maps
        return {
            "reference": "float64" if self.double else "float32",
            "held_out_images": found.images,
            "equal": found.equal,
            "largest": max(m.largest for m in maps.values()),
            "equal_given_inputs": found.equal_given_inputs,
            "largest_given_inputs": max(m.largest_given_inputs for m in maps.values()),
            "same_top1": found.same_top1,
            "feature_maps": {name: m.equal / m.values for name, m in maps.items()},
        }

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return shares of equal codes (largest difference)."""
        return {
            "equal": f"{row['equal']:.5%} (up to {row['largest']} LSB)",
            "given inputs": f"{row['equal_given_inputs']:.5%} (up to {row['largest_given_inputs']} LSB)",
            "same class": f"{row['same_top1']:.2%} of {row['held_out_images']}",
        }


CONFIGS = {
    "agreement": Agreement(networks=tuple(NETWORKS)),
    "agreement-tiny": Agreement(variants=("nearest", "multiplier-8"), held_out_images=50),
}
