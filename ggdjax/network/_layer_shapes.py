"""The loops of every convolution, dense layer and product of two tensors, as hardware sees them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import GgdjaxError, expect
from ggdjax.network._ops import PRODUCTS, QUANTIZABLE

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
    """Key of the weights; of a product, the tensor that is the second factor."""
    is_product: bool = False
    """Whether w is no weight but a tensor, which differs between images."""
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
    """Rows of x that one output row needs: the window's, spread by its dilation."""
    stride_rows: int
    stride_columns: int
    rows_out: int
    columns_out: int
    spreading_rows: int = 1
    """Of a transposed convolution, the distance of two input rows with zeros between them: its stride."""
    row_products: int
    """Pairs of an output row and a window row that meets an input row, or padding, and no inserted zeros."""
    column_products: int

    @property
    def window(self) -> int:
        """Weights of one channel in and one channel out."""
        return self.window_rows * self.window_columns

    @property
    def taps_rows(self) -> int:
        """Window rows that meet input rows at one output row, on average and rounded up."""
        return -(-self.row_products // self.rows_out)

    @property
    def taps_columns(self) -> int:
        """Window columns that meet input columns at one output column, on average and rounded up."""
        return -(-self.column_products // self.columns_out)

    @property
    def taps(self) -> int:
        """Weights of one channel in and one channel out that one output takes: the window's, but for inserted zeros."""
        return self.taps_rows * self.taps_columns

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
        """Values of the tensor that enters, without padding and inserted zeros."""
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
        """Multiply-accumulates, those on padding included, those on the zeros of a transposed convolution not."""
        return self.groups * self.channels_in * self.channels_out * self.row_products * self.column_products


def layer_shapes(net: Network) -> tuple[LayerShape, ...]:
    """Return the shape of every convolution, dense layer and product of two tensors in the order of the graph.

    Raises:
        GgdjaxError: a dimension other than the first depends on the batch size.
    """
    expect("net", net, "Network")
    return tuple(layer_shape(net, node) for node in net.graph.nodes if node.op in QUANTIZABLE | PRODUCTS)


def layer_shape(net: Network, node: Node) -> LayerShape:
    """Return the shape of one convolution, dense layer or product; the arrays in ``net.params`` may be abstract.

    Raises:
        GgdjaxError: a dimension other than the first depends on the batch size.
    """
    before, after = (_image_shape(net.graph, node, tensor) for tensor in (node.inputs[0], node.output))
    if node.op in PRODUCTS:
        other = _image_shape(net.graph, node, node.inputs[1])
        # Where the second factor has one matrix for all of the first's, they are rows of one product.
        groups = 1 if prod(other[:-2]) == 1 else prod(after[:-2])
        rows = prod(after[:-1]) // groups
        return _matrices(node, node.inputs[1], groups, rows, before[-1], after[-1])
    key = node.param("kernel")
    kernel = net.params[key].shape
    if len(kernel) == 2:  # no window: a dense layer
        return _matrices(node, key, 1, prod(before[:-1]), *kernel)
    groups, strides, dilation = node.attr("groups"), node.attr("strides"), node.attr("dilation")
    spreading = dict(node.attrs).get("input_dilation") or (1,) * len(strides)
    products = [
        _meetings(*axis)
        for axis in zip(after[:-1], kernel[:-2], strides, node.attr("padding"), dilation, spreading, strict=True)
    ]
    return LayerShape(
        name=node.name,
        feature_map=node.inputs[0],
        kernel=key,
        bias=node.param("bias"),
        groups=groups,
        channels_in=kernel[-2],
        channels_out=kernel[-1] // groups,
        rows=before[0],
        columns=prod(before[1:-1]),
        window_rows=kernel[0],
        window_columns=prod(kernel[1:-2]),
        extent_rows=(kernel[0] - 1) * dilation[0] + 1,
        stride_rows=strides[0],
        stride_columns=prod(strides[1:]),
        rows_out=after[0],
        columns_out=prod(after[1:-1]),
        spreading_rows=spreading[0],
        row_products=products[0],
        column_products=prod(products[1:]),
    )


def _matrices(node: Node, second: str, groups: int, rows: int, channels_in: int, channels_out: int) -> LayerShape:
    """Return the shape of products of matrices, each of that many rows."""
    return LayerShape(
        name=node.name,
        feature_map=node.inputs[0],
        kernel=second,
        is_product=node.op in PRODUCTS,
        bias=node.param("bias"),
        groups=groups,
        channels_in=channels_in,
        channels_out=channels_out,
        rows=rows,
        columns=1,
        window_rows=1,
        window_columns=1,
        extent_rows=1,
        stride_rows=1,
        stride_columns=1,
        rows_out=rows,
        columns_out=1,
        row_products=rows,
        column_products=1,
    )


def _meetings(outputs: int, window: int, stride: int, padding: tuple[int, int], dilation: int, spreading: int) -> int:
    """Return how many pairs of an output and a tap along one axis meet no inserted zero."""
    at = np.arange(outputs)[:, None] * stride + np.arange(window) * dilation - padding[0]
    return int((at % spreading == 0).sum())


def _image_shape(graph: Graph, node: Node, tensor: str) -> tuple[int, ...]:
    shape = graph.shape(tensor)[1:]
    if None in shape:
        raise GgdjaxError(f"`{node.name}` has a shape {shape} per image, which depends on the batch size")
    return shape
