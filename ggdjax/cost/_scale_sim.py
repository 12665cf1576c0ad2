"""Export of a network's layers for SCALE-Sim."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggdjax._atomic import atomic_write
from ggdjax._errors import UnsupportedError
from ggdjax.network import fold_batch_norm
from ggdjax.network._layer_shapes import layer_shapes

if TYPE_CHECKING:
    from os import PathLike

    from ggdjax.network import Network


def export_scale_sim(network: Network, path: str | PathLike[str]) -> None:
    """Write the layers as a topology file of SCALE-Sim (Samajdar et al., ISPASS 2020), versions 2 and 3.

    One line per layer: name, height and width of the input, of the window, channels, filters, stride. SCALE-Sim knows
    neither padding nor dilation: the input's size is the one that gives the true output, ``(rows out − 1) · stride +
    window``, with the zeros of a transposed convolution. It knows no groups: a depthwise layer's name ends in ``_DP``,
    which SCALE-Sim takes channel by channel; other groups have a line each. Batch normalization is folded first.

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
    with atomic_write(path, "path") as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
