"""Weights and biases in fixed point: the fractional length of least squared error against the one that just fits.

    python -m experiments.benchmarks.weights_on_networks         seconds; needs the network files, no images
    python -m experiments.benchmarks.weights_on_networks --network resnet20

Per layer (normalizations folded), one fractional length F per tensor: ours, `best_fractional_length`, and the rule of
dynamic fixed point, `max_fractional_length`, by which the largest value just fits; and the SQNR of each, at 16,
8, 6 and 4 bits. Expected: the same F for many tensors at 8 bits, a larger F (finer steps, a few values clipped) at 4,
and never a lower SQNR. Results: `experiments/results/weights_on_networks.json`.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich.progress import track

from experiments.real_networks import NETWORKS, RealNetwork
from experiments.rows import merged
from ggdjax import network, quantization, report, steps

RESULTS = Path(__file__).resolve().parents[1] / "results" / "weights_on_networks.json"
BITS = (16, 8, 6, 4)


def compare(values: np.ndarray, widths: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return, per width, F and SQNR in dB by either rule; SQNR None where nothing is lost."""
    row = np.asarray(values, np.float32).ravel()
    # Zeros cost nothing under any format: padded to a power of four, all layers share a few compiled searches.
    padded = np.pad(row, (0, 4 ** math.ceil(math.log(max(row.size, 2), 4)) - row.size))
    rows, bits = jnp.asarray(np.tile(padded, (len(widths), 1))), jnp.asarray(widths)
    chosen = {
        "best": steps.best_fractional_length(rows, bits, axis=1).frac_bits,
        "max_rule": steps.max_fractional_length(rows, bits, axis=1),
    }
    found: list[dict[str, Any]] = [{"bits": width} for width in widths]
    for rule, frac_bits in chosen.items():
        _, rounded = steps.quantize_fixed_point(rows, frac_bits[:, None], bits[:, None])
        error = np.square(np.asarray(rows, np.float64) - np.asarray(rounded, np.float64)).sum(1)
        energy = np.square(row.astype(np.float64)).sum()
        for entry, f, lost in zip(found, np.asarray(frac_bits), error, strict=True):
            sqnr = quantization.sqnr_db(float(energy), float(lost))
            entry[rule] = {"frac_bits": int(f), "sqnr_db": round(sqnr, 4) if math.isfinite(sqnr) else None}
    return found


def measure(real: RealNetwork) -> list[dict[str, Any]]:
    """Return one row per tensor and width of one network."""
    net = network.fold_batch_norm(real.load())
    rows = []
    for node in track(net.graph.quantizable, f"{real.name}: layers"):
        for kind, role in (("weight", "kernel"), ("bias", "bias")):
            key = node.param(role)
            if key is None:
                continue
            values = np.asarray(net.params[key])
            head = {"network": real.name, "layer": node.name, "kind": kind, "shape": list(values.shape)}
            rows.extend(head | entry for entry in compare(values, BITS))
    return rows


def main() -> None:
    """Read the command line, run, write the results and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="only this network (repeatable)")
    names = parser.parse_args().network or list(NETWORKS)
    rows = merged(RESULTS, [row for name in names for row in measure(NETWORKS[name])], "network")
    rows.sort(key=lambda row: list(NETWORKS).index(row["network"]))
    RESULTS.write_text(json.dumps({**report.environment(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(
        "| network | kind | bits | tensors | other F | mean SQNR, dB | by the rule of the maximum |\n|---|---|"
        + "---|" * 5
    )
    for name, kind, bits in dict.fromkeys((r["network"], r["kind"], r["bits"]) for r in rows):
        of = [r for r in rows if (r["network"], r["kind"], r["bits"]) == (name, kind, bits)]
        other = sum(r["best"]["frac_bits"] != r["max_rule"]["frac_bits"] for r in of)
        mean = [
            np.mean([r[rule]["sqnr_db"] for r in of if r[rule]["sqnr_db"] is not None]) for rule in ("best", "max_rule")
        ]
        print(f"| {name} | {kind} | {bits} | {len(of)} | {other} | {mean[0]:.2f} | {mean[1]:.2f} |")


if __name__ == "__main__":
    main()
