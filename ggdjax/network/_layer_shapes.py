"""The loops of every convolution and dense layer, as hardware sees them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ggdjax._errors import GgdjaxError, expect

if TYPE_CHECKING:
    from ggdjax.network._graph import Graph, Node
    from ggdjax.network._network import Network


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """``y[g, m, e, f] = Σ_{c, i, j} x[g, c, e·stride + i, f·stride + j] · w[g, m, c, i, j] + b[g, m]`` for one image.

    Channels are those of one group. A dense layer is a window of one by one; what lies between its batch and channels
    are its rows. Three spatial dimensions count as rows by the product of the other two. The input of a transposed
    convolution is the one with zeros between its values, as datapaths that know no other convolution read it.
    """

    name: str
    """Of the node."""
    feature_map: str
    """Of the tensor that enters."""
    kernel: str
    """Key of the weights."""
    bias: str | None
    """Key of the bias."""
    groups: int
    channels_in: int
    channels_out: int
    rows: int
    columns: int
    window_rows: int
    window_columns: int
    extent_rows: int
    """Input rows that one output row needs: the window's, spread by its dilation."""
    stride_rows: int
    stride_columns: int
    rows_out: int
    columns_out: int

    @property
    def window(self) -> int:
        """Weights of one channel in and one channel out."""
        return self.window_rows * self.window_columns

    @property
    def weights(self) -> int:
        """Weights of all groups."""
        return self.groups * self.channels_in * self.channels_out * self.window

    @property
    def biases(self) -> int:
        """Biases of all groups."""
        return self.groups * self.channels_out if self.bias is not None else 0

    @property
    def inputs(self) -> int:
        """Values of the tensor that enters, without padding, with the zeros of a transposed convolution."""
        return self.groups * self.channels_in * self.rows * self.columns

    @property
    def pixels_out(self) -> int:
        """Positions of the output."""
        return self.rows_out * self.columns_out

    @property
    def outputs(self) -> int:
        """Values of the tensor that leaves."""
        return self.groups * self.channels_out * self.pixels_out

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those on padding and on the zeros of a transposed convolution included."""
        return self.outputs * self.channels_in * self.window


def layer_shapes(net: Network) -> tuple[LayerShape, ...]:
    """Return the shape of every convolution and dense layer in the order of the graph.

    Raises:
        GgdjaxError: a dimension other than the first depends on the batch size.
    """
    expect("net", net, "Network")
    return tuple(layer_shape(net, node) for node in net.graph.quantizable)


def layer_shape(net: Network, node: Node) -> LayerShape:
    """Return the shape of one convolution or dense layer; the arrays in ``net.params`` may be abstract.

    Raises:
        GgdjaxError: a dimension other than the first depends on the batch size.
    """
    kernel = net.params[node.param("kernel")].shape
    before, after = (_image_shape(net.graph, node, tensor) for tensor in (node.inputs[0], node.output))
    groups = dict(node.attrs).get("groups", 1)
    if len(kernel) == 2:  # no window: a dense layer
        (window_rows, window_columns), (stride_rows, stride_columns) = (1, 1), (1, 1)
        before, after = ((prod(shape[:-1]), 1, shape[-1]) for shape in (before, after))
        extent_rows = 1
    else:
        strides, dilation = node.attr("strides"), node.attr("dilation")
        window_rows, window_columns = kernel[0], prod(kernel[1:-2])
        stride_rows, stride_columns = strides[0], prod(strides[1:])
        extent_rows = (window_rows - 1) * dilation[0] + 1
        spreading = dict(node.attrs).get("input_dilation", (1,) * len(strides))
        spread = ((size - 1) * step + 1 for size, step in zip(before, spreading, strict=False))
        before = (*spread, before[-1])
        before, after = ((shape[0], prod(shape[1:-1]), shape[-1]) for shape in (before, after))
    return LayerShape(
        name=node.name,
        feature_map=node.inputs[0],
        kernel=node.param("kernel"),
        bias=node.param("bias"),
        groups=groups,
        channels_in=kernel[-2],
        channels_out=kernel[-1] // groups,
        rows=before[0],
        columns=before[1],
        window_rows=window_rows,
        window_columns=window_columns,
        extent_rows=extent_rows,
        stride_rows=stride_rows,
        stride_columns=stride_columns,
        rows_out=after[0],
        columns_out=after[1],
    )


def _image_shape(graph: Graph, node: Node, tensor: str) -> tuple[int, ...]:
    shape = graph.shape(tensor)[1:]
    if None in shape:
        raise GgdjaxError(f"`{node.name}` has a shape {shape} per image, which depends on the batch size")
    return shape
