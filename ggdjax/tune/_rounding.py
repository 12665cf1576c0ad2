"""Weights rounded for the output of their layer, in closed form: no labels, no gradients, the same grid.

The network is walked once, in float and quantized side by side, with the tensors of all images. At each convolution or
dense layer the inputs of both walks give the Gram matrices of `ggdjax.tune._rounding_core`; kernels are rounded on the
grids of a few fractional lengths around the present one, and the one that leaves the least output error is taken, per
layer or per output channel as the quantizer has it. Biases then take the mean error of their channel over the same
rows, as in bias correction, and the layers after it read what the layer now computes.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ggdjax._errors import DataError, GgdjaxError, expect, expect_array, expect_path, expect_record
from ggdjax._lock import exclusive
from ggdjax.quantization import Stage
from ggdjax.quantization._quantize import beside_bias, changed_bias
from ggdjax.quantization._record import DETAILS, image_hash
from ggdjax.steps import Quantizer
from ggdjax.tune import _checkpoint as checkpoints
from ggdjax.tune._checkpoint import RoundingState
from ggdjax.tune._rounding_core import round_rows
from ggdjax.tune._rounding_rows import (
    Layer,
    Moments,
    Positions,
    by_blocks,
    chunks,
    of_columns,
    output_energies,
    to_unit,
)
from ggdjax.tune._walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike
    from pathlib import Path

    from jax.sharding import Mesh
    from jax.typing import ArrayLike
    from jaxtyping import Float

    from ggdjax.network import Node
    from ggdjax.quantization import QuantizedNetwork

#: Positions per unknown beyond which a Gram matrix gains nothing.
_MOST_PER_COLUMN = 256
#: Positions per unknown below which the float network's output is less to be trusted.
_FEW_PER_COLUMN = 16


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
    """See ``rows_per_column``; but at most 256 per unknown, which kernels of depthwise convolutions reach."""
    float_target: bool = True
    """Aim at the float network's output; otherwise at that of the layer before it is rounded."""
    target_damping: float = 0.5
    """Added to the diagonal of the Gram matrix, over its mean, where that target is fitted; the more, the nearer it is
    to the layer before it is rounded. Of fewer than 16 positions per unknown more in proportion."""
    damping: float = 0.1
    """The same, where weights are rounded."""
    batch_size: int = 32
    """Images that run at once; on a CPU large tensors of more images cost more time than they save."""
    memory_bytes: int | None = None
    """Tensors of both walks beyond this are kept in temporary files; None: a quarter of the machine's memory."""

    def __post_init__(self) -> None:
        for name in ("rows_per_column", "least_rows", "batch_size", "memory_bytes"):
            value = getattr(self, name)
            if value is None and name == "memory_bytes":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise GgdjaxError(f"`{name}` must be an integer of at least 1, got {value!r}")
        for name in ("damping", "target_damping"):
            if not 0 < getattr(self, name) < math.inf:
                raise GgdjaxError(f"`{name}` must be positive and finite, got {getattr(self, name)!r}")
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
    checkpoint: str | PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    mesh: Mesh | None = None,
) -> QuantizedNetwork:
    """Return the network with its weights rounded for the output of their layers, and its biases corrected.

    Frantar et al. 2022 (arXiv 2210.17323) on the present grid, with the inputs of the quantized network and the output
    of the float one as the target (Li et al. 2025, arXiv 2504.02692). Layers without a quantizer for their weights stay
    as they are; so do biases without one.

    Args:
        q: what :func:`ggdjax.quantize` returned.
        images: calibration images, in the layout of the network's input; no labels. One in 16 (from 64 on) only
            measures the errors in the history.
        config: see `RoundingConfig`.
        checkpoint: file that is written after every layer and, where it exists, resumed from with the same bits: layers
            in it are run, not rounded again.
        progress: called after every layer with the layers done and their number.
        mesh: devices that share the images of a batch, the rows of a Gram matrix, and the output channels, with axes
            of any name; None: all of this process. Of several processes, each gives the same images.

    Returns:
        The network; its ``history`` is a `RoundingHistory`. Kernels lie on their grids, which may be finer or coarser.

    Raises:
        DataError: no images, or images that do not fit the network.
        GgdjaxError: the disk is too full for the tensors beyond ``memory_bytes``; or a checkpoint of another run, or
            that another process is writing.
    """
    expect("q", q, "QuantizedNetwork")
    checkpoint = None if checkpoint is None else expect_path("checkpoint", checkpoint)
    config = RoundingConfig() if config is None else config
    images = np.asarray(expect_array("images", images), np.float32)
    if not len(images):
        raise DataError("`images` is empty: give calibration images")
    q.network.check_input(images)
    began = time.perf_counter()
    # Of several processes, the first writes.
    alone = checkpoint is not None and jax.process_index() == 0
    with (
        exclusive(checkpoint, "checkpoint") if alone else nullcontext(),
        tempfile.TemporaryDirectory(prefix="ggdjax-") as folder,
    ):
        walk = _Walk(q, images, config, folder, mesh)
        layers = walk.run(checkpoint, progress)
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


class _Walk(Walk):
    """A walk that rounds every layer on its way."""

    def __init__(
        self, q: QuantizedNetwork, images: np.ndarray, config: RoundingConfig, folder: str, mesh: Mesh | None
    ) -> None:
        super().__init__(q, images, config.batch_size, config.memory_bytes, folder, mesh)
        self.config = config
        # One image in sixteen is held back; of few images none.
        self.builds = np.ones(self.count, bool) if self.count < 64 else np.arange(self.count) % 16 != 15

    def run(self, path: Path | None, progress: Callable[[int, int], None] | None) -> list[LayerRounding]:
        """Round every layer in order; return what became of each."""
        graph, done = self.q.graph, []
        layers = [node for node in graph.quantizable if node.name in self.weights]
        # The memory changes no result.
        settings = {name: value for name, value in vars(self.config).items() if name != "memory_bytes"}
        mark = checkpoints.fingerprint(self.q, self.float[graph.inputs[0]], None, settings) if path else ""
        state = (checkpoints.load_rounding(path, mark) if path else None) or RoundingState()
        for node in layers:
            self.advance(graph.index(node.name))
            if node.name in state.layers:
                done.append(LayerRounding(**state.restore(self, node)))
            else:
                done.append(self._round(node))
                if path and jax.process_index() == 0:
                    state.add(self, node, dataclasses.asdict(done[-1]))
                    checkpoints.save_rounding(path, state, mark)
            if progress is not None:
                progress(len(done), len(layers))
        return done

    def _round(self, node: Node) -> LayerRounding:
        """Round the weights of a layer, and take the mean error of its output from its bias."""
        key, bias_key, quantizer = node.param("kernel"), node.param("bias"), self.weights[node.name]
        kernel, real = (np.asarray(params[key], np.float32) for params in (self.params, self.real))
        layer = Layer.of(node, kernel.shape)
        tensors = tuple(values[node.inputs[0]] for values in (self.float, self.quantized))
        sampled = partial(chunks, layer, Positions.of(node, tensors[0].shape, kernel.shape), tensors=tensors)
        x = of_columns(layer, self.q.quantizers.activations.get(node.inputs[0]), tensors[0].shape[-1])
        moments = Moments(self.split)
        least = min(self.config.least_rows, _MOST_PER_COLUMN * layer.columns)
        wanted = max(least, self.config.rows_per_column * layer.columns)
        for (exact, rounded), count in sampled(np.flatnonzero(self.builds), wanted):
            moments.add(x, exact, rounded, count)
        corrected = bias_key is not None and node.name in self.biases
        gram, cross = moments.centred(corrected)
        if not self.config.float_target:
            cross = None
        grids = self._grids(node, quantizer)
        best, chosen = self._choose(layer, layer.rows_of(kernel), gram, cross, moments.count, grids)
        real_rows, before = layer.rows_of(real), self._bias(node, layer)
        self.params[key], self.weights[node.name] = jax.device_put(layer.kernel_of(best, kernel.shape)), chosen
        if corrected:
            # The mean of the output is then the float layer's.
            of_float, mean = moments.means
            shift = np.einsum("grc,gc->gr", real_rows, of_float) - np.einsum("grc,gc->gr", best, mean)
            bias = (np.asarray(self.real[bias_key]) + layer.own(shift).reshape(-1)).astype(np.float32)
            self.params[bias_key] = jax.device_put(bias)
            self.biases[node.name] = changed_bias(node, bias, self.q.quantizers)
        of_real = 0.0 if bias_key is None else np.asarray(self.real[bias_key])
        three = (
            (real_rows, layer.per_row(of_real, 0.0)),
            (best, self._bias(node, layer)),
            (layer.rows_of(quantizer.decode(quantizer.encode(kernel))), before),
        )
        held = np.flatnonzero(self.builds if self.builds.all() else ~self.builds)
        # No output of the layer is larger than this.
        scale = to_unit(layer.columns * np.abs(real_rows).max(initial=0.0) / float(moments.scale) + np.abs(of_real))
        energies = sum(
            output_energies(self.split, x, pair, count, three, scale) for pair, count in sampled(held, -(-least // 8))
        )
        energy, error, nearest = (float(value) for value in energies)
        return LayerRounding(
            name=node.name,
            columns=layer.columns,
            rows=moments.count,
            nearest_error=nearest / energy if energy > 0 else 0.0,
            error=error / energy if energy > 0 else 0.0,
        )

    def _grids(self, node: Node, quantizer: Quantizer) -> list[Quantizer]:
        """Return the candidates for a layer's weights, the present one first, the nearest ones next."""
        if quantizer.frac_bits is None:
            return [quantizer]
        offsets = sorted(self.config.frac_bits_offsets, key=abs)
        grids = [replace(quantizer, step=np.ldexp(np.asarray(quantizer.step), -offset)) for offset in offsets]
        source = self.q.quantizers.activations.get(node.inputs[0])
        if node.name not in self.biases or self.biases[node.name] is not None or source is None:
            return grids
        return [beside_bias(grid, self.params[node.param("bias")], source) for grid in grids]

    def _choose(
        self,
        layer: Layer,
        rows: np.ndarray,
        gram: np.ndarray,
        cross: np.ndarray | None,
        count: int,
        grids: list[Quantizer],
    ) -> tuple[np.ndarray, Quantizer]:
        """Return the rounded rows and the quantizer on whose grid they lie; ``count`` positions made the matrices."""
        steps = np.stack([layer.per_row(np.asarray(grid.step), 1.0) for grid in grids], axis=1)
        scale = to_unit(rows)  # the squared error stays in the range of float32
        target_damping = self.config.target_damping * max(1.0, _FEW_PER_COLUMN * layer.columns / count)
        own = partial(
            round_rows,
            low=grids[0].qmin,
            high=grids[0].qmax,
            damping=self.config.damping,
            target_damping=target_damping,
        )
        # group candidate row …
        values, error = by_blocks(own, self.split, (scale * rows, gram, scale * steps, cross), (1, None, 2, None))
        per_row = np.ndim(grids[0].step) > 0
        error = error if per_row else error.sum((0, 2), keepdims=True)
        which = np.broadcast_to(np.argmin(error, axis=1)[:, None], (len(rows), 1, rows.shape[1]))  # of equals the first
        new = layer.own(np.take_along_axis(steps, which, 1)[:, 0]).reshape(-1)
        step = jax.device_put(new if per_row else new[0])
        return np.take_along_axis(values, which[..., None], 1)[:, 0] / scale, replace(grids[0], step=step)

    def _bias(self, node: Node, layer: Layer) -> Float[np.ndarray, "group row"]:
        """Return the present bias of a layer's rows, as integers add it; 0 without."""
        return layer.per_row(0.0 if node.param("bias") is None else self.held_bias(node), 0.0)
