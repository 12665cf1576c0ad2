"""The integers of one convolution or dense layer, and the exact range of its accumulators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import GgdjaxError
from ggdjax.datapath._formats import Format, signed_bits
from ggdjax.datapath._rounding import Overflow

if TYPE_CHECKING:
    from jaxtyping import Int

    from ggdjax.datapath._spec import Accelerator
    from ggdjax.network import Node
    from ggdjax.quantization import QuantizedNetwork

#: The simulator sums in 32 bits.
SIMULATOR_BITS = 32


@dataclass(frozen=True, kw_only=True)
class IntegerLayer:
    """``acc = bias + Σ x · kernel`` over integers, ``x`` in ``[source.low, source.high]``."""

    source: Format
    kernel: Int[np.ndarray, "*window cin_per_group cout"]
    bias: Int[np.ndarray, " cout"]
    accumulator: Format
    """Scale, and exact range over all inputs and channels, of the accumulator before any overflow."""
    magnitude: int
    """Largest ``Σ |x| |kernel|`` over the output channels: no partial sum in any order exceeds it, bias left out."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Real range of the output, before any overflow: channels have scales of their own."""
        low, high = _ends(self.kernel, self.bias.astype(np.int64), self.source)
        scale = np.asarray(self.accumulator.scale)
        return float((low * scale).min()), float((high * scale).max())

    @property
    def noise(self) -> float:
        """Four standard deviations of what rounding inputs and weights adds to a real output, the largest channel's."""
        weights = self.kernel.reshape(-1, self.kernel.shape[-1]).astype(np.float64)
        codes = len(weights) * max(-self.source.low, self.source.high) ** 2
        deviation = np.sqrt((np.square(weights).sum(axis=0) + codes) / 12)  # errors are uniform over one step
        return float((4 * deviation * np.asarray(self.accumulator.scale)).max())


def code_format(q: QuantizedNetwork, tensor: str, accelerator: Accelerator) -> Format:
    """Return the format of a feature map's codes.

    Raises:
        GgdjaxError: it has a step per channel, or codes wider than the accelerator's.
    """
    quantizer = q.quantizers.activations[tensor]
    step = np.asarray(quantizer.step, np.float64)
    if step.ndim:
        raise GgdjaxError(
            f"feature map `{tensor}` has a step per channel, which no integer accumulator can sum: "
            "quantize with `activations_per='tensor'`"
        )
    if quantizer.bits > accelerator.activation_bits:
        raise GgdjaxError(
            f"feature map `{tensor}` has codes of {quantizer.bits} bits, the accelerator's `activation_bits` are "
            f"{accelerator.activation_bits}: raise them or quantize to fewer bits"
        )
    zero = 0 if quantizer.zero_point is None else int(quantizer.zero_point)
    return Format(scale=(float(step),), low=quantizer.qmin - zero, high=quantizer.qmax - zero, zero_point=zero)


def integer_layer(q: QuantizedNetwork, node: Node, source: Format, accelerator: Accelerator) -> IntegerLayer:
    """Return the integers of a convolution or dense node whose input has the format ``source``.

    Raises:
        GgdjaxError: weights with a zero point or too wide; a bias that ``bias_bits`` cannot
            hold; an accumulator that overflows under `Overflow.RAISE`, or 32 bits under any policy.
    """
    kernel, step = _kernel(q, node, accelerator)
    scale = step * source.scale[0]
    channels = kernel.shape[-1]
    bias = _bias(q, node, np.broadcast_to(scale, (channels,)), accelerator)
    low, high = _ends(kernel, bias, source)
    lowest, highest = min(int(low.min()), 0), max(int(high.max()), 0)
    _refuse_overflow(node, lowest, highest, accelerator)
    if accelerator.overflow is Overflow.WRAP:
        bias = _wrapped(bias, accelerator.accumulator_bits)
    return IntegerLayer(
        source=source,
        kernel=kernel,
        bias=bias.astype(np.int32),
        accumulator=Format(scale=tuple(scale.tolist()), low=lowest, high=highest, role="acc"),
        magnitude=int(np.abs(kernel.reshape(-1, channels).astype(np.int64)).sum(axis=0).max())
        * max(-source.low, source.high),
    )


def _ends(kernel: np.ndarray, bias: np.ndarray, source: Format) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and largest accumulator of each output channel over all inputs."""
    rows = kernel.reshape(-1, kernel.shape[-1]).astype(np.int64)
    # Padding is code 0, whether or not the limits hold it; so every partial sum lies in the range of the whole.
    least, most = min(source.low, 0), max(source.high, 0)
    products = rows * least, rows * most
    return np.minimum(*products).sum(axis=0) + bias, np.maximum(*products).sum(axis=0) + bias


def _kernel(q: QuantizedNetwork, node: Node, accelerator: Accelerator) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of a kernel and its step(s), float64, one or one per output channel."""
    weights = q.quantizers.weights[node.name]
    if weights.zero_point is not None and np.any(np.asarray(weights.zero_point) != 0):
        raise GgdjaxError(
            f"the weights of `{node.name}` have a zero point; the accelerator multiplies symmetric weights: "
            "quantize with `weight_scheme='fixed-point'`"
        )
    width = signed_bits(weights.qmin, weights.qmax)
    if width > accelerator.weight_bits:
        raise GgdjaxError(
            f"the weights of `{node.name}` have {width} bits, the accelerator's `weight_bits` are "
            f"{accelerator.weight_bits}: raise them or quantize to fewer bits"
        )
    codes = weights.encode(np.asarray(q.params[node.param("kernel")], np.float32))
    smallest = np.int8 if accelerator.weight_bits <= 8 else np.int16
    return codes.astype(smallest), np.atleast_1d(np.asarray(weights.step, np.float64))


def _bias(q: QuantizedNetwork, node: Node, scale: np.ndarray, accelerator: Accelerator) -> np.ndarray:
    """Return the bias on the accumulator's grid, int64, nearest integers (halves to even)."""
    if node.param("bias") is None:
        return np.zeros(scale.shape, np.int64)
    codes = np.rint(q.rounded_bias(node) / scale)
    width = signed_bits(int(codes.min()), int(codes.max()))
    if width > accelerator.bias_bits and accelerator.overflow is Overflow.SATURATE:
        half = 1 << (accelerator.bias_bits - 1)
        codes = np.clip(codes, -half, half - 1)
    elif width > accelerator.bias_bits and not (
        accelerator.overflow is Overflow.WRAP and accelerator.bias_bits == accelerator.accumulator_bits
    ):
        raise GgdjaxError(
            f"the bias of `{node.name}` needs {width} bits on the accumulator's grid, `bias_bits` are "
            f"{accelerator.bias_bits}: raise them"
        )
    return codes.astype(np.int64)


def _wrapped(x: np.ndarray, bits: int) -> np.ndarray:
    half = 1 << (bits - 1)
    return (x + half) % (2 * half) - half


def _refuse_overflow(node: Node, low: int, high: int, accelerator: Accelerator) -> None:
    needed = signed_bits(low, high)
    if accelerator.overflow is Overflow.RAISE and needed > accelerator.accumulator_bits:
        raise GgdjaxError(
            f"the accumulator of `{node.name}` can reach {low} to {high} and needs {needed} bits, "
            f"`accumulator_bits` are {accelerator.accumulator_bits}: raise them, narrow weights or feature maps, "
            "or choose `overflow` 'saturate' or 'wrap'"
        )
    if needed > SIMULATOR_BITS:
        raise GgdjaxError(
            f"the accumulator of `{node.name}` can reach {low} to {high} and needs {needed} bits; "
            f"the simulator sums in {SIMULATOR_BITS}: narrow weights or feature maps"
        )
