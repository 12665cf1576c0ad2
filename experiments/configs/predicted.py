"""Predicted against measured SQNR of every feature map: does the fit that chose the step tell what it costs?

    python -m experiments run predicted
    python -m experiments run predicted --networks digits

Predicted: `choice.predicted_sqnr_db` of the calibration images. Measured: every feature map of the float network,
rounded alone, on all held-out images and on the calibration images; the difference between these two is what no
prediction from the calibration images can know. One step per tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import Bench
from experiments.experiment import Cell, Experiment
from experiments.images import read
from experiments.real_networks import NETWORKS
from ggdjax import network, schemes
from ggdjax.network._ops import QUANTIZABLE
from ggdjax.schemes import PredictionCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Array

    from ggdjax.network import Graph, Network, Node
    from ggdjax.steps import Quantizer


@dataclass(frozen=True, kw_only=True)
class Predicted(Experiment):
    """Predicted and measured SQNR of every feature map, of networks × schemes."""

    NAME: ClassVar[str] = "predicted"
    AXES: ClassVar[tuple[str, ...]] = ()
    PASSES: ClassVar = {"calibration": 1}, {"calibration": 1, "held_out": 1}
    HOLDS: ClassVar[tuple[str, ...]] = ()

    scheme: str = "ggd"
    """How steps are chosen."""
    bits: tuple[int, ...] = (8, 6, 4)
    """Widths of the feature maps."""

    def check(self) -> None:
        """Refuse unknown names, missing data and numbers out of range."""
        schemes.get(self.scheme)
        super().check()

    def measure(self, prepared: Bench, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return the SQNR in dB of every width and feature map: predicted, and measured on both parts."""
        calibration = prepared.calibration
        chosen = jax.device_get(schemes.choose(self.scheme, calibration.histograms, np.asarray(self.bits)[:, None]))
        quantizers = {
            tensor: tuple(chosen[width, i].quantizer for width in range(len(self.bits)))
            for i, tensor in enumerate(calibration.names)
        }

        def measured(part: str) -> list[list[float]]:
            pairs = read(prepared.images, prepared.parts[part], prepared.size, f"{prepared.name}: measure {part}")
            return measured_db(prepared.net, quantizers, (x for x, _ in pairs)).round(3).tolist()

        return {
            "scheme": self.scheme,
            "bits": list(self.bits),
            "feature_maps": list(calibration.names),
            "predicted_db": np.asarray(chosen.predicted_sqnr_db, np.float64).round(3).tolist(),
            "held_out_db": measured("held_out"),
            "calibration_db": measured("calibration"),
            "prediction": [[PredictionCode(int(c)).name for c in codes] for codes in chosen.evidence.prediction],
            "calibration_images": len(prepared.parts["calibration"]),
            "held_out_images": len(prepared.parts["held_out"]),
        }

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return median and largest of |predicted - measured| at every width, on held-out images."""
        own = np.abs(np.asarray(row["predicted_db"]) - np.asarray(row["held_out_db"]))
        return {
            f"{bits} bits: median (largest), dB": f"{np.median(own[i]):.2f} ({np.max(own[i]):.2f})"
            for i, bits in enumerate(row["bits"])
        }


class Errors(network.Float):
    """Float arithmetic that sums Σx² and, for each of its quantizers, Σ(x − x_hat)² of every feature map."""

    def __init__(self, quantizers: Mapping[str, tuple[Quantizer, ...]]) -> None:
        self.quantizers = quantizers
        self.sums: dict[str, Array] = {}

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Measure the node's input if it is quantizable, then compute in float."""
        if node.op in QUANTIZABLE and node.inputs[0] not in self.sums:
            x = inputs[0]
            errors = [x, *(x - quantizer(x) for quantizer in self.quantizers[node.inputs[0]])]
            self.sums[node.inputs[0]] = jnp.stack([jnp.sum(jnp.square(error)) for error in errors])
        return super().apply(node, params, *inputs)


@partial(jax.jit, static_argnums=0)
def _sums(
    graph: Graph, params: dict[str, Array], quantizers: dict[str, tuple[Quantizer, ...]], x: Array
) -> dict[str, Array]:
    numerics = Errors(quantizers)
    network.run(graph, params, x.astype(jnp.float32), numerics)
    return numerics.sums


def measured_db(net: Network, quantizers: dict[str, tuple[Quantizer, ...]], batches: Any) -> np.ndarray:
    """Return the SQNR in dB, axes width and feature map; infinite where nothing is lost."""
    total: Any = 0.0
    for x in batches:
        sums = jax.device_get(_sums(net.graph, net.params, quantizers, x))
        total = total + np.stack([sums[name].astype(np.float64) for name in quantizers], axis=1)
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(total[:1] / total[1:])


CONFIGS = {
    "predicted": Predicted(networks=("digits", *NETWORKS)),
    "predicted-tiny": Predicted(scheme="ggd-plain", bits=(8,)),
}
