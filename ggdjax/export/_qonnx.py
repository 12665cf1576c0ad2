"""Programs as QONNX files: quantizers of any width as nodes of their own (Pappalardo et al., arXiv:2206.07527)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import UnsupportedError
from ggdjax.datapath._compile import as_program
from ggdjax.datapath._formats import bits_of, signed_bits
from ggdjax.export._onnx import OPSET
from ggdjax.export._onnx_qdq import conv_node, write_rounded
from ggdjax.network._builder import View
from ggdjax.network.onnx._model_writer import Writer, save_model

if TYPE_CHECKING:
    from os import PathLike

    from ggdjax.datapath._program import Program
    from ggdjax.network import Node

DOMAIN = "qonnx.custom_op.general"


def export_qonnx(program: Program, path: str | PathLike[str]) -> None:
    """Write a compiled network as a QONNX file: the real network with a ``Quant`` node per feature map, weight, bias.

    ``Quant(x, scale, zeropt, bitwidth) = scale · (clip(round(x / scale + zeropt), qmin, qmax) − zeropt)`` with halves
    to even, where width and signedness give qmin and qmax. Every width is allowed, as FINN, hls4ml and Brevitas read
    it. Input and output have the model's own layout, the batch size is free.

    Args:
        program: what :func:`ggdjax.datapath.compile` returned.
        path: the file to write; an existing one is replaced.

    Raises:
        UnsupportedError: a feature map's codes are not the whole range of a width (named).
        GgdjaxError: ``path`` cannot be written.
    """
    program = as_program(program)
    import onnx

    writer = Writer(program.network, OPSET)
    nodes, outputs = write_rounded(program, writer, _feature_map, _layer)
    real, graph = onnx.TensorProto.FLOAT, program.network.graph
    inputs = [(name, real, graph.shape(name)) for name in graph.inputs]
    save_model(
        path, writer, nodes, inputs, [(name, real, shape) for name, shape in outputs], opset=OPSET, domains=[DOMAIN]
    )


def _feature_map(program: Program, writer: Writer, tensor: str) -> View:
    view, form = writer.views[tensor], program.code_formats[tensor]
    low, high = form.low + form.zero_point, form.high + form.zero_point
    bits = bits_of(low, high)
    ends = {(0, (1 << bits) - 1): (0, 0), _signed(bits): (1, 0), (1 - (1 << bits - 1), (1 << bits - 1) - 1): (1, 1)}
    if (low, high) not in ends:
        raise UnsupportedError(
            f"feature map `{tensor}` has the codes {low} to {high}, which are not all of {bits} bits as QONNX has "
            "them: quantize to an integer number of bits, or write integers with `export_onnx`"
        )
    signed, narrow = ends[low, high]
    step, zero = np.float32(form.scale[0]), np.float32(form.zero_point)
    return View(_quant(writer, view.tensor, tensor, step, zero, bits, signed=signed, narrow=narrow), view.axes)


def _signed(bits: int) -> tuple[int, int]:
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def _quant(
    writer: Writer, source: str, name: str, step: Any, zero: Any, bits: int, *, signed: int = 1, narrow: int = 0
) -> str:
    constants = (("scale", step), ("zero_point", zero), ("bits", np.float32(bits)))
    inputs = [writer.constant(np.asarray(value), f"{name}/{role}") for role, value in constants]
    return writer.node(
        "Quant",
        [source, *inputs],
        f"{name}.quantized",
        domain=DOMAIN,
        signed=signed,
        narrow=narrow,
        rounding_mode="ROUND",
    )


def _layer(program: Program, writer: Writer, node: Node, source: View) -> View:
    """Write a convolution or dense node over quantized feature map, weights and bias."""
    layer = program.layers[node.name]
    scales = np.asarray(layer.accumulator.scale)
    step = scales / layer.source.scale[0]
    kernel, shape = layer.kernel, (1,) * (layer.kernel.ndim - 1) + step.shape
    if node.op == "conv":
        kernel, shape = np.moveaxis(kernel, (-1, -2), (0, 1)), (*step.shape, *shape[:-1])
    weights = _constant(writer, f"{node.name}/kernel", kernel, step.reshape(shape if step.size > 1 else ()))
    bias = _constant(writer, f"{node.name}/bias", layer.bias, scales if scales.size > 1 else scales.reshape(()))
    if node.op == "conv":
        return conv_node(writer, node, source, layer.kernel.shape[:-2], weights, bias)
    product = writer.node("MatMul", [writer.native(source), weights], node.name)
    return View(writer.node("Add", [product, bias], f"{node.name}.bias"), tuple(range(len(source.axes))))


def _constant(writer: Writer, name: str, codes: np.ndarray, step: np.ndarray) -> str:
    """Write what codes stand for, and the quantizer that finds the same codes again."""
    values = writer.constant((codes * step).astype(np.float32), name)
    bits = max(signed_bits(int(codes.min()), int(codes.max())), 2)
    return _quant(writer, values, name, step.astype(np.float32), np.float32(0), bits)
