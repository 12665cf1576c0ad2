"""The real network with QuantizeLinear and DequantizeLinear around every feature map, weight and bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import UnsupportedError
from ggdjax.network._builder import View
from ggdjax.network._ops import PRODUCTS, QUANTIZABLE
from ggdjax.network.onnx._model_writer import Writer, channels_first
from ggdjax.network.onnx._writer_ops import matmul_node, spread_node, write_node

if TYPE_CHECKING:
    from collections.abc import Callable

    from ggdjax.datapath._program import Program
    from ggdjax.network import Node
    from ggdjax.network._graph import Shape


def write_qdq(program: Program, writer: Writer, feature_maps: bool) -> tuple[list[Any], list[tuple[str, Shape]]]:
    """Write every node; convolutions, dense layers and products of two tensors read dequantized codes."""
    del feature_maps
    return write_rounded(program, writer, _quantized, _layer)


def write_rounded(
    program: Program,
    writer: Writer,
    feature_map: Callable[[Program, Writer, str], View],
    layer: Callable[[Program, Writer, Node, View], View],
) -> tuple[list[Any], list[tuple[str, Shape]]]:
    """Write the real network: ``feature_map`` rounds, once, what ``layer`` reads, a convolution or dense node."""
    rounded: dict[str, View] = {}
    for node in program.network.graph.nodes:
        for tensor in node.feature_maps:
            if tensor not in rounded:
                coded = tensor in program.code_formats
                rounded[tensor] = feature_map(program, writer, tensor) if coded else writer.views[tensor]
        if node.op in QUANTIZABLE:
            write = layer if node.name in program.layers else _in_float
            writer.views[node.output] = write(program, writer, node, rounded[node.inputs[0]])
        elif node.op in PRODUCTS:
            writer.views[node.output] = matmul_node(writer, node, [rounded[tensor] for tensor in node.inputs])
        else:
            writer.views[node.output] = write_node(writer, node)
    return writer.finish()


def _quantized(program: Program, writer: Writer, tensor: str) -> View:
    """Round a feature map to its codes and back."""
    view, form = writer.views[tensor], program.code_formats[tensor]
    if form.high - form.low != 255:
        raise UnsupportedError(
            f"feature map `{tensor}` has codes of {form.bits} bits; QuantizeLinear in operator set {writer.opset} "
            "has 8: quantize to 8 bits or export QONNX (`gd.export.export_qonnx`, `--to qonnx`), which has any width"
        )
    kind = np.int8 if form.signed else np.uint8
    scale = writer.constant(np.float32(form.scale[0]), f"{tensor}/step")
    zero = writer.constant(np.asarray(form.zero_point, kind), f"{tensor}/zero_point")
    codes = writer.node("QuantizeLinear", [view.tensor, scale, zero], f"{tensor}.quantized")
    return View(writer.node("DequantizeLinear", [codes, scale, zero], f"{tensor}.dequantized"), view.axes)


def _layer(program: Program, writer: Writer, node: Node, source: View) -> View:
    """Write a convolution or dense node over dequantized codes, weights and bias."""
    layer = program.layers[node.name]
    if layer.kernel.dtype != np.int8:
        raise UnsupportedError(
            f"the weights of `{node.name}` have more than 8 bits, which QuantizeLinear lacks: quantize to 8 bits"
        )
    scales = np.asarray(layer.accumulator.scale)
    per_channel = scales.size > 1
    step = scales / layer.source.scale[0]
    kernel = layer.kernel if node.op == "dense" else np.moveaxis(layer.kernel, (-1, -2), (0, 1))
    channel = kernel.ndim - 1 if node.op == "dense" else 0
    zero = 0
    if pairs_can_saturate(layer.kernel):
        kernel, zero = (kernel.astype(np.int16) + 128).astype(np.uint8), 128
    weights = _dequantized(writer, kernel, step, channel if per_channel else None, f"{node.name}/kernel", zero)
    bias = _dequantized(writer, layer.bias, scales, 0 if per_channel else None, f"{node.name}/bias")
    return _product(writer, node, source, layer.kernel.shape, weights, bias)


def _in_float(program: Program, writer: Writer, node: Node, source: View) -> View:
    """Write a layer that stays in float.

    ONNX Runtime gives codes to real weights whose input is dequantized; limits that the input keeps anyhow prevent it.
    """
    if (form := program.code_formats.get(node.inputs[0])) is not None:
        limits = [np.float32(end * form.scale[0]) for end in (form.low, form.high)]
        names = [writer.constant(end, f"{node.name}/input_{i}") for i, end in zip(("low", "high"), limits, strict=True)]
        source = View(writer.node("Clip", [source.tensor, *names], f"{node.name}.input"), source.axes)
    kernel = np.asarray(program.params[f"{node.name}/kernel"])
    bias = np.asarray(program.params.get(f"{node.name}/bias", np.zeros(kernel.shape[-1], np.float32)))
    stored = kernel if node.op == "dense" else np.moveaxis(kernel, (-1, -2), (0, 1))
    names = [writer.constant(value, f"{node.name}/{role}") for role, value in (("kernel", stored), ("bias", bias))]
    return _product(writer, node, source, kernel.shape, *names)


def _product(writer: Writer, node: Node, source: View, kernel: tuple[int, ...], weights: str, bias: str) -> View:
    """Write a convolution or dense node over weights and bias that stand in the file."""
    if node.op == "conv":
        return conv_node(writer, node, source, kernel[:-2], weights, bias)
    rank = len(source.axes)
    inputs, own = [writer.native(source), weights], tuple(range(rank))
    if rank == 2:
        return View(writer.node("Gemm", [*inputs, bias], node.name), own)
    return View(writer.node("Add", [writer.node("MatMul", inputs, node.name), bias], f"{node.name}.bias"), own)


def conv_node(writer: Writer, node: Node, source: View, window: tuple[int, ...], weights: str, bias: str) -> View:
    """Write the convolution itself, channels first, over weights and bias that stand in the file."""
    axes, padding = channels_first(len(source.axes)), node.attr("padding")
    output = writer.node(
        "Conv",
        [spread_node(writer, node, writer.stored(source, axes)), weights, bias],
        node.name,
        kernel_shape=window,
        strides=node.attr("strides"),
        pads=[low for low, _ in padding] + [high for _, high in padding],
        dilations=node.attr("dilation"),
        group=node.attr("groups"),
    )
    return View(output, axes)


def pairs_can_saturate(kernel: np.ndarray) -> bool:
    """Whether two products of int8 weights with uint8 codes can leave 16 bits, where x86 without VNNI saturates.

    VPMADDUBSW adds the products of two neighbours; which weights of one output are neighbours depends on the kernel's
    layout in memory, so the two largest and the two smallest count. Codes reach 255 as ONNX Runtime multiplies them:
    it shifts int8 ones by 128.
    """
    rows = np.sort(kernel.reshape(-1, kernel.shape[-1]).astype(np.int32), axis=0)
    highest, lowest = np.maximum(rows[-2:], 0).sum(0).max(), np.minimum(rows[:2], 0).sum(0).min()
    return bool(255 * highest > 2**15 - 1 or 255 * lowest < -(2**15))


def _dequantized(
    writer: Writer, codes: np.ndarray, step: np.ndarray, axis: int | None, name: str, zero_point: int = 0
) -> str:
    attributes = {} if axis is None else {"axis": axis}
    step = np.asarray(step.astype(np.float32) if axis is not None else np.float32(step[0]))
    inputs = [writer.constant(codes, name), writer.constant(step, f"{name}.step")]
    if zero_point:
        inputs.append(writer.constant(np.full(step.shape, zero_point, codes.dtype), f"{name}.zero_point"))
    return writer.node("DequantizeLinear", inputs, f"{name}.dequantized", **attributes)
