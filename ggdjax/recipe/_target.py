"""Hardware by name: which widths, steps and rounding it has, by its own documentation, and what a recipe may not ask.

What a page does not say is ours, and is named as such.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from ggdjax._errors import GgdjaxError, near_matches, refusal
from ggdjax.datapath import Accelerator, Overflow, Requantization, Rounding
from ggdjax.quantization import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ggdjax.quantization import QuantizedNetwork

_ANY = tuple(range(2, 17))
_ESP_DL = "ESP-DL, How to quantize model; ESP-PPQ, EspdlQuantizer.py (github.com/espressif/esp-ppq)"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What one hardware or runtime can compute.

    Example:
        >>> gd.recipe.target("esp32-s3").recipe(gd.Recipe()).quantization.activation_steps
        'power-of-two'
    """

    name: str
    weight_bits: tuple[int, ...]
    """Widths that weights may have."""
    activation_bits: tuple[int, ...]
    """Widths that feature maps may have."""
    same_width: bool = False
    """Whether the weights of a layer must be as wide as its input."""
    weights_per_channel: bool = True
    """Whether every output channel may have its own step."""
    weight_steps: Literal["free", "power-of-two"] = "free"
    activation_steps: Literal["free", "power-of-two"] = "free"
    unsigned_activations: bool = True
    """Whether a feature map without negative values may have codes from 0; otherwise all codes are signed."""
    zero_points: bool = False
    """Whether feature maps may have a zero point."""
    symmetric_weights: bool = False
    """Whether the lowest code of weights, -2^(b-1), is not allowed."""
    rounding: Rounding = Rounding.HALF_EVEN
    """How requantization rounds."""
    bias_bits: int = 32
    accumulator_bits: int = 32
    overflow: Overflow = Overflow.RAISE
    """What its accumulators do with a sum that they cannot hold."""
    export: Literal["qdq", "integer-onnx", "bundle"] = "bundle"
    """What `ggdjax export --to` writes for it."""
    source: str = "ours"
    """The page that it follows."""
    ours: tuple[str, ...] = ()
    """Fields that the page says nothing of."""

    def refuses(self, recipe: Any) -> str | None:
        """Return why a `Recipe` cannot run, as one line that names the field; None where it can."""
        config, shifts = recipe.quantization, self.activation_steps == "power-of-two"
        if recipe.mean_bits is not None:
            allowed = set(self.weight_bits) & set(self.activation_bits)
            if not set(recipe.widths) <= allowed:
                return f"`mean_bits` gives every layer a width of its own, {self._widths()}"
        for name, widths_of, allowed in (
            ("weight_bits", config.weight_bits_of, self.weight_bits),
            ("activation_bits", config.activation_bits_of, self.activation_bits),
        ):
            usual = () if recipe.mean_bits is not None else (getattr(config, name),)
            if wrong := sorted({*usual, *_numbers(widths_of)} - set(allowed)):
                return f"`{name}` is {wrong[0]}, {self._widths()}"
        if self.same_width and recipe.mean_bits is None and config.weight_bits != config.activation_bits:
            return f"`weight_bits` is {config.weight_bits} and `activation_bits` {config.activation_bits}, not the same"
        if config.weights_per == "channel" and not self.weights_per_channel:
            return "`weights_per` is 'channel', weights have one step per layer"
        if config.activations_per == "channel":
            return "`activations_per` is 'channel', feature maps have one step each"
        if config.weight_scheme != "fixed-point" and self.weight_steps == "power-of-two":
            return f"`weight_scheme` is {config.weight_scheme!r}, steps of weights are powers of two: 'fixed-point'"
        if shifts and config.activation_steps == "free":
            return "`activation_steps` is 'free', steps of feature maps are powers of two"
        if config.scheme.startswith("affine") and not self.zero_points:
            return f"`scheme` is {config.scheme!r}, there are no zero points"
        if not self.unsigned_activations and not config.activations_signed:
            return "`activations_signed` is False, all codes are signed"
        if shifts and recipe.search is not None and not all(map(_is_power, recipe.search.factors)):
            return "`factors` of `search` are no powers of two, steps of feature maps are"
        if shifts and recipe.gradient is not None and recipe.gradient.step_rate:
            return f"`step_rate` of `gradient` is {recipe.gradient.step_rate:g}, steps must stay powers of two: 0"
        return None

    def _widths(self) -> str:
        return f"weights have {_listed(self.weight_bits)} bits and feature maps {_listed(self.activation_bits)}"

    def recipe(self, recipe: Any) -> Any:
        """Return a `Recipe` for this target: its steps and signs as the hardware has them, all else as in ``recipe``.

        Raises:
            GgdjaxError: the recipe asks for widths, granularity or schemes that the target does not have.
        """
        config, search, gradient = recipe.quantization, recipe.search, recipe.gradient
        if self.activation_steps == "power-of-two":
            config = replace(config, activation_steps="power-of-two")
            if search is not None:
                search = replace(search, factors=tuple(filter(_is_power, search.factors)) or (1.0,))
            if gradient is not None:
                gradient = replace(gradient, step_rate=0.0)
        if not self.unsigned_activations:
            config = replace(config, activations_signed=True)
        return replace(recipe, target=self.name, quantization=config, search=search, gradient=gradient)

    def accelerator(self, q: QuantizedNetwork | None = None) -> Accelerator:
        """Return the datapath, with the widths of a network: 8 bits at least."""
        shifts = self.weight_steps == self.activation_steps == "power-of-two"
        accelerator = Accelerator(
            bias_bits=self.bias_bits,
            accumulator_bits=self.accumulator_bits,
            rounding=self.rounding,
            overflow=self.overflow,
            requantization=Requantization.SHIFT if shifts else Requantization.MULTIPLIER_AND_SHIFT,
        )
        return accelerator if q is None else accelerator.widened(q)

    def fitted(self, q: QuantizedNetwork) -> QuantizedNetwork:
        """Return the network as the target holds it, with a stage in its record if that changes anything.

        Steps of feature maps that tuning left a rounding error beside a power of two become that power; where the
        target has no lowest code of weights, those weights get the next.
        """
        params, figures = dict(q.params), {}
        activations = dict(q.quantizers.activations)
        if self.activation_steps == "power-of-two":
            for name, quantizer in activations.items():
                step = np.asarray(quantizer.step)
                nearest = np.ldexp(np.float32(1.0), np.rint(np.log2(step)).astype(np.int32))
                if (step != nearest).any():
                    activations[name] = replace(quantizer, step=jax.device_put(nearest))
                    figures[name] = float(np.max(step / nearest))
        for node in q.graph.quantizable if self.symmetric_weights else ():
            if (quantizer := q.quantizers.weights.get(node.name)) is None:
                continue
            kernel = np.asarray(params[node.param("kernel")])
            lowest = np.asarray(quantizer.encode(kernel)) == quantizer.qmin
            if lowest.any():
                least = np.float32(quantizer.qmin + 1) * np.asarray(quantizer.step)
                params[node.param("kernel")] = jax.device_put(np.where(lowest, least, kernel))
                figures[node.name] = int(lowest.sum())
        if not figures:
            return q
        stage = Stage(name="target", settings={"target": self.name}, figures={"changed": figures})
        return q.changed(stage, params=params, quantizers=replace(q.quantizers, activations=activations))


def _is_power(factor: float) -> bool:
    return math.frexp(factor)[0] == 0.5


def _numbers(widths: Mapping[str, Any]) -> Iterable[int]:
    """Return the widths that are some: what stays in float is computed elsewhere."""
    return (bits for bits in widths.values() if bits != "float")


def _listed(widths: Iterable[int]) -> str:
    found = list(widths)
    if len(found) > 2 and found == list(range(found[0], found[-1] + 1)):
        return f"{found[0]} to {found[-1]}"
    return " or ".join(map(str, found))


#: Hardware by name, in the order in which it is listed.
TARGETS = {
    one.name: one
    for one in (
        Target(
            name="fixed-point",
            weight_bits=_ANY,
            activation_bits=_ANY,
            weight_steps="power-of-two",
            activation_steps="power-of-two",
            source="ours: an accelerator that only shifts",
        ),
        Target(
            name="esp32-p4",
            weight_bits=(8, 16),
            activation_bits=(8, 16),
            same_width=True,
            weight_steps="power-of-two",
            activation_steps="power-of-two",
            unsigned_activations=False,
            source=_ESP_DL,
            ours=("accumulator_bits", "overflow", "bias_bits of 16-bit layers (there 40)"),
        ),
        Target(
            name="esp32-s3",
            weight_bits=(8, 16),
            activation_bits=(8, 16),
            same_width=True,
            weights_per_channel=False,
            weight_steps="power-of-two",
            activation_steps="power-of-two",
            unsigned_activations=False,
            rounding=Rounding.HALF_UP,
            bias_bits=20,
            accumulator_bits=20,
            overflow=Overflow.SATURATE,
            source=_ESP_DL,
            ours=("accumulator_bits (as wide as the bias)", "overflow", "bias_bits of 16-bit layers (there 40)"),
        ),
        Target(
            name="imx500-like",
            weight_bits=(2, 4, 8),
            activation_bits=(8,),
            activation_steps="power-of-two",
            source="Sony Model Compression Toolkit, Target Platform Capabilities: the default model, IMX500",
            ours=("rounding", "bias_bits", "accumulator_bits", "overflow"),
        ),
        Target(
            name="tflite-int8",
            weight_bits=(8,),
            activation_bits=(8,),
            zero_points=True,
            symmetric_weights=True,
            export="qdq",
            source="TensorFlow Lite (LiteRT) 8-bit quantization specification",
            ours=("rounding", "accumulator_bits", "overflow", "export"),
        ),
        Target(
            name="onnxruntime-x86",
            weight_bits=(7, 8),
            activation_bits=(8,),
            zero_points=True,
            export="qdq",
            source="ONNX Runtime, Quantize ONNX models: 7 bits are `reduce_range`, for AVX2 and AVX-512 without VNNI, "
            "where sums of pairs of products saturate at 16 bits",
            ours=("accumulator_bits", "overflow"),
        ),
    )
}


def target(name: str) -> Target:
    """Return the hardware of a name: see `TARGETS`.

    Raises:
        GgdjaxError: no target is called so.

    Example:
        >>> gd.recipe.target("esp32-p4").rounding, gd.recipe.target("esp32-s3").rounding
        (<Rounding.HALF_EVEN: 'half_even'>, <Rounding.HALF_UP: 'half_up'>)
    """
    if not isinstance(name, str):
        raise refusal("name", name, "the name of a target", ", ".join(TARGETS))
    if name not in TARGETS:
        raise GgdjaxError(f"no target is called `{name}`: {near_matches(name, TARGETS)}")
    return TARGETS[name]
