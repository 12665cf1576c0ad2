"""Quantized ONNX files of other tools (pairs of QuantizeLinear and DequantizeLinear) as quantized networks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from ggdjax._errors import UnsupportedError
from ggdjax.network import Network, fold_batch_norm
from ggdjax.network.onnx._reader import load_with_grids
from ggdjax.network.ops import QUANTIZABLE
from ggdjax.quantization.config import QuantConfig
from ggdjax.quantization.parameters import FixedPoint, QuantParams
from ggdjax.quantization.quantized_network import QuantizedNetwork
from ggdjax.schemes import Range

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from jaxtyping import Array

    from ggdjax.network import Graph, Node
    from ggdjax.network._builder import Grid

#: What only moves or picks numbers: to round before it is to round behind it.
_MOVES = frozenset({"transpose", "reshape", "slice", "max_pool"})
_NEVER_NEGATIVE = frozenset({"relu", "sigmoid", "softmax", "abs", "exp"})
_KEEPS_SIGN = frozenset({"average_pool", "concat", "max", "mean", "resize", "sum"}) | _MOVES


def load_qdq(
    path: str | PathLike[str], output: str | None = None, *, input_shape: Sequence[int | None] | None = None
) -> QuantizedNetwork:
    """Read a quantized ONNX file; the result computes what ONNX Runtime computes from it, in float32.

    Weights whose scales are powers of two and whose zero point is 0 become `FixedPoint`, others a `Range` (per output
    channel, if stored so). Roundings in front of convolutions and dense layers become the feature map's quantizer; a
    layer that the file leaves in float stays so. Roundings elsewhere (the operands of an addition, the output) have no
    place among our parameters: they stay in ``network`` as `round_to_grid` nodes. Where a rounding did the work of an
    activation, ``network`` has a clip. Biases are on their grids already; those on a power of two become `FixedPoint`.

    There is no calibration and no fit: ``calibration`` and ``fit`` are None.

    Args:
        path: the file, as `ggdjax.network.load_onnx` reads it; ``output`` and ``input_shape`` likewise.
        output: name of the tensor to compute; None: the only output.
        input_shape: the full shape, batch first, of a model that leaves its image size open.

    Raises:
        UnsupportedError: nothing is quantized; or a scale runs along an axis other than the output channels.
        ModelError: the file cannot be read.
    """
    net, grids = load_with_grids(path, output, input_shape=input_shape)
    net, activations = _lift(fold_batch_norm(net))
    weights: dict[str, FixedPoint | Range] = {}
    biases: dict[str, FixedPoint] = {}
    for node in net.graph.quantizable:
        for role, grid in grids.get(node.name, {}).items():
            quantizer = _quantizer(node, role, grid, net.params)
            if role == "kernel":
                weights[node.name] = quantizer
            elif isinstance(quantizer, FixedPoint):
                biases[node.name] = quantizer
    if not weights and not activations:
        raise UnsupportedError(f"`{path}` quantizes nothing by QuantizeLinear and DequantizeLinear: use `load_onnx`")
    return QuantizedNetwork(
        network=net,
        params=QuantParams(activations=activations, weights=weights, biases=biases),
        config=QuantConfig(),
        calibration=None,
        fit=None,
        predicted_sqnr_db=np.full(len(activations), np.nan),
        weight_sqnr_db={},
        bias_sqnr_db={},
    )


def _quantizer(node: Node, role: str, grid: Grid, params: dict[str, Array]) -> FixedPoint | Range:
    """Return the quantizer of a weight or bias, its scales along the last axis (output channels)."""
    scale, zero = grid.scale.reshape(-1), np.broadcast_to(grid.zero_point, grid.scale.shape).reshape(-1)
    value = np.asarray(params[node.param(role)], np.float64)
    if scale.size not in {1, value.shape[-1]}:
        raise _misfit(node, role)
    code = value / scale + zero
    # In float32 a code is off by its own rounding: 2^-22 of it.
    whole = np.round(code)
    if (np.abs(code - whole) > 1e-3 + np.abs(code) * 2.0**-22).any():
        raise _misfit(node, role)
    # Twice a code is whole too, but rounding would clip it.
    if whole.min() < grid.low or whole.max() > grid.high:
        raise _misfit(node, role)
    if scale.size == 1:
        scale, zero = scale[0], zero[0]
    bits = int(grid.high - grid.low + 1).bit_length() - 1
    mantissa, exponent = np.frexp(scale)
    if (mantissa == 0.5).all() and not zero.any() and grid.low < 0:
        return FixedPoint(frac_bits=jnp.asarray(1 - exponent, jnp.int32), bits=jnp.int32(bits))
    return _range(scale, zero, grid.low, grid.high)


def _misfit(node: Node, role: str) -> UnsupportedError:
    return UnsupportedError(
        f"unsupported: the {role} of node `{node.name}` is quantized along another axis than its output channels, or "
        "rescaled after; quantize it per tensor or per output channel"
    )


def _range(step: Any, zero_point: Any, low: int, high: int) -> Range:
    step = jnp.asarray(step, jnp.float32)
    integers = [jnp.broadcast_to(jnp.asarray(v, jnp.int32), step.shape) for v in (low, high, zero_point, 0)]
    return Range(step=step, qmin=integers[0], qmax=integers[1], zero_point=integers[2], code=integers[3])


def _lift(net: Network) -> tuple[Network, dict[str, Range]]:
    """Take the roundings in front of convolutions and dense layers out of the graph, as quantizers by feature map."""
    graph = net.graph
    activations: dict[str, Range] = {}
    for feature_map in graph.feature_maps():
        source = graph.producer(feature_map.tensor)
        while source is not None and source.op in _MOVES:
            source = graph.producer(source.inputs[0])
        if source is not None and source.op == "round_to_grid":
            low, high = source.attr("low"), source.attr("high")
            # Codes as stored count from the zero point; ours are unsigned, or two's complement where zero is in the
            # middle.
            qmin = low if high == -low - 1 else 0
            activations[feature_map.tensor] = _range(source.attr("step"), qmin - low, qmin, high + qmin - low)

    def only_rounds_for_layers(tensor: str) -> bool:
        if tensor in graph.outputs:
            return False
        return all(
            node.op in QUANTIZABLE or (node.op in _MOVES and only_rounds_for_layers(node.output))
            for node in graph.readers(tensor)
        )

    nodes = []
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        current = replace(node, inputs=tuple(renamed.get(tensor, tensor) for tensor in node.inputs))
        alone = graph.only_reader(node.inputs[0]) is not None
        if node.op == "round_to_grid" and alone and only_rounds_for_layers(node.output):
            if node.attr("low") != 0 or _never_negative(graph, node.inputs[0]):
                renamed[node.output] = current.inputs[0]
                continue
            limits = (("high", node.attr("high") * node.attr("step")), ("low", 0.0))
            current = replace(current, op="clip", attrs=limits)
        nodes.append(current)
    lifted = {renamed.get(tensor, tensor): quantizer for tensor, quantizer in activations.items()}
    return Network(graph=replace(graph, nodes=tuple(nodes)).without_dead_nodes(), params=net.params), lifted


def _never_negative(graph: Graph, tensor: str) -> bool:
    node = graph.producer(tensor)
    if node is None:
        return False
    if node.op in _NEVER_NEGATIVE or (node.op == "clip" and node.attr("low") is not None and node.attr("low") >= 0):
        return True
    return node.op in _KEEPS_SIGN and all(_never_negative(graph, source) for source in node.inputs)
