"""Every scheme on every real network at every width: SQNR of the feature maps, top-1 and top-5 on held-out images.

    python -m experiments.benchmarks.schemes_on_networks                 all cells; finished ones are skipped
    python -m experiments.benchmarks.schemes_on_networks --network resnet20 --bits 8 --bits 6
    python -m experiments.benchmarks.schemes_on_networks --images 500    accuracies on at most 500 held-out images
    python -m experiments.benchmarks.schemes_on_networks --sqnr-only     seconds per network: no quantized network runs
    python -m experiments.benchmarks.schemes_on_networks --tables        the tables of what is there, as Markdown
    python -m experiments.benchmarks.schemes_on_networks --summary       ours and the best of every class, per width

Weights and feature maps have the same width, biases 16 bits, one step per tensor; conventions of `real_networks`.
SQNR is that of each convolution's and dense layer's input in the float network, measured alone, on all held-out images:
their histograms come from one float pass, and every scheme's error is integrated over them. One JSON line per finished
cell is appended to `experiments/results/schemes_on_networks.jsonl`, so a run that was stopped resumes where it was.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import jax
import numpy as np
from rich.progress import track

from experiments.images import calibrate, read, some
from experiments.real_networks import NETWORKS, RealNetwork
from experiments.rows import append_line, read_lines
from ggdjax import network, quantization, report, schemes
from ggdjax.ggd import empirical_distortion

RESULTS = Path(__file__).resolve().parents[1] / "results" / "schemes_on_networks.jsonl"
#: The widths that other tools report come first.
BITS = (8, 6, 4, 5, 7, 3)


class Bench:
    """One network, calibrated once, and its held-out images."""

    def __init__(self, real: RealNetwork, calibration_images: int | None = None, seed: int = 0) -> None:
        self.name, self.size = real.name, real.batch_size
        net = real.load()
        self.images = real.open_images(net)
        self.parts = real.split(self.images, calibration_images, seed)
        self.calibration, held_out = (
            calibrate(net, self.images, part, self.size, f"{self.name}: observe {what}")
            for what, part in (("calibration images", self.parts.calibration), ("held-out images", self.parts.held_out))
        )
        self.held_out = held_out.histograms
        self.net = network.fold_batch_norm(net)
        self._loaded: dict[int | None, list] = {}

    def batches(self, images: int | None) -> list:
        """Return up to N held-out images with their labels, decoded once."""
        if images not in self._loaded:
            part = some(self.images, self.parts.held_out, images)
            self._loaded[images] = list(read(self.images, part, self.size, f"{self.name}: load"))
        return self._loaded[images]

    def sqnr(self, scheme: str, bits: int) -> dict[str, float]:
        """Return the SQNR of each held-out feature map in dB."""
        signed = np.asarray(self.calibration.histograms.is_signed)
        chosen = jax.device_get(schemes.choose(scheme, self.calibration.histograms, bits, signed))
        zero = np.float32(0) if chosen.zero_point is None else chosen.zero_point
        above, below = np.asarray(chosen.qmax, np.float32) - zero, zero - np.asarray(chosen.qmin, np.float32)
        error = empirical_distortion(self.held_out, chosen.step, above, below)
        energy = np.asarray(self.held_out.power_sum(2), np.float64) / np.asarray(self.held_out.count, np.float64)
        return {
            name: quantization.sqnr_db(float(e), float(d))
            for name, e, d in zip(self.calibration.names, energy, np.asarray(error), strict=True)
        }

    def quantized(self, scheme: str, bits: int) -> quantization.QuantizedNetwork:
        """Return the network with weights and feature maps of that width."""
        config = quantization.QuantConfig(weight_bits=bits, activation_bits=bits, scheme=scheme)
        return quantization.quantize(self.net, self.calibration, config)


def run(args: argparse.Namespace) -> None:
    """Compute the missing cells, the widths most compared first."""
    done = {(row["kind"], row["network"], row["bits"], row["scheme"]) for row in read_lines(RESULTS)}
    names, chosen = args.network or list(NETWORKS), args.scheme or list(schemes.names())
    cells = [(name, bits, scheme) for bits in args.bits or BITS for name in names for scheme in chosen]
    kinds = ("sqnr",) if args.sqnr_only else ("sqnr", "accuracy")
    todo = [(kind, *cell) for kind in kinds for cell in cells if (kind, *cell) not in done]
    print(f"{len(todo)} cells to do, {len(done)} done")
    benches: dict[str, Bench] = {}
    for kind, name, bits, scheme in track(todo, "cells"):
        if name not in benches:
            benches[name] = Bench(NETWORKS[name])
        bench, head = benches[name], {"kind": kind, "network": name, "bits": bits, "scheme": scheme}
        start = time.perf_counter()
        if kind == "sqnr":
            sqnr = bench.sqnr(scheme, bits)
            values = [v for v in sqnr.values() if math.isfinite(v)]
            figures = {"mean_sqnr_db": float(np.mean(values)), "min_sqnr_db": float(np.min(values)), "sqnr_db": sqnr}
        else:
            batches = bench.batches(min(args.images or len(bench.parts.held_out), len(bench.parts.held_out)))
            if ("accuracy", name, 32, "float") not in done:
                done.add(("accuracy", name, 32, "float"))
                everything = bench.batches(len(bench.parts.held_out))
                append_line(RESULTS, {**head, "bits": 32, "scheme": "float", **_accuracy(bench.net, everything)})
            figures = _accuracy(bench.quantized(scheme, bits), batches)
        figures |= {"seconds": round(time.perf_counter() - start, 2), "calibration_images": bench.calibration.images}
        append_line(RESULTS, head | figures | report.environment())


def _accuracy(forward, batches: list) -> dict[str, float]:
    result = quantization.accuracy(forward, batches)
    return {"top1": result.top1, "top5": result.top5, "held_out_images": result.images}


def tables() -> None:
    """Print two Markdown tables per network: mean (smallest) SQNR in dB, and top-1 / top-5 in %."""
    found = {(row["kind"], row["network"], row["scheme"], row["bits"]): row for row in read_lines(RESULTS)}
    for name in NETWORKS:
        bits = sorted({b for _, n, s, b in found if n == name and s != "float"}, reverse=True)
        first = {s: row["mean_sqnr_db"] for (k, n, s, b), row in found.items() if (k, n, b) == ("sqnr", name, bits[0])}
        order = sorted(first, key=first.__getitem__, reverse=True)
        _table(f"{name}: SQNR of the feature maps on held-out images, dB, mean (smallest)", "sqnr", name, order, bits)
        real = found.get(("accuracy", name, "float", 32))
        if real:
            title = f"{name}: top-1 / top-5, %, weights and feature maps of the same width"
            title += f"; float {real['top1']:.2%} / {real['top5']:.2%} on {real['held_out_images']} images"
            _table(title, "accuracy", name, order, bits)


def summary() -> None:
    """Print mean SQNR in dB of the default, the best other of its class and of each other class; one table."""
    classes = {kind: [n for n in schemes.names() if schemes.get(n).kind is kind] for kind in schemes.SchemeClass}
    found = {
        (r["network"], r["bits"], r["scheme"]): r["mean_sqnr_db"] for r in read_lines(RESULTS) if r["kind"] == "sqnr"
    }
    widths = sorted(BITS, reverse=True)
    print("| network | scheme | " + " | ".join(f"{b} bits" for b in widths) + " |\n|---|---|" + "---|" * len(widths))
    won = cells = 0
    for name in NETWORKS:
        rows: dict[str, list[str]] = {}
        for bits in widths:
            of_bits = {s: v for (n, b, s), v in found.items() if (n, b) == (name, bits)}
            ours, cells = of_bits["ggd"], cells + 1
            rows.setdefault("`ggd`", []).append(f"{ours:.2f}")
            for kind, names in classes.items():
                # The variants of ours are no baselines in its own class.
                own = kind is schemes.SchemeClass.MODEL
                others = {s: of_bits[s] for s in names if s in of_bits and not (own and s.startswith("ggd"))}
                if not others:
                    continue
                best = max(others, key=others.__getitem__)
                won += own and ours >= others[best]
                label = f"best {'other ' if own else ''}{kind.value}"
                rows.setdefault(label, []).append(f"{others[best]:.2f} ({best})")
            rows.setdefault("bits to `max-abs`", []).append(f"{(ours - of_bits['max-abs']) / 6.02:+.2f}")
        for label, values in rows.items():
            print(f"| {name} | {label} | " + " | ".join(values) + " |")
    print(f"\n`ggd` leads every other model in {won} of {cells} cells.")


def _table(title: str, kind: str, name: str, order: list[str], bits: list[int]) -> None:
    found = {
        (row["scheme"], row["bits"]): row
        for row in read_lines(RESULTS)
        if (row["kind"], row["network"]) == (kind, name)
    }
    most = max((row.get("held_out_images", 0) for row in found.values()), default=0)
    print(f"\n### {title}\n\n| scheme | " + " | ".join(f"{b} bits" for b in bits) + " |")
    print("|---|" + "---|" * len(bits))
    for scheme in order:
        cells = []
        for b in bits:
            row = found.get((scheme, b))
            if row is None:
                cells.append("not run")
            elif kind == "sqnr":
                cells.append(f"{row['mean_sqnr_db']:.2f} ({row['min_sqnr_db']:.2f})")
            else:
                part = f" of {row['held_out_images']}" if row["held_out_images"] < most else ""
                cells.append(f"{100 * row['top1']:.2f} / {100 * row['top5']:.2f}{part}")
        print(f"| {scheme} | " + " | ".join(cells) + " |")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="only this network (repeatable)")
    parser.add_argument("--bits", action="append", type=int, choices=range(2, 17), help="only this width (repeatable)")
    parser.add_argument("--scheme", action="append", choices=schemes.names(), help="only this scheme (repeatable)")
    parser.add_argument("--images", type=int, help="accuracies on up to N held-out images (default: all)")
    parser.add_argument("--sqnr-only", action="store_true", help="leave the accuracies out")
    parser.add_argument("--tables", action="store_true", help="print the tables of what is there and stop")
    parser.add_argument("--summary", action="store_true", help="print one small table of the SQNR and stop")
    args = parser.parse_args()
    if args.summary:
        summary()
        return
    if args.images is not None and args.images < 1:
        parser.error(f"--images must be at least 1, got {args.images}")
    if not args.tables:
        run(args)
    tables()


if __name__ == "__main__":
    main()
