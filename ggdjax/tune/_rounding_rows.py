"""The rows that a convolution or dense layer multiplies: sampled, group by group, and their moments.

A row is the window of the input at one position of the output, its columns ordered as the kernel's: positions of the
window, then input channels of the group. Rows are taken on the host, where the tensors of all images lie, padded to few
shapes, and multiplied on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ggdjax.quantization._rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Array, Float, Int
    from numpy.typing import ArrayLike

    from ggdjax.network import Node
    from ggdjax.steps import Quantizer

#: Rows that are multiplied at once, as float32: 16 MiB, up to half as much more where that makes chunks alike.
_CHUNK_VALUES = 1 << 22
#: Groups that a program works on at once: one program for all depthwise layers with one kernel size.
_BLOCK = 64


@dataclass(frozen=True)
class Layer:
    """Shapes of a layer's kernel as rows, and what they are padded to, so that programs serve many layers."""

    groups: int
    rows: int
    """Output channels of a group."""
    columns: int

    @classmethod
    def of(cls, node: Node, kernel: tuple[int, ...]) -> Layer:
        """Return the shapes of a kernel ``(*window, cin of a group, cout)``."""
        groups = node.attr("groups") if node.op == "conv" else 1
        return cls(groups, kernel[-1] // groups, math.prod(kernel[:-1]))

    @property
    def padded(self) -> tuple[int, int, int]:
        """Groups, rows and columns with padding."""
        small = next((n for n in (16, 32) if self.columns <= n), None)
        multiple = 64 if self.columns <= 640 else 128  # of many columns, few shapes
        columns = small or -(-self.columns // multiple) * multiple
        groups = 1 if self.groups == 1 else -(-self.groups // _BLOCK) * _BLOCK
        rows = max(128 if self.groups == 1 else 1, 1 << (self.rows - 1).bit_length())
        return groups, rows, columns

    def rows_of(self, kernel: np.ndarray) -> Float[np.ndarray, "group row col"]:
        """Return a kernel ``(*window, cin, cout)`` as padded rows."""
        flat = kernel.reshape(self.columns, self.groups, self.rows).transpose(1, 2, 0)
        return _pad(flat, self.padded)

    def kernel_of(self, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Undo `rows_of`."""
        return self.own(rows).transpose(2, 0, 1).reshape(shape)

    def own(self, rows: np.ndarray) -> np.ndarray:
        """Return padded rows, or a value of each, without the padding."""
        return rows[: self.groups, : self.rows, : self.columns] if rows.ndim > 2 else rows[: self.groups, : self.rows]

    def per_row(self, values: np.ndarray, fill: float) -> Float[np.ndarray, "group row"]:
        """Return a scalar, or a value per output channel, for all padded rows."""
        values = np.broadcast_to(np.asarray(values, np.float32), (self.groups * self.rows,))
        return _pad(values.reshape(self.groups, self.rows), self.padded[:2], fill)


@dataclass(frozen=True)
class Positions:
    """Where the window of each output position lies in the input."""

    corners: Int[np.ndarray, "position axis"]
    window: Int[np.ndarray, "element axis"]
    space: tuple[int, ...]
    spreading: tuple[int, ...]
    """Steps from one value of the input to the next, zeros between them; corners and windows count these steps."""

    @classmethod
    def of(cls, node: Node, x: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
        """Return the positions of a layer with input ``(image, *space, channel)``."""
        space, window = x[1:-1], kernel[:-2]
        ones = (1,) * len(space)
        padding, strides, dilation, window = ((0, 0),) * len(space), ones, ones, window or ones
        if node.op == "conv":
            padding, strides, dilation = (node.attr(name) for name in ("padding", "strides", "dilation"))
        spreading = dict(node.attrs).get("input_dilation", ones)
        spread = [(n - 1) * step + 1 for n, step in zip(space, spreading, strict=True)]
        extents = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
        outputs = [
            (n + sum(pads) - e) // s + 1 for n, pads, e, s in zip(spread, padding, extents, strides, strict=True)
        ]
        corners = _grid([np.arange(n) * s - pads[0] for n, s, pads in zip(outputs, strides, padding, strict=True)])
        taps = _grid([np.arange(w) * d for w, d in zip(window, dilation, strict=True)])
        return cls(corners, taps, space, tuple(spreading))

    def sample(self, images: np.ndarray, count: int) -> Int[np.ndarray, "row element"]:
        """Return the flat indices of ``count`` windows of each image, spread evenly, others for every image; −1: zeros.

        A stride that shares no factor with the outputs visits rows and columns alike.
        """
        total = len(self.corners)
        stride = max(1, total // count)
        while math.gcd(stride, total) != 1:
            stride += 1
        chosen = (images[:, None] * 7919 + np.arange(count, dtype=np.int64) * stride).reshape(-1) % total
        flat, inside = np.zeros((1, 1), np.int64), np.ones((1, 1), bool)
        for axis, size in enumerate(self.space):
            at = self.corners[chosen, axis][:, None] + self.window[:, axis]
            between = 0
            if self.spreading[axis] != 1:
                at, between = np.divmod(at, self.spreading[axis])
            flat = flat * size + at
            inside = inside & (at >= 0) & (at < size) & (between == 0)
        return np.broadcast_to(np.where(inside, flat, -1), (len(chosen), len(self.window)))


def chunks(
    layer: Layer, plan: Positions, images: np.ndarray, wanted: int, *, tensors: tuple[np.ndarray, ...]
) -> Iterator[tuple[list[Float[np.ndarray, "group row col"]], int]]:
    """Yield about ``wanted`` sampled rows of the images, as many of each and of all tensors alike.

    They come as padded arrays of one shape, with how many rows of each are rows.
    """
    groups, _, columns = layer.padded
    each = min(len(plan.corners), -(-wanted // len(images)))
    index = plan.sample(images, each)
    parts = max(1, round(len(index) / max(64, min(4096, _CHUNK_VALUES // (groups * columns)))))
    size = -(-len(index) // (64 * parts)) * 64  # shared by up to 8 devices
    owner = np.repeat(images, each)[:, None]
    flat = [values.reshape(len(values), -1, values.shape[-1]) for values in tensors]
    for first in range(0, len(index), size):
        where, of = index[first : first + size], owner[first : first + size]
        taken = []
        for values in flat:
            rows = values[of, where]  # row element channel
            rows[where < 0] = 0
            rows = rows.reshape(len(where), -1, layer.groups, values.shape[-1] // layer.groups)
            rows = rows.transpose(2, 0, 1, 3).reshape(layer.groups, len(where), -1)
            taken.append(_pad(rows, (groups, size, columns)))
        yield taken, len(where)


def by_blocks(
    function: Callable[..., Any], split: Rows, arguments: tuple[Any, ...], axes: tuple[int | None, ...]
) -> list[np.ndarray]:
    """Return what ``function`` returns for all groups, called for a block of them at a time.

    Arguments are pytrees whose leaves have the groups first, and more axes than two; others go to every block whole.
    Several devices share them along ``axes``, one of each argument; None: every device has all.
    """
    groups = len(next(leaf for leaf in jax.tree.leaves(arguments) if np.ndim(leaf) > 2))

    def block(first: int) -> list[Any]:
        cut = jax.tree.map(lambda leaf: leaf[first : first + _BLOCK] if np.ndim(leaf) > 2 else leaf, arguments)
        given = (
            split.everywhere(part) if axis is None else split.split(part, axis)
            for part, axis in zip(cut, axes, strict=True)
        )
        return split.read(jax.tree.leaves(function(*given)))

    blocks = [block(first) for first in range(0, groups, _BLOCK)]
    return blocks[0] if len(blocks) == 1 else [np.concatenate(parts) for parts in zip(*blocks, strict=True)]


class Moments:
    """Moments of sampled rows about a point near their means: float32 within a chunk, float64 across chunks.

    About zero, products of inputs that hardly vary would leave nothing of their variance in float32. Rows are scaled by
    a power of two to at most about 1, so that no product leaves the range of float32.
    """

    def __init__(self, split: Rows | None = None) -> None:
        self.split, self.count = Rows(None) if split is None else split, 0
        self._sums: list[np.ndarray] = []
        self._origins: tuple[np.ndarray, np.ndarray] | None = None
        self.scale = np.float32(1.0)
        """Factor on rows in the sums."""

    def add(self, quantizer: Quantizer | None, real: np.ndarray, rounded: np.ndarray, count: int) -> None:
        """Add a chunk with ``count`` rows; the others are left out."""
        if self._origins is None:
            # About their means: those of a few rows.
            self.scale = to_unit(rounded, real)
            self._origins = tuple(
                (x[:, : min(count, 256)] * self.scale).mean(1, keepdims=True) for x in (rounded, real)
            )
        arguments = (quantizer, real, rounded, *self._origins, self.scale, np.int32(count))
        found = by_blocks(_sums, self.split, arguments, (None, 1, 1, None, None, None, None))
        new = [np.asarray(value, np.float64) for value in found]
        self._sums = [a + b for a, b in zip(self._sums, new, strict=True)] if self._sums else new
        self.count += count

    @property
    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Means of x_f and of x, ``(group, col)``, float64."""
        of_float, means = self._scaled_means()
        return of_float / float(self.scale), means / float(self.scale)

    def _scaled_means(self) -> tuple[np.ndarray, np.ndarray]:
        assert self._origins is not None
        origin, of_float = (np.asarray(point[:, 0], np.float64) for point in self._origins)
        return of_float + self._sums[3] / self.count, origin + self._sums[2] / self.count

    def centred(self, by_means: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return ``Σ x xᵀ`` and ``Σ x_f xᵀ`` over the count, float32, less their means where a bias carries those.

        Both are of the scaled rows: one factor on both, which moves no rounded weight.
        """
        gram, cross, mean, mean_float = (value / self.count for value in self._sums)
        gram = gram - mean[..., :, None] * mean[..., None, :]
        cross = cross - mean_float[..., :, None] * mean[..., None, :]
        if not by_means:
            mean_float, mean = self._scaled_means()
            gram = gram + mean[..., :, None] * mean[..., None, :]
            cross = cross + mean_float[..., :, None] * mean[..., None, :]
        return gram.astype(np.float32), cross.astype(np.float32)


def of_columns(layer: Layer, quantizer: Quantizer | None, channels: int) -> Quantizer | None:
    """Return the quantizer of a layer's input for its padded rows: a step per channel becomes one per column."""
    if quantizer is None or np.ndim(quantizer.step) == 0:
        return quantizer
    window = layer.columns * layer.groups // channels

    def spread(value: Array) -> Array:
        values = np.broadcast_to(np.asarray(value), (window, channels)).reshape(window, layer.groups, -1)
        values = values.transpose(1, 0, 2).reshape(layer.groups, 1, -1)
        groups, _, columns = layer.padded
        return jax.device_put(_pad(values, (groups, 1, columns), 1.0))

    zero_point = None if quantizer.zero_point is None else spread(quantizer.zero_point)
    return replace(quantizer, step=spread(quantizer.step), zero_point=zero_point)


@jax.jit
def _sums(
    quantizer: Quantizer | None,
    real: Array,
    rounded: Array,
    origin: Array,
    origin_float: Array,
    scale: Array,
    count: Array,
) -> tuple[Array, Array, Array, Array]:
    """Return Σ x xᵀ, Σ x_f xᵀ, Σ x, Σ x_f of scaled rows about the origins, by group, over the first ``count`` rows."""
    valid = (jnp.arange(real.shape[1]) < count)[None, :, None]
    x = rounded if quantizer is None else quantizer(rounded)
    pairs = ((x, origin), (real, origin_float))
    x, x_float = (jnp.where(valid, scale * rows - about, 0.0) for rows, about in pairs)
    product = partial(jnp.einsum, "gni,gnj->gij", precision=lax.Precision.HIGHEST)
    return product(x, x), product(x_float, x), x.sum(1), x_float.sum(1)


def output_energies(
    split: Rows,
    quantizer: Quantizer | None,
    pair: list[Float[np.ndarray, "group n col"]],
    count: int,
    layers: tuple[tuple[np.ndarray, np.ndarray], ...],
    scale: np.float32,
) -> Float[np.ndarray, " layer"]:
    """Return Σ y² of the float layer, and Σ of the squared error of other ones, on ``count`` rows of a chunk.

    Layers are rows and biases, ``(group, row, col)`` and ``(group, row)``; the first is the float one. ``scale`` is a
    factor on all outputs, which keeps their squares in the range of float32.
    """
    with_axis = tuple((rows, bias[:, None]) for rows, bias in layers)
    arguments = (quantizer, *pair, with_axis, scale, np.int32(count))
    found = by_blocks(_energies, split, arguments, (None, 1, 1, None, None, None))
    return np.asarray([np.sum(energy, dtype=np.float64) for energy in found])


@jax.jit
def _energies(
    quantizer: Quantizer | None,
    real: Array,
    rounded: Array,
    layers: tuple[tuple[Array, Array], ...],
    scale: Array,
    count: Array,
) -> list[Array]:
    """Return the sums of `output_energies`, by group."""
    valid = (jnp.arange(real.shape[1]) < count)[None, :, None]
    x = rounded if quantizer is None else quantizer(rounded)

    def output(x: Array, layer: tuple[Array, Array]) -> Array:
        return jnp.einsum("gnc,grc->gnr", x, layer[0], precision=lax.Precision.HIGHEST) + layer[1]

    y = output(real, layers[0])
    errors = (y, *(y - output(x, layer) for layer in layers[1:]))
    return [jnp.sum(jnp.square(jnp.where(valid, scale * e, 0.0)), axis=(1, 2)) for e in errors]


def to_unit(*arrays: ArrayLike) -> np.float32:
    """Return the power of two that brings the largest absolute value of the arrays to at most 1; of zeros 1."""
    largest = max(float(np.abs(array).max(initial=0.0)) for array in arrays)
    exponent = math.frexp(largest)[1] if math.isfinite(largest) else 128
    return np.ldexp(np.float32(1.0), -max(-126, min(126, exponent)))


def _grid(axes: list[np.ndarray]) -> np.ndarray:
    """Return all points of a grid, the last axis fastest; one point without axes."""
    if not axes:
        return np.zeros((1, 0), np.int64)
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes)).astype(np.int64)


def _pad(values: np.ndarray, shape: tuple[int, ...], fill: float = 0.0) -> np.ndarray:
    if values.shape == shape:
        return values
    padded = np.full(shape, fill, np.float32)
    padded[tuple(map(slice, values.shape))] = values
    return padded
