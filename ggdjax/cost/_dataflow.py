"""Where data stay and what moves: traffic and cycles of one layer under three dataflows.

Per group of channels, with C channels in, M out, E × F outputs per channel, H × W inputs per channel and a window of
K weights; a tile has c channels in, m out, r output rows. Every tile size is tried; the one of least DRAM traffic that
fits the buffer is taken. Numbers of tiles: n_c = ⌈C/c⌉, n_m = ⌈M/m⌉, n_r = ⌈E/r⌉. An input strip of r output rows has
h(r) = min(H, (r − 1)·stride + extent) rows; read strip by strip, inputs cost H(r) = H + (n_r − 1)·max(0, extent −
stride) rows, because strips overlap.

DRAM traffic in values (weights, inputs, partial sums; outputs always E·F·M, biases once), and what the buffer holds:

- output stationary (for m-tile, for strip, for c: sums stay): K·C·M·n_r, H(r)·W·C·n_m, 0;
  m·r·F sums, h(r)·W inputs and K·m weights of one channel in.
- weight stationary (for m-tile, for c-tile: weights stay, inputs stream): K·C·M, H·W·C·n_m, 2·(n_c − 1)·E·F·M;
  K·c·m weights, c·min(H, extent)·W inputs, m sums.
- row stationary (for strip, for c-tile, for m-tile: input rows and sums stay): K·C·M·n_r, H(r)·W·C, and
  2·(n_c − 1)·E·F·M where both n_c and n_m exceed 1, else 0; c·h(r)·W inputs, m·r·F sums, K·m weights of one channel in.

A transposed convolution of stride s stores no zeros: of its input, strips of r output rows have ⌊((r − 1)·stride +
extent − 1)/s⌋ + 1 rows, overlap by ⌈(extent − stride)/s⌉, and one output takes T of the K weights, those that meet
values (T = K everywhere else). In a product of two tensors the second one's values are the weights, and move as inputs.

With a buffer that holds a whole layer, every tensor moves once. The model is in the manner of Chen, Emer & Sze
(Eyeriss, ISCA 2016, who name these dataflows); it reproduces no particular chip.

On an array of R rows and S columns (folds of the loops that are laid out on it; filling and draining overlap with
neighbouring folds; one multiply-accumulate per element and cycle at any width), and words between buffer and array
(weights, inputs, sums), P = E·F outputs per channel:

- output stationary: outputs down, channels out across. P-folds ⌈P/R⌉, m-folds ⌈M/S⌉; T·C cycles per fold;
  T·C·M·⌈P/R⌉ (K·C·M at least), T·C·P·⌈M/S⌉, P·M.
- weight stationary: products of one output down, channels out across. k-folds ⌈K·C/R⌉, m-folds ⌈M/S⌉; as many cycles
  per fold as a weight meets values, P where T = K; K·C·M, T·C·P·⌈M/S⌉, P·M·(2·⌈T·C/R⌉ − 1).
- row stationary: window rows (those that meet input rows) down, output rows across; the pattern fits a =
  max(1, ⌊R/window rows⌋)·max(1, ⌊S/E⌋) times, for u channels in, v channels out and ⌊a/(u·v)⌋ groups at once; a unit
  holds the weights of q channels in and p out, where q·(window columns), p and q·p·(window columns) fit its registers
  for inputs, sums and weights.
  (groups/⌊a/(u·v)⌋)·⌈C/u⌉·⌈M/v⌉·⌈window rows/R⌉·⌈E/S⌉·(window columns)·F cycles; K·C·M·⌈E/S⌉, H·W·C·⌈M/(v·p)⌉,
  P·M·(2·⌈C/(u·q)⌉·⌈window rows/R⌉ − 1). Of all u, v, p, q those of fewest cycles, then of least traffic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import GgdjaxError
from ggdjax.cost._hardware_model import Dataflow

if TYPE_CHECKING:
    from ggdjax.cost._hardware_model import HardwareModel
    from ggdjax.network._layer_shapes import LayerShape


@dataclass(frozen=True, kw_only=True)
class LayerWidths:
    """Widths in bits of what one layer moves and computes with."""

    weight_bits: int
    """Of the weights; in a product of two tensors, of the second."""
    bias_bits: int
    activation_bits: int
    output_bits: int
    """Of the tensor that leaves: the feature map that it becomes, or sums where it leaves the network."""
    sum_bits: int
    """Of a partial sum."""
    floating: bool = False


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes moved for one layer and one image, every tensor packed at its width; biases count as weights."""

    weight_bytes: int
    input_bytes: int
    output_bytes: int
    partial_sum_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of them."""
        return self.weight_bytes + self.input_bytes + self.output_bytes + self.partial_sum_bytes


@dataclass(frozen=True, kw_only=True)
class Tile:
    """What the buffer holds at a time: output rows, channels in and out of one group."""

    rows_out: int
    channels_in: int
    channels_out: int


def packed_bytes(values: int, bits: int) -> int:
    """Return the bytes of that many values, packed without gaps."""
    return -(-values * bits // 8)


def dram_traffic(shape: LayerShape, widths: LayerWidths, hardware: HardwareModel) -> tuple[Traffic, Tile]:
    """Return the least DRAM traffic of a layer, and the tile that gives it (see the head of this file).

    Raises:
        GgdjaxError: the buffer cannot hold the smallest tile.
    """
    dataflow, buffer_bytes = hardware.dataflow, hardware.buffer_bytes
    strips = dataflow is not Dataflow.WEIGHT_STATIONARY
    rows = _tile_sizes(shape.rows_out)[:, None, None] if strips else np.array([[[shape.rows_out]]])
    channels = np.array([1]) if dataflow is Dataflow.OUTPUT_STATIONARY else _tile_sizes(shape.channels_in)
    rows, c, m = np.broadcast_arrays(rows, channels[:, None], _tile_sizes(shape.channels_out))
    n_r, n_c, n_m = (-(-whole // tile) for whole, tile in zip(_loops(shape), (rows, c, m), strict=True))
    strip = np.minimum(shape.rows, _rows_needed(shape, rows)) * shape.columns
    rows_read = shape.rows + (n_r - 1) * max(0, -(-(shape.extent_rows - shape.stride_rows) // shape.spreading_rows))
    inputs = rows_read * shape.columns * shape.channels_in * shape.groups
    spilled = 2 * (n_c - 1) * shape.outputs
    sums, columns = m * rows, shape.columns_out
    if dataflow is Dataflow.OUTPUT_STATIONARY:
        held = (sums * columns, strip, shape.window * m)
        moved = (shape.weights * n_r, inputs * n_m, np.zeros_like(n_r))
    elif dataflow is Dataflow.WEIGHT_STATIONARY:
        held = (m, c * min(shape.rows, _rows_needed(shape, 1)) * shape.columns, shape.window * c * m)
        moved = (np.full_like(n_r, shape.weights), shape.inputs * n_m, spilled)
    else:
        held = (sums * columns, c * strip, shape.window * m)
        moved = (shape.weights * n_r, inputs, np.where(n_m > 1, spilled, 0))
    sizes = (widths.sum_bits, widths.activation_bits, widths.weight_bits)
    held_bits = sum(values * bits for values, bits in zip(held, sizes, strict=True))
    fits = np.asarray(held_bits <= 8 * buffer_bytes)
    if not fits.any():
        raise GgdjaxError(
            f"`buffer_bytes` {buffer_bytes} cannot hold the smallest {dataflow} tile of `{shape.name}`: "
            f"it needs {packed_bytes(int(np.min(held_bits)), 1)} bytes"
        )
    moved_bits = sum(values * bits for values, bits in zip(moved, reversed(sizes), strict=True))
    best = np.unravel_index(np.argmin(np.where(fits, moved_bits, np.iinfo(np.int64).max)), fits.shape)
    weights, inputs, sums = (int(values[best]) for values in moved)
    tile = Tile(rows_out=int(rows[best]), channels_in=int(c[best]), channels_out=int(m[best]))
    return _traffic(shape, widths, weights, inputs, sums), tile


def array_use(shape: LayerShape, widths: LayerWidths, hardware: HardwareModel) -> tuple[int, Traffic]:
    """Return the cycles of a layer on the array, and what moves between buffer and array (see the head)."""
    if hardware.dataflow is Dataflow.ROW_STATIONARY:
        return _row_stationary(shape, widths, hardware)
    products, pixels = shape.channels_in * shape.taps, shape.pixels_out
    out_folds = -(-shape.channels_out // hardware.columns)
    inputs = shape.groups * products * pixels * out_folds
    if hardware.dataflow is Dataflow.OUTPUT_STATIONARY:
        pixel_folds = -(-pixels // hardware.rows)
        cycles = shape.groups * pixel_folds * out_folds * products
        weights = shape.weights * pixel_folds * shape.taps // shape.window
        return cycles, _traffic(shape, widths, max(shape.weights, weights), inputs, 0)
    rounds = -(-products // hardware.rows)
    meetings = -(-shape.row_products * shape.column_products // shape.window)
    cycles = shape.groups * -(-shape.channels_in * shape.window // hardware.rows) * out_folds * meetings
    return cycles, _traffic(shape, widths, shape.weights, inputs, 2 * (rounds - 1) * shape.outputs)


def _row_stationary(shape: LayerShape, widths: LayerWidths, hardware: HardwareModel) -> tuple[int, Traffic]:
    repeats = max(1, hardware.rows // shape.taps_rows) * max(1, hardware.columns // shape.rows_out)
    down, across = -(-shape.taps_rows // hardware.rows), -(-shape.rows_out // hardware.columns)
    u, v = (a.ravel() for a in np.meshgrid(_tile_sizes(shape.channels_in), _tile_sizes(shape.channels_out)))
    u, v = u[u * v <= repeats], v[u * v <= repeats]
    turns = -(-shape.groups // (repeats // (u * v))) * -(-shape.channels_in // u) * -(-shape.channels_out // v)
    fastest = turns == turns.min()
    u, v = u[fastest][:, None, None], v[fastest][:, None, None]

    columns = shape.window_columns
    q = np.arange(1, min(shape.channels_in, max(1, hardware.input_registers // columns)) + 1)[:, None]
    p = np.arange(1, min(shape.channels_out, hardware.sum_registers) + 1)
    # One channel in and one out always count as held: a window wider than the registers is not modelled further.
    held = (q * p * columns <= hardware.weight_registers) | (q * p == 1)
    inputs = shape.inputs * -(-shape.channels_out // (v * p)) * np.ones_like(u * q)
    sums = 2 * (-(-shape.channels_in // (u * q)) * down - 1) * shape.outputs * np.ones_like(v * p)
    bits = np.where(held, inputs * widths.activation_bits + sums * widths.sum_bits, np.iinfo(np.int64).max)
    best = np.unravel_index(np.argmin(bits), bits.shape)
    cycles = int(turns.min()) * down * across * shape.taps_columns * shape.columns_out
    return cycles, _traffic(shape, widths, shape.weights * across, int(inputs[best]), int(sums[best]))


def _traffic(shape: LayerShape, widths: LayerWidths, weights: int, inputs: int, sums: int) -> Traffic:
    second, first = packed_bytes(weights, widths.weight_bits), packed_bytes(inputs, widths.activation_bits)
    return Traffic(
        weight_bytes=packed_bytes(shape.biases, widths.bias_bits) + (0 if shape.is_product else second),
        input_bytes=first + (second if shape.is_product else 0),
        output_bytes=packed_bytes(shape.outputs, widths.output_bits),
        partial_sum_bytes=packed_bytes(sums, widths.sum_bits),
    )


def _rows_needed(shape: LayerShape, rows_out: Any) -> Any:
    """Return the input rows that so many neighbouring output rows need, if there are that many."""
    return ((rows_out - 1) * shape.stride_rows + shape.extent_rows - 1) // shape.spreading_rows + 1


def _loops(shape: LayerShape) -> tuple[int, int, int]:
    return shape.rows_out, shape.channels_in, shape.channels_out


def _tile_sizes(whole: int) -> np.ndarray:
    """Return every size that is the smallest with its number of tiles, ascending."""
    return np.unique(-(-whole // np.arange(1, whole + 1)))
