"""Programs as ONNX files: with quantize and dequantize nodes for deployment, or in integers for proof."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggdjax._errors import GgdjaxError, near_matches
from ggdjax.datapath._compile import as_program
from ggdjax.network.onnx._model_writer import Writer, save_model

if TYPE_CHECKING:
    from os import PathLike

    from ggdjax.datapath._program import Program

#: Operator set that is written.
OPSET = 17


def export_onnx(program: Program, path: str | PathLike[str], *, form: str = "qdq", feature_maps: bool = False) -> None:
    """Write a compiled network as an ONNX file; input and output in the model's own layout, the batch size free.

    ``"qdq"``: the real network with QuantizeLinear and DequantizeLinear around every feature map, weight and bias.
    Runtimes turn them into their own 8-bit kernels, whose requantization is theirs: codes can differ by an LSB. x86
    without VNNI adds the products of int8 weights and uint8 codes in pairs and saturates the sums at 16 bits, which
    ONNX Runtime lets happen. So weights are written as int8 where no pair of them can reach that (always with up to 7
    bits), else as uint8 with zero point 128, the same numbers, whose kernels sum exactly on every CPU. Where ONNX
    Runtime is installed, it then runs the file at its four levels of graph optimization on a few images over the range
    of the input's codes; a level that computes something else is named in a warning.

    ``"integer"``: the program itself, ConvInteger and MatMulInteger with requantization in 64-bit integers: any
    runtime must give the program's integers, bit by bit. Its output is int32, in units of ``program.output_scale``.

    Args:
        program: what :func:`ggdjax.datapath.compile` returned.
        path: the file to write; an existing one is replaced.
        form: ``"qdq"`` or ``"integer"``.
        feature_maps: also give the codes of every feature map, int32, channels last, under the feature map's name
            followed by ``.codes`` (integer form only).

    Raises:
        UnsupportedError: the form has no expression for a node (named): accumulators that can overflow, or codes and
            weights of more than 8 bits; in ``"qdq"``, of any other width.
        GgdjaxError: ``form`` is another, or ``path`` cannot be written.
    """
    program = as_program(program)
    from ggdjax.export._onnx_integer import write_integer
    from ggdjax.export._onnx_qdq import write_qdq
    from ggdjax.export._onnx_runtime import warn_of_differences

    forms = {"qdq": write_qdq, "integer": write_integer}
    if form not in forms:
        raise GgdjaxError(f"`form` {form!r} is unknown; {near_matches(form, forms)}")
    if feature_maps and form == "qdq":
        raise GgdjaxError("`feature_maps` are codes: only `form` 'integer' has them")
    import onnx

    # The writer needs a graph and arrays by key, which networks and programs both have.
    writer = Writer(program.network if form == "qdq" else program, OPSET)  # type: ignore[arg-type]
    nodes, outputs = forms[form](program, writer, feature_maps)
    real, whole = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    inputs = [(name, real, program.network.graph.shape(name)) for name in program.graph.inputs]
    outputs = [(name, real if form == "qdq" else whole, shape) for name, shape in outputs]
    save_model(path, writer, nodes, inputs, outputs, opset=OPSET)
    if form == "qdq":
        warn_of_differences(path, program)
