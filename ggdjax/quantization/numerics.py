"""What a network run means while it is observed, measured, or fake-quantized.

Each class is one ``numerics`` of the interpreter (``ggdjax.network.run``). An instance lives for one run (one trace
under ``jit``): what it collects on the way is read off afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ggdjax.ggd import histogram_counts
from ggdjax.network import Float
from ggdjax.network.ops import QUANTIZABLE
from ggdjax.quantization.parameters import as_range

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Array, Bool
    from jaxtyping import Float as Real

    from ggdjax.ggd import Counter, Histogram
    from ggdjax.network import Node
    from ggdjax.quantization.parameters import QuantParams
    from ggdjax.schemes import Range


def fake_quantize(x: Real[Array, "..."], quantizer: Range) -> Real[Array, "..."]:
    """Return ``x`` rounded to the quantizer's levels, as real numbers.

    Rounding is half to even. Gradients use the straight-through estimator (Bengio et al. 2013): with respect to ``x``
    one inside the range and zero outside; with respect to ``step`` the code minus ``x / step`` inside, the end code
    outside (Esser et al., LSQ, ICLR 2020, eq. 3).

    Args:
        x: values of any shape; the quantizer's fields broadcast against its last axis.
        quantizer: step and code range.

    Example:
        >>> quantizer = gd.schemes.choose("max-abs", jnp.array([0.0, 3.0]), bits=2)
        >>> gd.quantization.fake_quantize(jnp.array([0.4, 1.6, 5.0]), quantizer).tolist()
        [0.0, 2.0, 3.0]
    """
    step = quantizer.step.astype(x.dtype)
    zero = quantizer.zero_point.astype(x.dtype)
    low, high = quantizer.qmin.astype(x.dtype) - zero, quantizer.qmax.astype(x.dtype) - zero
    step, low, high = (against_last_axis(v, x.ndim) for v in (step, low, high))
    code = jnp.clip(x / step, low, high)
    return step * (code + jax.lax.stop_gradient(jnp.round(code) - code))


def against_last_axis(value: Array, ndim: int) -> Array:
    """Return one number, or one per channel, with axes of size 1 in front: as many as an array of ``ndim`` axes has."""
    return value.reshape((1,) * (ndim - value.ndim) + value.shape) if value.ndim else value


class Observe(Float):
    """Float arithmetic that counts every quantizable feature map into the logarithmic bins of `Histogram`.

    ``counters`` maps feature map names to running counts; after the run they hold the values of this one too. Each
    tensor is counted once, however many layers read it. ``channels`` does so per channel (last axis), if asked for.
    """

    def __init__(self, counters: Mapping[str, Counter], *, per_channel: bool = False) -> None:
        self.counters = dict(counters)
        self.per_channel = per_channel
        self.channels: dict[str, Histogram] = {}
        self._counted: set[str] = set()

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Count the node's input if it is quantizable, then compute in float."""
        if node.op in QUANTIZABLE and node.inputs[0] not in self._counted:
            name, x = node.inputs[0], inputs[0]
            self._counted.add(name)
            self.counters[name] = self.counters[name].add(x)
            if self.per_channel:
                self.channels[name] = histogram_counts(x, axis=tuple(range(x.ndim - 1)))
        return super().apply(node, params, *inputs)


class Measure(Float):
    """Float arithmetic that sums, per image, signal and quantization error of every quantizable feature map.

    ``energy`` and ``error`` map feature map names to Σx² and Σ(x − x_hat)² over the images that ``valid`` marks.
    The signal is the float network's: each feature map is judged alone, not by what earlier layers did to it. For
    that, ``accumulated_error`` compares with the feature maps that a `FakeQuant` run received. A feature map without
    an entry in ``params`` has no error of its own.
    """

    def __init__(self, params: QuantParams, valid: Bool[Array, " batch"]) -> None:
        self.params, self.valid = params, valid
        self.energy: dict[str, Real[Array, ""]] = {}
        self.error: dict[str, Real[Array, ""]] = {}
        self._feature_maps: dict[str, Array] = {}

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Measure the node's input if it is quantizable, then compute in float."""
        if node.op in QUANTIZABLE and node.inputs[0] not in self.energy:
            name, x = node.inputs[0], inputs[0]
            quantizer = self.params.activations.get(name)
            rounded = x if quantizer is None else fake_quantize(x, quantizer)
            self.energy[name] = self._sum_of_squares(x)
            self.error[name] = self._sum_of_squares(x - rounded)
            self._feature_maps[name] = x
        return super().apply(node, params, *inputs)

    def accumulated_error(self, rounded: FakeQuant) -> dict[str, Real[Array, ""]]:
        """Return Σ(x − x̃)² per feature map, x̃ the rounded feature map of the quantized network on the same images."""
        maps = rounded.feature_maps
        return {name: self._sum_of_squares(x - maps[name]) for name, x in self._feature_maps.items()}

    def _sum_of_squares(self, x: Array) -> Array:
        per_image = jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))
        return jnp.sum(jnp.where(self.valid, per_image, 0.0))


class FakeQuant(Float):
    """Real arithmetic on rounded values: the input, weight and bias of every convolution and dense layer.

    Feature maps without an entry in ``params`` stay in float, so that layers can be quantized one at a time.
    ``feature_maps`` holds what the layers received, after rounding.
    """

    def __init__(self, params: QuantParams) -> None:
        self.params = params
        self.feature_maps: dict[str, Array] = {}

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Round input, weight and bias of a quantizable node; compute the rest in float."""
        if node.op in QUANTIZABLE:
            quantized = dict(params)
            if (x := self.params.activations.get(node.inputs[0])) is not None:
                inputs = (fake_quantize(inputs[0], x), *inputs[1:])
            self.feature_maps[node.inputs[0]] = inputs[0]
            if (w := self.params.weights.get(node.name)) is not None:
                quantized["kernel"] = fake_quantize(params["kernel"], as_range(w))
            if "bias" in params and (b := self.params.biases.get(node.name)) is not None:
                quantized["bias"] = fake_quantize(params["bias"], as_range(b))
            params = quantized
        return super().apply(node, params, *inputs)
