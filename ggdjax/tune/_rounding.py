"""Weights rounded for the output of their layer, in closed form: no labels, no gradients, the same grid.

The network is walked once, in float and quantized side by side, with the tensors of all images. At each convolution or
dense layer the inputs of both walks give the Gram matrices of `ggdjax.tune._rounding_core`; kernels are rounded on the
grids of a few fractional lengths around the present one, and the one that leaves the least output error is taken, per
layer or per output channel as the quantizer has it. Biases then take the mean error of their channel exactly, as in
bias correction, and the walk goes on with what the layer now computes.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ggdjax._errors import DataError, GgdjaxError, expect, expect_array, expect_record
from ggdjax.network._ops import OPS, QUANTIZABLE
from ggdjax.quantization import Stage
from ggdjax.quantization._batches import batches_of
from ggdjax.quantization._quantize import changed_bias
from ggdjax.quantization._record import DETAILS, image_hash
from ggdjax.steps import Quantizer
from ggdjax.tune._rounding_core import float_target, round_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from jax.typing import ArrayLike
    from jaxtyping import Array, Float

    from ggdjax.network import Node
    from ggdjax.quantization import QuantizedNetwork


@dataclass(frozen=True, kw_only=True)
class RoundingConfig:
    """Settings of `round_weights`; the defaults were measured on four networks at 4 to 8 bits.

    Raises:
        GgdjaxError: a field outside its range.
    """

    frac_bits_offsets: tuple[int, ...] = (-1, 0, 1)
    """Fractional lengths tried, around the present one; free steps stay as they are."""
    rows_per_column: int = 24
    """Positions of the input that build a Gram matrix, per unknown of a row; at least ``least_rows``."""
    least_rows: int = 8192
    """See ``rows_per_column``."""
    float_target: bool = True
    """Aim at the float network's output, where there are four positions per unknown; otherwise at that of the layer
    before it is rounded."""
    damping: float = 0.01
    """Added to the diagonal of the Gram matrix, over its mean."""
    batch_size: int = 64
    """Images that run at once."""
    memory_bytes: int = 4 << 30
    """Tensors of both walks beyond this are kept in temporary files."""

    def __post_init__(self) -> None:
        for name in ("rows_per_column", "least_rows", "batch_size", "memory_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise GgdjaxError(f"`{name}` must be an integer of at least 1, got {value!r}")
        if not 0 < self.damping < math.inf:
            raise GgdjaxError(f"`damping` must be positive and finite, got {self.damping!r}")
        if not self.frac_bits_offsets or 0 not in self.frac_bits_offsets:
            raise GgdjaxError(f"`frac_bits_offsets` must hold 0, got {self.frac_bits_offsets!r}")


@dataclass(frozen=True, kw_only=True)
class LayerRounding:
    """What became of one layer."""

    name: str
    columns: int
    """Unknowns of a row: window positions times input channels of a group."""
    rows: int
    """Positions that built its Gram matrix."""
    nearest_error: float
    """Error of its output over the output's energy, each weight rounded by itself, on images that did not build the
    Gram matrix (where there are any)."""
    error: float
    """The same after rounding for the output, the bias corrected."""


@dataclass(frozen=True, kw_only=True)
class RoundingHistory:
    """What `round_weights` did."""

    images: int
    layers: tuple[LayerRounding, ...]
    seconds: float = 0.0
    """Not in `to_dict`, so that a network that was made twice is saved alike."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, for JSON."""
        record = dataclasses.asdict(self)
        del record["seconds"]
        return record

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> RoundingHistory:
        """Undo `to_dict`.

        Raises:
            GgdjaxError: it is no record of this class.
        """
        expect_record("record", record, ("images", "layers"), "`to_dict` returns one")
        return cls(**{**record, "layers": tuple(LayerRounding(**layer) for layer in record["layers"])})


DETAILS["RoundingHistory"] = RoundingHistory


def round_weights(
    q: QuantizedNetwork,
    images: Float[ArrayLike, "image ..."],
    config: RoundingConfig | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> QuantizedNetwork:
    """Return the network with its weights rounded for the output of their layers, and its biases corrected.

    Frantar et al. 2022 (arXiv 2210.17323) on the present grid, with the inputs of the quantized network and the output
    of the float one as the target (Li et al. 2025, arXiv 2504.02692). Layers without a quantizer for their weights stay
    as they are; so do biases without one.

    Args:
        q: what :func:`ggdjax.quantize` returned.
        images: calibration images, in the layout of the network's input; no labels. One in eight (from 64 on) only
            measures the errors in the history.
        config: see `RoundingConfig`.
        progress: called after every layer with the layers done and their number.

    Returns:
        The network; its ``history`` is a `RoundingHistory`. Kernels lie on their grids, which may be finer or coarser.

    Raises:
        DataError: no images, or images that do not fit the network.
    """
    expect("q", q, "QuantizedNetwork")
    config = RoundingConfig() if config is None else config
    images = np.asarray(expect_array("images", images), np.float32)
    if not len(images):
        raise DataError("`images` is empty: give calibration images")
    q.network.check_input(images)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ggdjax-") as folder:
        walk = _Walk(q, images, config, folder)
        layers = walk.run(progress)
    history = RoundingHistory(images=len(images), layers=tuple(layers), seconds=time.perf_counter() - began)
    stage = Stage(
        name="round_weights",
        settings=dataclasses.asdict(config),
        images=len(images),
        image_hash=image_hash(images),
        figures={"error": {layer.name: [layer.nearest_error, layer.error] for layer in layers}},
        details=history,
    )
    quantizers = replace(q.quantizers, weights=walk.weights, biases=walk.biases)
    return q.changed(stage, params=walk.params, quantizers=quantizers)


class _Walk:
    """Both walks over the network: tensors of all images, as long as a node still reads them."""

    def __init__(self, q: QuantizedNetwork, images: np.ndarray, config: RoundingConfig, folder: str) -> None:
        self.q, self.config, self.folder = q, config, folder
        self.real, self.params = q.float_network.params, dict(q.params)
        self.weights, self.biases = dict(q.quantizers.weights), dict(q.quantizers.biases)
        self.count = len(images)
        # One image in eight is held back; of few images none.
        self.builds = np.ones(self.count, bool) if self.count < 64 else np.arange(self.count) % 8 != 7
        source = q.graph.inputs[0]
        self.float: dict[str, np.ndarray] = {source: images}
        self.quantized: dict[str, np.ndarray] = {source: images}
        self._bytes = 0

    def run(self, progress: Callable[[int, int], None] | None) -> list[LayerRounding]:
        """Round every layer in order; return what became of each."""
        graph, done = self.q.graph, []
        layers = [node for node in graph.quantizable if node.name in self.weights]
        last = graph.index(layers[-1].name) if layers else -1
        for index, node in enumerate(graph.nodes[: last + 1]):
            if node.name in self.weights:
                done.append(self._round(node))
                if progress is not None:
                    progress(len(done), len(layers))
            else:
                self._pass(node)
            live = set(graph.live(index + 1))
            for values in (self.float, self.quantized):
                for tensor in set(values) - live:
                    self._bytes -= values.pop(tensor).nbytes
        return done

    def _pass(self, node: Node) -> None:
        """Run a node in both walks; what is not rounded yet is quantized as the network says."""
        both = []
        for values, params in ((self.float, self.real), (self.quantized, self.params)):
            inputs = [values[tensor] for tensor in node.inputs]
            roles = {role: params[key] for role, key in node.params}
            if values is self.quantized and node.op in QUANTIZABLE:
                roles |= {"kernel": self._kernel(node)} if node.name in self.weights else {}
                x = self.q.quantizers.activations.get(node.inputs[0])
                both.append(self._run(node, roles, inputs, x))
            else:
                both.append(self._run(node, roles, inputs, None))
        self.float[node.output], self.quantized[node.output] = both

    def _kernel(self, node: Node) -> Array:
        return self.weights[node.name](jnp.asarray(self.params[node.param("kernel")]))

    def _run(self, node: Node, roles: dict[str, Any], inputs: list[np.ndarray], x: Quantizer | None) -> np.ndarray:
        """Return a node's output for all images."""
        shaped = _anonymous(node)
        size, result = min(self.config.batch_size, self.count), None
        for first in range(0, self.count, size):
            parts = [next(batches_of(values[first : first + size], size)) for values in inputs]
            y = np.asarray(_apply(shaped, roles, x, *(part for part, _ in parts)))
            filled = parts[0][1]
            if result is None:
                result = self._array((self.count, *y.shape[1:]))
            result[first : first + filled] = y[:filled]
        return result

    def _array(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return room for a tensor of all images, in a file where memory is used up."""
        size = 4 * math.prod(shape)
        self._bytes += size
        if self._bytes <= self.config.memory_bytes:
            return np.empty(shape, np.float32)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            return np.memmap(file, np.float32, "w+", shape=shape)  # stays when the file is closed

    def _round(self, node: Node) -> LayerRounding:
        key, quantizer = node.param("kernel"), self.weights[node.name]
        kernel = np.asarray(self.params[key], np.float32)
        groups = node.attr("groups") if node.op == "conv" else 1
        rows = _rows_of(kernel, groups)
        bias_key = node.param("bias")
        corrected = bias_key is not None and node.name in self.biases
        moments = self._moments(node, kernel.shape, groups)
        gram, cross = moments.centred(corrected)
        target = jnp.asarray(rows)
        if self.config.float_target and moments.count >= 4 * rows.shape[-1]:
            target = float_target(target, gram, cross)
        best, chosen = self._choose(target, gram, quantizer)
        self.params[key] = jnp.asarray(_kernel_of(best, kernel.shape))
        self.weights[node.name] = chosen
        self._pass(node)
        nearest = self._error_of(node, quantizer(jnp.asarray(kernel)))
        if corrected:
            self._correct(node)
        return LayerRounding(
            name=node.name,
            columns=rows.shape[-1],
            rows=moments.count,
            nearest_error=nearest,
            error=_relative(self.float[node.output][self._held_back], self.quantized[node.output][self._held_back]),
        )

    def _error_of(self, node: Node, kernel: Array) -> float:
        """Return the relative output error of another kernel, with the present bias, on the images held back."""
        rounded, chosen = self.quantized[node.inputs[0]][self._held_back], []
        roles = {role: self.params[key] for role, key in node.params} | {"kernel": kernel}
        x = self.q.quantizers.activations.get(node.inputs[0])
        for batch, filled in batches_of(rounded, min(self.config.batch_size, self.count)):
            chosen.append(np.asarray(_apply(_anonymous(node), roles, x, batch))[:filled])
        return _relative(self.float[node.output][self._held_back], np.concatenate(chosen))

    @property
    def _held_back(self) -> np.ndarray:
        """The images that measure errors."""
        return self.builds if self.builds.all() else ~self.builds

    def _choose(self, target: Array, gram: Array, quantizer: Quantizer) -> tuple[np.ndarray, Quantizer]:
        """Return the rounded rows and the quantizer on whose grid they lie."""
        frac_bits = quantizer.frac_bits
        offsets = self.config.frac_bits_offsets if frac_bits is not None else (0,)
        factors = np.float32([2.0**-offset for offset in offsets])
        step = np.broadcast_to(np.asarray(quantizer.step), (math.prod(target.shape[:2]),)).reshape(target.shape[:2])
        steps = factors[:, None, None] * step
        found = jax.device_get(
            round_rows(target, gram, steps, low=quantizer.qmin, high=quantizer.qmax, damping=self.config.damping)
        )
        per_row = np.ndim(quantizer.step) > 0
        error = found.error if per_row else found.error.sum((1, 2), keepdims=True)
        # Of equals the present one.
        order = np.argsort(np.abs(np.asarray(offsets)), kind="stable")
        which = order[np.argmin(error[order], axis=0)]
        rows = np.take_along_axis(found.values, np.broadcast_to(which, found.values.shape[1:3])[None, ..., None], 0)[0]
        new = np.take_along_axis(steps, np.broadcast_to(which, steps.shape[1:])[None], 0)[0]
        new = new.reshape(-1) if per_row else new.reshape(-1)[0]
        return rows, replace(quantizer, step=jnp.asarray(new))

    def _correct(self, node: Node) -> None:
        """Take the mean error of each output channel from the bias, which keeps its width or the accumulator's grid."""
        key, old = node.param("bias"), self.q.quantizers
        real, rounded = (
            values[node.output][self.builds].reshape(-1, values[node.output].shape[-1]).mean(0, dtype=np.float64)
            for values in (self.float, self.quantized)
        )
        before = np.asarray(self.params[key], np.float32)
        bias = (before + (real - rounded)).astype(np.float32)
        self.params[key], self.biases[node.name] = jnp.asarray(bias), changed_bias(node, bias, old)
        new = replace(old, weights=self.weights, biases=self.biases).bias(node)
        # The walk so far added the bias unrounded.
        self.quantized[node.output] += (bias if new is None else new.decode(new.encode(bias))) - before

    def _moments(self, node: Node, shape: tuple[int, ...], groups: int) -> _Moments:
        """Return the moments of sampled input rows, all groups in one batch."""
        real, rounded = (values[node.inputs[0]] for values in (self.float, self.quantized))
        columns = math.prod(shape[:-1])
        plan = _Positions.of(node, real.shape, shape)
        images = np.flatnonzero(self.builds)
        wanted = max(self.config.least_rows, self.config.rows_per_column * columns)
        each = min(plan.outputs, -(-wanted // len(images)))
        x, moments = self.q.quantizers.activations.get(node.inputs[0]), _Moments()
        size = min(self.config.batch_size, len(images))
        for first in range(0, len(images), size):
            some = images[first : first + size]
            index = np.stack([plan.sample(int(i), each) for i in some])
            index = np.concatenate([index, np.repeat(index[:1], size - len(some), axis=0)])
            valid = (np.arange(size) < len(some)).astype(np.float32)
            pair = [next(batches_of(np.asarray(v[some]), size))[0] for v in (real, rounded)]
            moments.add(_row_moments(plan.padding, groups, x, *pair, index, valid), len(some) * each)
        return moments


class _Moments:
    """Sums over sampled rows: float32 within a batch, float64 across batches."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: list[np.ndarray] | None = None

    def add(self, sums: Any, count: int) -> None:
        """Add the sums of a batch of ``count`` rows."""
        new = [np.asarray(value, np.float64) for value in sums]
        self._sums = new if self._sums is None else [a + b for a, b in zip(self._sums, new, strict=True)]
        self.count += count

    def centred(self, by_means: bool) -> tuple[Array, Array]:
        """Return ``Σ x xᵀ`` and ``Σ x_f xᵀ`` over the count, float32, less their means where a bias carries those."""
        gram, cross, mean, mean_float = (value / self.count for value in self._sums)
        if by_means:
            gram = gram - mean[..., :, None] * mean[..., None, :]
            cross = cross - mean_float[..., :, None] * mean[..., None, :]
        return jnp.asarray(gram, jnp.float32), jnp.asarray(cross, jnp.float32)


@dataclass(frozen=True)
class _Positions:
    """Where the window of each output position lies in the padded, flattened input."""

    padding: tuple[tuple[int, int], ...]
    corners: np.ndarray
    window: np.ndarray

    @classmethod
    def of(cls, node: Node, x: tuple[int, ...], kernel: tuple[int, ...]) -> _Positions:
        space, window = x[1:-1], kernel[:-2]
        ones = (1,) * len(space)
        padding, strides, dilation, window = ((0, 0),) * len(space), ones, ones, window or ones
        if node.op == "conv":
            padding, strides, dilation = (node.attr(name) for name in ("padding", "strides", "dilation"))
        padded = [n + sum(pads) for n, pads in zip(space, padding, strict=True)]
        extents = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
        outputs = [(n - e) // s + 1 for n, e, s in zip(padded, extents, strides, strict=True)]
        corners, offsets = np.zeros(1, np.int64), np.zeros(1, np.int64)
        for size, count, stride, width, spread in zip(padded, outputs, strides, window, dilation, strict=True):
            corners = (corners[:, None] * size + np.arange(count) * stride).reshape(-1)
            offsets = (offsets[:, None] * size + np.arange(width) * spread).reshape(-1)
        return cls(tuple(map(tuple, padding)), corners.astype(np.int32), offsets.astype(np.int32))

    @property
    def outputs(self) -> int:
        """Positions of the output."""
        return len(self.corners)

    def sample(self, image: int, count: int) -> np.ndarray:
        """Return the flat indices of ``count`` windows of an image, spread evenly, others for every image."""
        total = self.outputs
        # A stride that shares no factor with the outputs visits rows and columns alike.
        stride = max(1, total // count)
        while math.gcd(stride, total) != 1:
            stride += 1
        chosen = (image * 7919 + np.arange(count, dtype=np.int64) * stride) % total
        return self.corners[chosen][:, None] + self.window[None]


@partial(jax.jit, static_argnums=(0, 1))
def _row_moments(
    padding: tuple[tuple[int, int], ...],
    groups: int,
    quantizer: Quantizer | None,
    real: Array,
    rounded: Array,
    index: Array,
    valid: Array,
) -> tuple[Array, Array, Array, Array]:
    """Return Σ x xᵀ, Σ x_f xᵀ, Σ x, Σ x_f over the rows at ``index``, group by group."""

    def rows(x: Array) -> Array:
        x = lax.pad(x, np.float32(0), ((0, 0, 0), *((a, b, 0) for a, b in padding), (0, 0, 0)))
        flat = x.reshape(len(x), -1, x.shape[-1])
        taken = jax.vmap(lambda image, where: image[where])(flat, index)  # image position window channel
        taken = taken * valid.reshape(-1, 1, 1, 1)
        by_group = taken.reshape(-1, taken.shape[2], groups, x.shape[-1] // groups)
        return by_group.transpose(2, 0, 1, 3).reshape(groups, by_group.shape[0], -1)

    x, x_float = rows(rounded if quantizer is None else quantizer(rounded)), rows(real)
    product = partial(jnp.einsum, "gni,gnj->gij", precision=lax.Precision.HIGHEST)
    return product(x, x), product(x_float, x), x.sum(1), x_float.sum(1)


@partial(jax.jit, static_argnums=0)
def _apply(node: Node, roles: dict[str, Array], quantizer: Quantizer | None, *inputs: Array) -> Array:
    """Run one node; its first input is rounded first where a quantizer is given."""
    if quantizer is not None:
        inputs = (quantizer(inputs[0]), *inputs[1:])
    return OPS[node.op](*inputs, **roles, **dict(node.attrs))


def _anonymous(node: Node) -> Node:
    """Return the node without names, so that equal ones share a compiled program."""
    roles = tuple((role, role) for role, _ in node.params)
    return replace(node, name="", inputs=("",) * len(node.inputs), output="", params=roles)


def _rows_of(kernel: np.ndarray, groups: int) -> np.ndarray:
    """Return a kernel ``(*window, cin, cout)`` as ``(group, row, col)``; columns in the order of `_row_moments`."""
    flat = kernel.reshape(-1, groups, kernel.shape[-1] // groups)
    return flat.transpose(1, 2, 0)


def _kernel_of(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Undo `_rows_of`."""
    return rows.transpose(2, 0, 1).reshape(shape)


def _relative(wanted: np.ndarray, found: np.ndarray) -> float:
    energy = float(np.sum(np.square(wanted, dtype=np.float64)))
    return float(np.sum(np.square(wanted - found, dtype=np.float64))) / energy if energy > 0 else 0.0
