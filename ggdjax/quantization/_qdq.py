"""Quantized ONNX files of other tools (pairs of QuantizeLinear and DequantizeLinear) as quantized networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from ggdjax._errors import UnsupportedError
from ggdjax.network import Network, fold_batch_norm
from ggdjax.network.onnx._reader import load_with_grids
from ggdjax.quantization._quantized_network import QuantizedNetwork
from ggdjax.quantization._quantizers import Quantizers
from ggdjax.quantization._record import Record, Stage
from ggdjax.steps import Quantizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from jaxtyping import Array

    from ggdjax.network import Graph, Node
    from ggdjax.network._builder import Grid

#: What only moves or picks numbers: to round before it is to round behind it.
_MOVES = frozenset({"gather", "transpose", "reshape", "slice", "max_pool"})
_NEVER_NEGATIVE = frozenset({"relu", "sigmoid", "softmax", "abs", "exp"})
_KEEPS_SIGN = frozenset({"average_pool", "concat", "max", "mean", "resize", "sum"}) | _MOVES


def load_qdq(
    path: str | PathLike[str], output: str | None = None, *, input_shape: Sequence[int | None] | None = None
) -> QuantizedNetwork:
    """Read a quantized ONNX file; the result computes what ONNX Runtime computes from it, in float32.

    Weights and biases get the quantizers of the file, one step or one per output channel. Roundings in front of
    convolutions and dense layers become the feature map's quantizer; a layer that the file leaves in float stays so.
    Roundings elsewhere (the operands of an addition, the output) have no place among our quantizers: they stay in the
    graph as `round_to_grid` nodes. Where a rounding did the work of an activation, the graph has a clip.

    The record has neither configuration nor calibration: ``config`` and ``calibration`` are None.

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
    weights: dict[str, Quantizer] = {}
    biases: dict[str, Quantizer] = {}
    for node in net.graph.quantizable:
        for role, grid in grids.get(node.name, {}).items():
            (weights if role == "kernel" else biases)[node.name] = _quantizer(node, role, grid, net.params)
    if not weights and not activations:
        raise UnsupportedError(f"`{path}` quantizes nothing by QuantizeLinear and DequantizeLinear: use `load_onnx`")
    return QuantizedNetwork(
        graph=net.graph,
        params=net.params,
        quantizers=Quantizers(activations=activations, weights=weights, biases=biases),
        record=Record(float_network=net, stages=(Stage(name="load_qdq", settings={"file": Path(path).name}),)),
    )


def _quantizer(node: Node, role: str, grid: Grid, params: dict[str, Array]) -> Quantizer:
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
    # Unsigned codes around their middle (as our exporter writes them) are two's complement, shifted.
    middle = (grid.low + grid.high + 1) // 2
    shift = middle if np.all(zero == middle) else 0
    return _on_grid(scale, zero - shift, grid.low - shift, grid.high - shift)


def _misfit(node: Node, role: str) -> UnsupportedError:
    return UnsupportedError(
        f"unsupported: the {role} of node `{node.name}` is quantized along another axis than its output channels, or "
        "rescaled after; quantize it per tensor or per output channel"
    )


def _on_grid(step: Any, zero_point: Any, low: int, high: int) -> Quantizer:
    step = jnp.asarray(step, jnp.float32)
    zero = jnp.broadcast_to(jnp.asarray(zero_point, jnp.float32), step.shape) if np.any(zero_point) else None
    return Quantizer(step=step, bits=(high - low + 1).bit_length() - 1, signed=low < 0, zero_point=zero)


def _is_quantizer(node: Node) -> bool:
    """Whether a node rounds to all codes of a width; narrower limits (−127 to 127) no quantizer has."""
    return node.op == "round_to_grid" and (node.attr("high") - node.attr("low") + 1).bit_count() == 1


def _around_zero(rounding: Node) -> Quantizer:
    """Return the narrowest quantizer that holds a rounding's codes: two's complement if it does, else unsigned."""
    low, high = min(rounding.attr("low"), 0), max(rounding.attr("high"), 0)
    bits = (high - low).bit_length()
    # Codes as stored count from the zero point.
    qmin = -(1 << (bits - 1)) if -low <= 1 << (bits - 1) > high and low < 0 else 0
    shift = 0 if qmin else -low
    return _on_grid(rounding.attr("step"), shift, qmin, qmin + (1 << bits) - 1)


def _lift(net: Network) -> tuple[Network, dict[str, Quantizer]]:
    """Take the roundings in front of convolutions and dense layers out of the graph, as quantizers by feature map."""
    graph = net.graph
    activations: dict[str, Quantizer] = {}
    for feature_map in graph.feature_maps():
        source = graph.producer(feature_map.tensor)
        while source is not None and source.op in _MOVES:
            source = graph.producer(source.inputs[0])
        if source is not None and source.op == "round_to_grid":
            activations[feature_map.tensor] = _around_zero(source)

    def only_rounds_for_layers(tensor: str) -> bool:
        if tensor in graph.outputs:
            return False
        return all(
            tensor in node.feature_maps or (node.op in _MOVES and only_rounds_for_layers(node.output))
            for node in graph.readers(tensor)
        )

    nodes = []
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        current = replace(node, inputs=tuple(renamed.get(tensor, tensor) for tensor in node.inputs))
        alone = graph.only_reader(node.inputs[0]) is not None
        if _is_quantizer(node) and alone and only_rounds_for_layers(node.output):
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
