"""Weights and biases in fixed point: the fractional length of least squared error against the one that just fits.

    python -m experiments run weights                           seconds; needs the network files, no images
    python -m experiments run weights --networks resnet20

Per layer (normalizations folded), one fractional length F per tensor: ours, `best_fractional_length`, and the rule of
dynamic fixed point, `max_fractional_length`, by which the largest value just fits; and the SQNR of each. Expected: the
same F for many tensors at 8 bits, a larger F (finer steps, a few values clipped) at 4, and never a lower SQNR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from experiments.experiment import Cell, Experiment
from experiments.real_networks import NETWORKS
from ggdjax import quantization, steps
from ggdjax.network import Network, fold_batch_norm


@dataclass(frozen=True, kw_only=True)
class Weights(Experiment):
    """Fractional lengths and SQNR of every weight and bias tensor, of networks × widths."""

    NAME: ClassVar[str] = "weights"
    AXES: ClassVar[tuple[str, ...]] = ("bits",)
    NEEDS_IMAGES: ClassVar[bool] = False
    PASSES: ClassVar = {}, {}
    HOLDS: ClassVar[tuple[str, ...]] = ()

    bits: tuple[int, ...] = (16, 8, 6, 4)
    """Widths of the tensors."""

    def prepare(self, network: str, seed: int) -> Network:
        """Return the network with normalizations folded."""
        return fold_batch_norm(self.network(network).load())

    def measure(self, prepared: Network, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return, per tensor, F and SQNR in dB by either rule."""
        tensors = []
        for node in prepared.graph.quantizable:
            for kind, role in (("weight", "kernel"), ("bias", "bias")):
                if (key := node.param(role)) is not None:
                    values = np.asarray(prepared.params[key])
                    head = {"layer": node.name, "kind": kind, "shape": list(values.shape)}
                    tensors.append(head | compare(values, cell["bits"]))
        return {"tensors": tensors}

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return mean SQNR by either rule and how many tensors they differ in."""
        found = row["tensors"]
        other = sum(one["best"]["frac_bits"] != one["max_rule"]["frac_bits"] for one in found)
        lossy = [one for one in found if one["best"]["sqnr_db"] is not None and one["max_rule"]["sqnr_db"] is not None]
        means = {rule: np.mean([one[rule]["sqnr_db"] for one in lossy]) for rule in ("best", "max_rule") if lossy}
        said = {f"mean SQNR, dB, {rule}": f"{value:.2f}" for rule, value in means.items()}
        return {"tensors": str(len(found)), "other F": str(other), **said}


def compare(values: np.ndarray, bits: int) -> dict[str, Any]:
    """Return F and SQNR in dB by either rule; SQNR None where nothing is lost."""
    row = np.asarray(values, np.float32).ravel()
    # Zeros cost nothing under any format: padded to a power of four, all layers share a few compiled searches.
    padded = jnp.asarray(np.pad(row, (0, 4 ** math.ceil(math.log(max(row.size, 2), 4)) - row.size)))[None]
    width = jnp.asarray([bits])
    chosen = {
        "best": steps.best_fractional_length(padded, width, axis=1).frac_bits,
        "max_rule": steps.max_fractional_length(padded, width, axis=1),
    }
    found = {}
    for rule, frac_bits in chosen.items():
        _, rounded = steps.quantize_fixed_point(padded, frac_bits[:, None], width[:, None])
        lost = np.square(np.asarray(padded, np.float64) - np.asarray(rounded, np.float64)).sum()
        sqnr = quantization.sqnr_db(float(np.square(row.astype(np.float64)).sum()), float(lost))
        found[rule] = {"frac_bits": int(frac_bits[0]), "sqnr_db": round(sqnr, 4) if math.isfinite(sqnr) else None}
    return found


CONFIGS = {"weights": Weights(networks=tuple(NETWORKS)), "weights-tiny": Weights(bits=(8, 4))}
