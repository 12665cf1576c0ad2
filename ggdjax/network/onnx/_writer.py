"""`export_onnx` writes a network as a float32 ONNX file that any runtime reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggdjax._errors import GgdjaxError, expect
from ggdjax.network.onnx._model_writer import Writer, save_model
from ggdjax.network.onnx._writer_ops import write_node

if TYPE_CHECKING:
    from os import PathLike

    from ggdjax.network._network import Network

#: Operator sets that can be written: from 13 on axes and limits are inputs in one way.
OPSETS = range(13, 22)


def export_onnx(net: Network, path: str | PathLike[str], *, opset: int = 17) -> None:
    """Write ``net`` as an ONNX file: the model's own input and output layout, the batch size free.

    Convolutions and poolings are written channels first, which is what runtimes are fast at; a transpose stands only
    where the model's own layout is another one (in front of the first convolution of a channels-last model).

    Args:
      net: from `load_onnx`, `trace` or a rewrite.
      path: the file to write; an existing one is replaced.
      opset: version of the operator set, 13 to 21.

    Raises:
      UnsupportedError: the operator set has no form of one of the network's nodes; the message names it.
      GgdjaxError: ``opset`` outside its range, or ``path`` cannot be written.
    """
    expect("net", net, "Network")
    import onnx

    if opset not in OPSETS:
        raise GgdjaxError(f"`opset` is {opset}; operator sets {OPSETS[0]} to {OPSETS[-1]} can be written")
    writer = Writer(net, opset)
    for node in net.graph.nodes:
        writer.views[node.output] = write_node(writer, node)
    nodes, outputs = writer.finish()
    real = onnx.TensorProto.FLOAT
    inputs = [(name, real, net.graph.shape(name)) for name in net.graph.inputs]
    save_model(path, writer, nodes, inputs, [(name, real, shape) for name, shape in outputs], opset=opset)
