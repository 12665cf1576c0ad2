"""Every scheme on every real network at every width: SQNR of the feature maps, top-1 and top-5 on held-out images.

    python -m experiments.benchmarks.schemes_on_networks                 all cells; finished ones are skipped
    python -m experiments.benchmarks.schemes_on_networks --network resnet20 --bits 8 --bits 6
    python -m experiments.benchmarks.schemes_on_networks --tables        the tables of what is there, as Markdown

Weights and feature maps have the same width, biases 16 bits, one step per tensor; conventions of `real_networks`.
SQNR is that of each convolution's and dense layer's input in the float network, judged alone. One JSON line per cell
is appended to `experiments/results/schemes_on_networks.jsonl`, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from experiments.real_networks import NETWORKS, RealNetwork
from ggdjax import network, quantization, report, schemes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RESULTS = Path(__file__).resolve().parents[1] / "results" / "schemes_on_networks.jsonl"
#: The widths that other tools report come first.
BITS = (8, 6, 4, 5, 7, 3)


class MeasureMany(network.Float):
    """Float arithmetic that sums Σx² and Σ(x − x_hat)² for a stack of candidate quantizers per feature map."""

    def __init__(self, stacked: dict[str, schemes.Range]) -> None:
        self.stacked, self.energy, self.error = stacked, {}, {}

    def apply(self, node, params, *inputs):
        """Measure the node's input if it is quantizable, then compute in float."""
        name = node.inputs[0]
        if name in self.stacked and name not in self.energy:
            x = inputs[0]
            self.energy[name] = jnp.sum(jnp.square(x))
            self.error[name] = jax.vmap(
                lambda quantizer: jnp.sum(jnp.square(x - quantization.fake_quantize(x, quantizer)))
            )(self.stacked[name])
        return super().apply(node, params, *inputs)


@partial(jax.jit, static_argnums=0)
def _measure(graph, params, stacked, x):
    numerics = MeasureMany(stacked)
    network.run(graph, params, x, numerics)
    return numerics.energy, numerics.error


class Bench:
    """One network with its images in memory, calibrated once."""

    def __init__(self, real: RealNetwork) -> None:
        self.name, size = real.name, real.batch_size
        net = real.load()
        images = real.open_images(net)
        parts = real.split(images)
        stream = images.batches(parts.calibration, size)
        stream = track(stream, f"{real.name}: calibrate", math.ceil(len(parts.calibration) / size))
        self.calibration = quantization.calibrate(net, (x for x, _ in stream))
        stream = images.batches(parts.held_out, size)
        self.batches = list(track(stream, f"{real.name}: load", math.ceil(len(parts.held_out) / size)))
        self.net = network.fold_batch_norm(net)

    def sqnr(self, candidates: Sequence[quantization.QuantizedNetwork]) -> list[dict[str, float]]:
        """Return the measured SQNR of each feature map, dB, for each candidate, in one float pass."""
        names = self.calibration.names
        stacked = {
            name: jax.tree.map(lambda *leaves: jnp.stack(leaves), *(q.params.activations[name] for q in candidates))
            for name in names
        }
        energy = dict.fromkeys(names, 0.0)
        error = {name: np.zeros(len(candidates)) for name in names}
        for x, _ in track(self.batches, f"{self.name}: SQNR of {len(candidates)} schemes"):
            batch_energy, batch_error = jax.device_get(_measure(self.net.graph, self.net.params, stacked, x))
            for name in names:
                energy[name] += float(batch_energy[name])
                error[name] += batch_error[name]
        return [
            {name: quantization.sqnr_db(energy[name], float(error[name][i])) for name in names}
            for i in range(len(candidates))
        ]

    def cell(self, quantized: quantization.QuantizedNetwork, sqnr: dict[str, float]) -> dict:
        """Return the figures of one scheme at one width."""
        start = time.perf_counter()
        rounded = quantization.accuracy(quantized, self.batches)
        values = [v for v in sqnr.values() if math.isfinite(v)]
        return {
            "mean_sqnr_db": float(np.mean(values)),
            "min_sqnr_db": float(np.min(values)),
            "top1": rounded.top1,
            "top5": rounded.top5,
            "held_out_images": rounded.images,
            "calibration_images": self.calibration.images,
            "sqnr_db": sqnr,
            "seconds": round(time.perf_counter() - start, 2),
            **report.environment(),
        }


def cells(done: set[tuple], args: argparse.Namespace) -> Iterator[tuple[str, int, list[str]]]:
    """Yield (network, bits, schemes still to do), the widths most compared first."""
    for bits in args.bits or BITS:
        for name in args.network or NETWORKS:
            missing = [s for s in (args.scheme or schemes.names()) if (name, bits, s) not in done]
            if missing:
                yield name, bits, missing


def read_results() -> list[dict]:
    """Return the finished cells; a line that a killed run left half written is passed over."""
    rows = []
    if RESULTS.is_file():
        for line in RESULTS.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return rows


def append(row: dict) -> None:
    """Add one finished cell."""
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def run(args: argparse.Namespace) -> None:
    """Compute the missing cells."""
    done = {(row["network"], row["bits"], row["scheme"]) for row in read_results()}
    todo = list(cells(done, args))
    print(f"{sum(len(missing) for *_, missing in todo)} cells to do, {len(done)} done")
    benches: dict[str, Bench] = {}
    for name, bits, missing in todo:
        if name not in benches:
            benches[name] = Bench(NETWORKS[name])
        bench = benches[name]
        if (name, 32, "float") not in done:
            done.add((name, 32, "float"))
            real = quantization.accuracy(bench.net, bench.batches)
            append({"network": name, "bits": 32, "scheme": "float", "top1": real.top1, "top5": real.top5})
        configs = [
            quantization.QuantConfig(weight_bits=bits, activation_bits=bits, scheme=scheme) for scheme in missing
        ]
        candidates = [quantization.quantize(bench.net, bench.calibration, config) for config in configs]
        pairs = zip(missing, candidates, bench.sqnr(candidates), strict=True)
        for scheme, quantized, sqnr in track(pairs, f"{name}: accuracy at {bits} bits", len(missing)):
            head = {"network": name, "bits": bits, "scheme": scheme, "searches": schemes.get(scheme).searches_data}
            append(head | bench.cell(quantized, sqnr))


def tables() -> None:
    """Print two Markdown tables per network: mean (smallest) SQNR in dB, and top-1 / top-5 in %."""
    rows = read_results()
    for name in NETWORKS:
        found = {(row["scheme"], row["bits"]): row for row in rows if row["network"] == name}
        real = found.pop(("float", 32), None)
        if not found:
            continue
        bits = sorted({b for _, b in found}, reverse=True)
        nothing = {"mean_sqnr_db": 0.0}
        names = sorted({s for s, _ in found}, key=lambda s: -found.get((s, bits[0]), nothing)["mean_sqnr_db"])
        titles = {
            "SQNR of the feature maps, dB, mean (smallest)": "{mean_sqnr_db:.2f} ({min_sqnr_db:.2f})",
            f"top-1 / top-5, %; float {real['top1']:.2%} / {real['top5']:.2%}": "{top1:.2%} / {top5:.2%}",
        }
        for title, cell in titles.items():
            print(f"\n### {name}: {title}\n\n| scheme | " + " | ".join(f"{b} bits" for b in bits) + " |")
            print("|---|" + "---|" * len(bits))
            for scheme in names:
                row = [found.get((scheme, b)) for b in bits]
                print(f"| {scheme} | " + " | ".join(cell.format(**r) if r else "no result" for r in row) + " |")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="only this network (repeatable)")
    parser.add_argument("--bits", action="append", type=int, choices=range(2, 17), help="only this width (repeatable)")
    parser.add_argument("--scheme", action="append", choices=schemes.names(), help="only this scheme (repeatable)")
    parser.add_argument("--tables", action="store_true", help="print the tables of what is there and stop")
    args = parser.parse_args()
    if not args.tables:
        run(args)
    tables()


if __name__ == "__main__":
    main()
