"""What a network run means while it is observed, measured, or fake-quantized.

Each class is one ``numerics`` of the interpreter (``ggdjax.network.run``). An instance lives for one run (one trace
under ``jit``): what it collects on the way is read off afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from ggdjax.ggd import histogram_counts
from ggdjax.network import Float
from ggdjax.network._ops import QUANTIZABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Array, Bool, Int
    from jaxtyping import Float as Real

    from ggdjax.ggd import Counter, Histogram
    from ggdjax.network import Node
    from ggdjax.quantization._quantizers import Quantizers


class Observe(Float):
    """Float arithmetic that counts every quantizable feature map into the logarithmic bins of `Histogram`.

    ``counters`` maps feature map names to running counts; after the run they hold the values of this one too. Each
    tensor is counted once, however many layers read it. ``channels`` does so per channel (last axis), if asked for.
    ``share`` is None, or how many images of the batch count, the first ones, and how many it holds.
    """

    def __init__(
        self,
        counters: Mapping[str, Counter],
        *,
        per_channel: bool = False,
        share: tuple[Int[Array, ""], int] | None = None,
    ) -> None:
        self.counters, self.share = dict(counters), share
        self.per_channel = per_channel
        self.channels: dict[str, Histogram] = {}
        self._counted: set[str] = set()

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Count the node's input if it is quantizable, then compute in float."""
        if node.op in QUANTIZABLE and node.inputs[0] not in self._counted:
            name, x = node.inputs[0], inputs[0]
            self._counted.add(name)
            count = None if self.share is None else self.share[0] * (x.size // self.share[1])
            self.counters[name] = self.counters[name].add(x, count)
            if self.per_channel:
                count = None if count is None else count // x.shape[-1]
                self.channels[name] = histogram_counts(x, tuple(range(x.ndim - 1)), count)
        return super().apply(node, params, *inputs)


class Measure(Float):
    """Float arithmetic that sums, per image, signal and quantization error of every quantizable feature map.

    ``energy`` and ``error`` map feature map names to Σx² and Σ(x − x_hat)² over the images that ``valid`` marks.
    The signal is the float network's: each feature map is measured alone, not with what earlier layers did to it. For
    that, ``accumulated_error`` compares with the feature maps that a `FakeQuant` run received. A feature map without
    an entry in ``quantizers`` has no error of its own.
    """

    def __init__(self, quantizers: Quantizers, valid: Bool[Array, " batch"]) -> None:
        self.quantizers, self.valid = quantizers, valid
        self.energy: dict[str, Real[Array, ""]] = {}
        self.error: dict[str, Real[Array, ""]] = {}
        self._feature_maps: dict[str, Array] = {}

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Measure the node's input if it is quantizable, then compute in float."""
        if node.op in QUANTIZABLE and node.inputs[0] not in self.energy:
            name, x = node.inputs[0], inputs[0]
            quantizer = self.quantizers.activations.get(name)
            rounded = x if quantizer is None else quantizer(x)
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

    Feature maps without an entry in ``quantizers`` stay in float, so that layers can be quantized one at a time.
    ``feature_maps`` holds what the layers received, after rounding.
    """

    def __init__(self, quantizers: Quantizers) -> None:
        self.quantizers = quantizers
        self.feature_maps: dict[str, Array] = {}

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Round input, weight and bias of a quantizable node; compute the rest in float."""
        if node.op in QUANTIZABLE:
            quantized = dict(params)
            if (x := self.quantizers.activations.get(node.inputs[0])) is not None:
                inputs = (x(inputs[0]), *inputs[1:])
            self.feature_maps[node.inputs[0]] = inputs[0]
            if (w := self.quantizers.weights.get(node.name)) is not None:
                quantized["kernel"] = w(params["kernel"])
            if "bias" in params and (b := self.quantizers.biases.get(node.name)) is not None:
                quantized["bias"] = b(params["bias"])
            params = quantized
        return super().apply(node, params, *inputs)
