"""Predicted against measured SQNR of every feature map: does the fit that chose the step tell what it costs?

    python -m experiments.benchmarks.predicted_sqnr                          all networks
    python -m experiments.benchmarks.predicted_sqnr --network digits         only this one (repeatable)
    python -m experiments.benchmarks.predicted_sqnr --network digits --maps  and every feature map of it
    python -m experiments.benchmarks.predicted_sqnr --tables                 the table of what is there, as Markdown

Predicted: `choice.predicted_sqnr_db` of the calibration images (conventions of `networks`). Measured: every feature map
of the float network, rounded alone, on all held-out images and on the calibration images; the difference between these
two is what no prediction from the calibration images can know. 8, 6 and 4 bits, one step per tensor.
Results: `experiments/results/predicted_sqnr.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.images import read
from experiments.networks import ALL
from experiments.rows import merged
from ggdjax import network, quantization, report, schemes
from ggdjax.network._ops import QUANTIZABLE
from ggdjax.schemes import PredictionCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Array

    from ggdjax.network import Graph, Network, Node
    from ggdjax.steps import Quantizer

RESULTS = Path(__file__).resolve().parents[1] / "results" / "predicted_sqnr.json"
BITS = (8, 6, 4)


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


def measure(name: str, scheme: str) -> dict[str, Any]:
    """Return one network's row."""
    start = time.perf_counter()
    real = ALL[name]
    net = real.load()
    images = real.open_images(net)
    parts = real.split(images)

    def batches(part: np.ndarray, what: str) -> Any:
        return (x for x, _ in read(images, part, real.batch_size, f"{name}: {what}"))

    calibration = quantization.calibrate(net, batches(parts.calibration, "calibrate"))
    chosen = jax.device_get(schemes.choose(scheme, calibration.histograms, np.asarray(BITS)[:, None]))
    net = network.fold_batch_norm(net)
    quantizers = {
        tensor: tuple(chosen[width, i].quantizer for width in range(len(BITS)))
        for i, tensor in enumerate(calibration.names)
    }
    row: dict[str, Any] = {"network": name, "scheme": scheme, "bits": BITS, "feature_maps": calibration.names}
    row["predicted_db"] = np.asarray(chosen.predicted_sqnr_db, np.float64).round(3).tolist()
    for key, part in (("held_out_db", parts.held_out), ("calibration_db", parts.calibration)):
        row[key] = measured_db(net, quantizers, batches(part, "measure")).round(3).tolist()
    row["prediction"] = [[PredictionCode(int(c)).name for c in codes] for codes in chosen.evidence.prediction]
    row["calibration_images"], row["held_out_images"] = len(parts.calibration), len(parts.held_out)
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print medians and largest values of |predicted − measured| as Markdown."""
    print("| network | bits | feature maps | median, dB | largest, dB | at | calibration images: median | largest |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        predicted, held_out, calibration = (
            np.asarray(row[f"{k}_db"]) for k in ("predicted", "held_out", "calibration")
        )
        own, images = np.abs(predicted - held_out), np.abs(calibration - held_out)
        for i, bits in enumerate(row["bits"]):
            worst = row["feature_maps"][int(np.argmax(own[i]))]
            cells = [f"{f(v[i]):.2f}" for v in (own, images) for f in (np.median, np.max)]
            print(f"| {row['network']} | {bits} | {own.shape[1]} | {cells[0]} | {cells[1]} | `{worst}` | ", end="")
            print(f"{cells[2]} | {cells[3]} |")


def print_maps(row: dict[str, Any]) -> None:
    """Print every feature map of one network."""
    for i, bits in enumerate(row["bits"]):
        print(f"\n{row['network']}, {bits} bits: predicted, held-out, calibration images, dB")
        columns = (row[f"{k}_db"][i] for k in ("predicted", "held_out", "calibration"))
        for name, code, *figures in zip(row["feature_maps"], row["prediction"][i], *columns, strict=True):
            print(f"  {name:40s} " + " ".join(f"{x:7.2f}" for x in figures) + f"  {code}")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(ALL), help="only this network (repeatable)")
    parser.add_argument("--scheme", default="ggd", choices=schemes.names(), help="default ggd; others are not written")
    parser.add_argument("--maps", action="store_true", help="print every feature map as well")
    parser.add_argument("--tables", action="store_true", help="print the table of what is there and stop")
    args = parser.parse_args()
    if args.tables:
        print_table(json.loads(RESULTS.read_text(encoding="utf-8"))["rows"])
        return
    rows = [measure(name, args.scheme) for name in args.network or list(ALL)]
    for row in rows if args.maps else ():
        print_maps(row)
    print_table(rows)
    if args.scheme == "ggd":
        rows = merged(RESULTS, rows, "network")
        rows.sort(key=lambda row: list(ALL).index(row["network"]))
        RESULTS.write_text(json.dumps({"rows": rows, **report.environment()}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
