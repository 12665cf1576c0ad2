"""T9, few images: SQNR of every scheme on counted and on predictive histograms of 1 to 512 images.

    python -m experiments.benchmarks.few_images [--network resnet20] [--draws 3]
    python -m experiments.benchmarks.few_images --tables      the tables of what is there, as Markdown

Mean SQNR in dB over all feature maps on the held-out images, each alone in the float network, one step per tensor.
A draw is an order of the calibration images (ImageNet sample: its 100 conventional ones); its first n calibrate. The
predictive histograms are those of `gd.quantize`: limits that the graph proves, the network's input as counted.
Expected: with 1 image `ggd` on predictive histograms at 8 bits has at least what `mse-search` has with 8 on counted
ones (ResNet-20, SqueezeNet). Results: `experiments/results/few_images.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.progress import track

from experiments.feature_maps import held_out
from experiments.real_networks import CIFAR10, NETWORKS, RealNetwork
from experiments.rows import merged
from ggdjax import data, quantization, report
from ggdjax.ggd import Histogram, empirical_distortion
from ggdjax.quantization._quantize import choose_activations

RESULTS = Path(__file__).resolve().parents[1] / "results" / "few_images.json"
BITS, IMAGES = (8, 6, 4, 3), (1, 2, 4, 8, 16, 64, 512)
SCHEMES = ("max-abs", "percentile-99.99", "kl", "octav", "mse-search", "ggd-plain", "ggd-tail", "ggd-best-order", "ggd")
#: Images per pass.
CHUNK = 16


def calibrations(real: RealNetwork, seed: int) -> list[quantization.Calibration]:
    """Return the calibrations on the first 1, 2, … images of a draw."""
    net = real.load()
    images = real.open_images(net)
    pool = np.asarray(images.parts["train"] if real.images == CIFAR10 else real.split(images).calibration)
    order = pool[data.hash_order([images.ids[i] for i in pool], seed)][: max(IMAGES)]
    found: list[quantization.Calibration] = []
    for start, end in zip((0, *IMAGES), IMAGES, strict=False):
        part = order[start:end]
        if not len(part):
            break
        counted = quantization.calibrate(net, [x for x, _ in images.batches(part, CHUNK)])
        if found:
            seen = found[-1].images + counted.images
            counted = replace(counted, histograms=found[-1].histograms + counted.histograms, images=seen)
        found.append(counted)
    return found


def sqnr_db(target: Histogram, calibration: quantization.Calibration, scheme: str, predictive: bool) -> np.ndarray:
    """Return the SQNR ``[bits, tensor]`` on the held-out histograms, in dB."""
    config = quantization.QuantConfig(scheme=scheme, predictive=predictive)
    widths = np.broadcast_to(np.asarray(BITS)[:, None], (len(BITS), len(calibration.names)))
    chosen = choose_activations(calibration, config, widths)
    step, top, bottom = (
        np.stack([np.asarray(getattr(chosen[name], field)) for name in calibration.names]).astype(np.float32)
        for field in ("step", "qmax", "qmin")
    )
    error = np.asarray(empirical_distortion(target, step, top, -bottom), np.float64)
    energy = np.asarray(target.power_sum(2)) / np.asarray(target.count)
    return 10 * np.log10(energy[:, None] / error).T


def measure(real: RealNetwork, draws: int) -> dict:
    """Return one network's row."""
    target, start = held_out(real), time.perf_counter()
    rows = []
    for seed in track(range(draws), f"{real.name}: draws"):
        for calibration in calibrations(real, seed):
            for scheme in SCHEMES:
                for predictive in (False, True):
                    value = sqnr_db(target.whole, calibration, scheme, predictive)
                    rows.append(
                        {
                            "images": calibration.images,
                            "seed": seed,
                            "scheme": scheme,
                            "predictive": predictive,
                            "mean_sqnr_db": value.mean(1).round(4).tolist(),
                        }
                    )
    return {
        "network": real.name,
        "feature_maps": len(target.names),
        "held_out_images": target.images,
        "bits": BITS,
        "draws": draws,
        "rows": rows,
        "seconds": round(time.perf_counter() - start, 1),
    }


def print_tables(row: dict) -> None:
    """Print one network as Markdown: counted | predictive, mean over the draws."""
    print(f"\n### {row['network']}: mean SQNR on {row['held_out_images']} held-out images, dB, mean of {row['draws']}")
    for k, bits in enumerate(row["bits"]):
        sizes = sorted({r["images"] for r in row["rows"]})
        print(f"\n{bits} bits, counted / predictive\n\n| scheme | " + " | ".join(map(str, sizes)) + " |")
        print("|---|" + "---|" * len(sizes))
        for scheme in SCHEMES:
            cells = []
            for size in sizes:
                pair = []
                for predictive in (False, True):
                    key = (size, scheme, predictive)
                    of_draws = [r for r in row["rows"] if (r["images"], r["scheme"], r["predictive"]) == key]
                    pair.append(np.mean([r["mean_sqnr_db"][k] for r in of_draws]))
                cells.append("{:.2f} / {:.2f}".format(*pair))
            print(f"| {scheme} | " + " | ".join(cells) + " |")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="only this network (repeatable)")
    parser.add_argument("--draws", type=int, default=3, help="orders of the calibration images to average over")
    parser.add_argument("--tables", action="store_true", help="print the tables of what is there and stop")
    args = parser.parse_args()
    if args.tables:
        rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    else:
        for name in args.network or list(NETWORKS):
            rows = merged(RESULTS, [measure(NETWORKS[name], args.draws)], "network")
            rows.sort(key=lambda row: list(NETWORKS).index(row["network"]))
            RESULTS.write_text(json.dumps({"rows": rows, **report.environment()}) + "\n", encoding="utf-8")
    for row in rows:
        print_tables(row)


if __name__ == "__main__":
    main()
