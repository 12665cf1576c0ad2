"""The loops of every convolution and dense layer, as hardware sees them; export for SCALE-Sim."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from ggdjax._errors import GgdjaxError, UnsupportedError
from ggdjax._whole import whole_file
from ggdjax.network import fold_batch_norm

if TYPE_CHECKING:
    from ggdjax.network import Graph, Network, Node


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """``y[g, m, e, f] = Σ_{c, i, j} x[g, c, e·stride + i, f·stride + j] · w[g, m, c, i, j] + b[g, m]`` for one image.

    Channels are those of one group. A dense layer is a window of one by one; what lies between its batch and channels
    are its rows. Three spatial dimensions count as rows by the product of the other two.
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
        """Values of the tensor that enters, without padding."""
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
        """Multiply-accumulates, those on padding included."""
        return self.outputs * self.channels_in * self.window


def layer_shapes(net: Network) -> tuple[LayerShape, ...]:
    """Return the shape of every convolution and dense layer in the order of the graph.

    Raises:
        GgdjaxError: a dimension other than the first depends on the batch size.
    """
    return tuple(_layer_shape(net, node) for node in net.graph.quantizable)


def _layer_shape(net: Network, node: Node) -> LayerShape:
    kernel = net.params[node.param("kernel")].shape
    before, after = (_image_shape(net.graph, node, tensor) for tensor in (node.inputs[0], node.output))
    if node.op == "dense":
        (window_rows, window_columns), (stride_rows, stride_columns), groups = (1, 1), (1, 1), 1
        before, after = ((prod(shape[:-1]), 1, shape[-1]) for shape in (before, after))
        extent_rows = 1
    else:
        strides, dilation, groups = (node.attr(name) for name in ("strides", "dilation", "groups"))
        window_rows, window_columns = kernel[0], prod(kernel[1:-2])
        stride_rows, stride_columns = strides[0], prod(strides[1:])
        extent_rows = (window_rows - 1) * dilation[0] + 1
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


def export_scale_sim(network: Network, path: Path | str) -> None:
    """Write the layers as a topology file of SCALE-Sim (Samajdar et al., ISPASS 2020), versions 2 and 3.

    One line per layer: name, height and width of the input, of the window, channels, filters, stride. SCALE-Sim knows
    neither padding nor dilation: the input's size is the one that gives the true output, ``(rows out − 1) · stride +
    window``. It knows no groups: a depthwise layer's name ends in ``_DP``, which SCALE-Sim takes channel by channel;
    other groups have a line each. Batch normalization is folded first.

    Raises:
        UnsupportedError: a layer has other strides down than across, which the format cannot say.
        GgdjaxError: a dimension other than the first depends on the batch size.
    """
    lines = ["Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,"]
    for shape in layer_shapes(fold_batch_norm(network)):
        if shape.stride_rows != shape.stride_columns and shape.rows_out > 1 and shape.columns_out > 1:
            raise UnsupportedError(
                f"`{shape.name}` has strides {shape.stride_rows} and {shape.stride_columns}; SCALE-Sim's topology has "
                "one stride for both directions: leave the layer out or make them equal"
            )
        stride = shape.stride_rows if shape.rows_out > 1 else shape.stride_columns
        rows = (shape.rows_out - 1) * stride + shape.window_rows
        columns = (shape.columns_out - 1) * stride + shape.window_columns
        # A comma ends a field, and "DP" anywhere in a name means depthwise.
        name = shape.name.replace(",", "_").replace("DP", "Dp")
        depthwise = shape.groups > 1 and shape.channels_in == 1
        channels = shape.groups if depthwise else shape.channels_in
        fields = (rows, columns, shape.window_rows, shape.window_columns, channels, shape.channels_out, stride)
        if depthwise:
            names = [f"{name}_DP"]
        else:
            names = [name] if shape.groups == 1 else [f"{name}_{group}" for group in range(shape.groups)]
        lines.extend(", ".join(map(str, (one, *fields))) + "," for one in names)
    with whole_file(path, "path") as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
