"""Calibration: run the float network once over images and count every quantizable feature map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import numpy as np

from ggdjax._errors import DataError
from ggdjax.ggd import Histogram
from ggdjax.network import fold_batch_norm, run
from ggdjax.quantization.numerics import Observe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Array, Float

    from ggdjax.network import Graph, Network


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """One histogram per quantizable feature map of a network.

    ``splits`` has batch shape ``[split, tensor]``: the images are dealt in turn to a few splits, so that a choice
    can be cross-validated over images. Tensors are in the order of ``names``.
    """

    names: tuple[str, ...]
    splits: Histogram
    images: int
    channels: dict[str, Histogram] | None = None
    """Per feature map one histogram per channel (batch shape ``[chan]``), where they were asked for."""

    @property
    def histograms(self) -> Histogram:
        """The histogram of each feature map over all images, batch shape ``[tensor]``."""
        return self.splits.merge(0)


def calibrate(
    net: Network, batches: Iterable[Float[Array, "batch ..."]], *, splits: int = 4, per_channel: bool = False
) -> Calibration:
    """Stream images through the float network, batch normalization folded, and count its feature maps.

    Memory does not depend on the number of images: per split and feature map one histogram of 65,536 bins.

    Args:
        net: a network from ``load_onnx`` or ``trace``.
        batches: input batches in the layout of the model's own input. One shape is best: each new one compiles anew.
        splits: number of image splits kept apart for cross-validation, at least 1. Batches are dealt to them in turn.
        per_channel: also count every channel of every feature map by itself (256 KiB each).

    Raises:
        DataError: no batches, or NaN or infinity in a feature map (named).
    """
    net = fold_batch_norm(net)
    names = tuple(feature_map.tensor for feature_map in net.graph.feature_maps())
    totals: list[Histogram | None] = [None] * splits
    channels: dict[str, Histogram] | None = None
    images = 0
    for index, batch in enumerate(batches):
        counted, by_channel = jax.device_get(_observe(net.graph, per_channel, net.params, batch))
        _refuse_nonfinite(names, counted)
        previous = totals[index % splits]
        totals[index % splits] = counted if previous is None else previous + counted
        if per_channel:
            channels = by_channel if channels is None else {name: channels[name] + h for name, h in by_channel.items()}
        images += len(batch)
    if not images:
        raise DataError("no images to calibrate on: `batches` is empty")
    filled = [h for h in totals if h is not None]
    return Calibration(names=names, splits=Histogram.stack(filled), images=images, channels=channels)


@partial(jax.jit, static_argnums=(0, 1))
def _observe(
    graph: Graph, per_channel: bool, params: dict[str, Array], x: Array
) -> tuple[Histogram, dict[str, Histogram]]:
    numerics = Observe(per_channel=per_channel)
    run(graph, params, x, numerics)
    whole = Histogram.stack([numerics.histograms[fm.tensor] for fm in graph.feature_maps()])
    return whole, numerics.channels


def _refuse_nonfinite(names: tuple[str, ...], counted: Histogram) -> None:
    bad = np.flatnonzero(np.asarray(counted.nonfinite))
    if bad.size:
        values = int(np.asarray(counted.nonfinite)[bad[0]])
        raise DataError(
            f"feature map `{names[bad[0]]}` holds {values} NaN or infinite values: "
            "check the preprocessing and the network's weights"
        )
