"""Every network of the zoo at its published size: parameters, MACs, and its trace against the module.

    python -m experiments run zoo
    python -m experiments run zoo --networks resnet50 vgg16

Each network is drawn at random, with normalizations that are no identity, and run on one random image: by its own
module, by the traced graph, by the graph with normalizations folded, and by ONNX Runtime on the exported file.
Differences are the largest ones, relative to the largest output.
"""

from __future__ import annotations

import gc
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

import ggdjax as gd
from experiments.experiment import Cell, Experiment, Names, check_known
from experiments.generated import draw_normalizations
from experiments.onnx_runtime import predictor
from ggdjax import network, zoo

ALL = zoo.names()


@dataclass(frozen=True, kw_only=True)
class Zoo(Experiment):
    """Sizes of the zoo's networks, and their traces, folded and exported graphs against the modules."""

    NAME: ClassVar[str] = "zoo"
    AXES: ClassVar[tuple[str, ...]] = ()
    NEEDS_IMAGES: ClassVar[bool] = False
    TAKES_OWN: ClassVar[bool] = False

    networks: Names = ALL
    """Names of the zoo."""

    def check(self) -> None:
        """Refuse unknown names."""
        check_known(self, "networks", ALL)

    def prepare(self, network: str, seed: int) -> str:
        """Return the name."""
        if len(self.networks) > 1:  # programs of all of them would fill the memory
            jax.clear_caches()
            gc.collect()
        return network

    def measure(self, prepared: str, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return sizes, whether they are the published ones, and differences."""
        known, rng = zoo.entry(prepared), np.random.default_rng(cell["seed"])
        module = zoo.create(prepared)
        draw_normalizations(module, rng)
        x = rng.standard_normal((1, *known.input_shape), np.float32)
        with jax.default_matmul_precision("highest"):
            expected = np.asarray(jax.jit(module.__call__)(x))
        net = gd.trace(module, x)
        folded = network.fold_batch_norm(net)
        figures: dict[str, Any] = {"parameters": network.count_parameters(net), "macs": network.count_macs(net)}
        outputs = {"trace": net(x), "folded": folded(x), "onnxruntime": _by_onnxruntime(folded, x)}
        for way, output in outputs.items():
            figures[way] = float(np.abs(output - expected).max() / np.abs(expected).max())
        agrees = known.parameters.agrees(figures["parameters"]) and known.macs.agrees(figures["macs"])
        return figures | {"published": bool(agrees)}

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return sizes and differences."""
        return {
            "parameters": f"{row['parameters']:,}",
            "MACs": f"{row['macs']:,}",
            "as published": "yes" if row["published"] else "NO",
            **{way: f"{row[way]:.1e}" for way in ("trace", "folded", "onnxruntime")},
        }


def _by_onnxruntime(net: gd.Network, x: np.ndarray) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        network.export_onnx(net, path)
        return predictor(path)(x)


CONFIGS = {"zoo": Zoo(), "zoo-tiny": Zoo(networks=("digits",))}
