"""What a network run means while it is observed, measured, or fake-quantized.

Each class is one ``numerics`` of the interpreter (``ggdjax.network.run``). An instance lives for one run (one trace
under ``jit``): what it collects on the way is read off afterwards.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax.numpy as jnp

from ggdjax.ggd._histogram import histogram_counts
from ggdjax.network import Float
from ggdjax.network._ops import LIMITS, MOVES, PRODUCTS, QUANTIZABLE
from ggdjax.quantization._image_moments import power_sums

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Array, Bool, Int
    from jaxtyping import Float as Real

    from ggdjax.ggd import Counter, Histogram
    from ggdjax.network import Graph, Node
    from ggdjax.quantization._quantizers import Quantizers

ROUNDED = QUANTIZABLE | PRODUCTS


class Observe(Float):
    """Float arithmetic that counts every quantizable feature map into the logarithmic bins of `Histogram`.

    ``counters`` maps feature map names to running counts; after the run they hold the values of this one too. Each
    tensor is counted once, however many layers read it. ``channels`` does so per channel (last axis), if asked for.
    ``ranges`` maps every other tensor that integers will hold, such as the summands of an addition, to its least and
    largest value so far.
    ``share`` is None, or how many images of the batch count, the first ones, and how many it holds.
    ``read`` names images by their rows, as many as the batch holds, of which the first ones count, and their number;
    ``power_sums`` has theirs, for the feature maps whose first axis is as long as the batch.
    """

    def __init__(
        self,
        counters: Mapping[str, Counter],
        ranges: Mapping[str, tuple[Real[Array, ""], Real[Array, ""]]],
        *,
        read: tuple[Int[Array, " batch"], Int[Array, ""]] | None = None,
        per_channel: bool = False,
        share: tuple[Int[Array, ""], int] | None = None,
    ) -> None:
        self.counters, self.ranges, self.share = dict(counters), dict(ranges), share
        self.read, self.per_channel = read, per_channel
        self.power_sums: dict[str, Real[Array, "image 6"]] = {}
        self.channels: dict[str, Histogram] = {}
        self._counted: set[str] = set()

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Count the node's inputs that are feature maps, then compute in float."""
        for name, x in zip(node.feature_maps, inputs, strict=False):
            if name in self._counted:
                continue
            self._counted.add(name)
            count = None if self.share is None else self.share[0] * (x.size // self.share[1])
            self.counters[name] = self.counters[name].add(x, count)
            if self.read is not None and x.shape[:1] == self.read[0].shape:
                self.power_sums[name] = power_sums(x, *self.read)
            if self.per_channel:
                count = None if count is None else count // x.shape[-1]
                self.channels[name] = histogram_counts(x, tuple(range(x.ndim - 1)), count)
        for name, x in zip(node.inputs, inputs, strict=True):
            if name in self.ranges and name not in self._counted:
                self._counted.add(name)
                self.widen(name, x)
        return super().apply(node, params, *inputs)

    def widen(self, name: str, x: Array) -> None:
        """Let the range of ``name`` hold the finite values of ``x`` of the images that count.

        Others, 0 / 0 say, are there to be discarded by a choice: where they are not, the outputs are not finite.
        """
        low, high = self.ranges[name]
        counts = jnp.isfinite(x)
        if self.share is not None and x.ndim and x.shape[0] == self.share[1]:
            counts &= (jnp.arange(x.shape[0]) < self.share[0]).reshape(-1, *(1,) * (x.ndim - 1))
        self.ranges[name] = (
            jnp.minimum(low, jnp.min(x, initial=jnp.inf, where=counts)),
            jnp.maximum(high, jnp.max(x, initial=-jnp.inf, where=counts)),
        )


def tensors_with_ranges(graph: Graph) -> tuple[str, ...]:
    """Return the tensors whose range a calibration measures: what integers hold beside codes of feature maps.

    These are the inputs of everything that is no layer and does more than move or limit values, and the outputs.
    """
    read = [
        t
        for node in graph.nodes
        if node.op not in ROUNDED | MOVES | LIMITS or dict(node.attrs).get("method", "nearest") != "nearest"
        for t in node.inputs
    ]
    counted = {feature_map.tensor for feature_map in graph.feature_maps()}
    return tuple(t for t in dict.fromkeys((*read, *graph.outputs)) if t not in counted)


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
        """Measure the node's inputs that are feature maps, then compute in float."""
        for name, x in zip(node.feature_maps, inputs, strict=False):
            if name in self.energy:
                continue
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

    A layer sums products of codes and scales the sum, Δ_in Δ_w · Σ q_x q_w: integers below 2^24 are exact in float32,
    so the sum is, in whatever order a backend takes it, and it is the sum of the integer program. Σ (Δ_in q_x)(Δ_w q_w)
    would round every product and partial sum; values that lie close to a threshold then get another code, which
    changes others in all layers after it.

    Feature maps without an entry in ``quantizers`` stay in float, so that layers can be quantized one at a time.
    ``feature_maps`` holds what the layers received, after rounding.
    """

    def __init__(self, quantizers: Quantizers) -> None:
        self.quantizers = quantizers
        self.feature_maps: dict[str, Array] = {}

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Round input, weight and bias of a layer and both factors of a product; compute the rest in float."""
        if node.op in PRODUCTS:
            return self._product(node, *inputs)
        if node.op not in QUANTIZABLE:
            return super().apply(node, params, *inputs)
        (source,), params = inputs, dict(params)
        x, w = self.quantizers.activations.get(node.inputs[0]), self.quantizers.weights.get(node.name)
        rounding = self.quantizers.bias(node) if "bias" in params else None
        scale = self.quantizers.accumulator_step(node)
        if scale is None:
            self.feature_maps[node.inputs[0]] = source = source if x is None else x(source)
            params["kernel"] = params["kernel"] if w is None else w(params["kernel"])
            if rounding is not None:
                params["bias"] = rounding(params["bias"])
            return super().apply(node, params, source)
        scale = _of_rank(scale, source.ndim).astype(source.dtype)
        codes = x.centred(source)
        self.feature_maps[node.inputs[0]] = _of_rank(x.step, source.ndim).astype(source.dtype) * codes
        params["kernel"], bias = w.centred(params["kernel"]), params.pop("bias", None)
        sums = super().apply(node, params, codes)
        if bias is None:
            return scale * sums
        bias = _of_rank(bias, source.ndim)
        if scale.ndim:  # searches have a step per row
            bias = jnp.broadcast_to(bias, jnp.broadcast_shapes(bias.shape, scale.shape))
        if rounding is not None and self.quantizers.biases[node.name] is None:  # an integer of the accumulator
            return scale * (sums + rounding.centred(bias))
        return scale * sums + (bias if rounding is None else rounding(bias))

    def _product(self, node: Node, *inputs: Array) -> Array:
        """Return the product of two feature maps: of codes, where both have one step."""
        quantizers = [self.quantizers.activations.get(name) for name in node.inputs]
        for name, x, quantizer in zip(node.inputs, inputs, quantizers, strict=True):
            self.feature_maps[name] = x if quantizer is None else quantizer(x)
        if any(q is None or jnp.shape(q.step)[-1:] not in {(), (1,)} for q in quantizers):
            return super().apply(node, {}, *(self.feature_maps[name] for name in node.inputs))
        scale = math.prod(_of_rank(q.step, inputs[0].ndim) for q in quantizers).astype(inputs[0].dtype)
        return scale * super().apply(node, {}, *(q.centred(x) for q, x in zip(quantizers, inputs, strict=True)))


def _of_rank(value: Array, rank: int) -> Array:
    """Return an array with axes of size 1 in front; a scalar as it is."""
    return value.reshape((1,) * (rank - value.ndim) + value.shape) if value.ndim else value
