"""Which order of the tail weighting quantizes real feature maps best: m = b/2, fixed ones, the best of six?

    python -m experiments.benchmarks.orders_on_networks [--network resnet20] [--seeds 3] [--quick]
    python -m experiments.benchmarks.orders_on_networks --tables      the tables of what is there, as Markdown

Mean SQNR in dB over all feature maps on held-out images, each alone in the float network, at 8 to 3 bits. Steps from
the counted histograms of 16, 64 and 256 calibration images (ImageNet sample: 16, 64 and the 100 it has by convention),
mean over seeds that choose the images. Compared, all with the closed-form step: orders 0 to 4 without the zero cell;
the schemes `ggd` (m = b/2), `ggd-tail` (m = 2) and `ggd-best-order` (the best of six by its error on the calibration
histogram); max-abs; brute-force search on the same images; and the same search on the held-out images themselves,
which no method can beat. A point mass at the largest magnitude (ReLU6) is taken out of all fits and enters the step by
`saturated_step`. Expected: `ggd` within 0.05 dB of `ggd-best-order` in every cell with the most images.
Results: `experiments/results/orders_on_networks.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from experiments.feature_maps import FeatureMaps, calibration, calibration_sizes, held_out
from experiments.real_networks import NETWORKS, RealNetwork
from experiments.rows import merged
from ggdjax import report, schemes
from ggdjax.ggd import Histogram, empirical_distortion, fit, split_saturation
from ggdjax.steps import closed_form_step, saturated_step

RESULTS = Path(__file__).resolve().parents[1] / "results" / "orders_on_networks.json"
BITS = (8, 7, 6, 5, 4, 3)
ORDERS = (0, 1, 2, 3, 4)
SEARCH, BOUND = "mse-search", "search on held-out"
SCHEMES = ("max-abs", "ggd", "ggd-tail", "ggd-best-order", SEARCH)
METHODS = (*(f"m = {m}" for m in ORDERS), *SCHEMES, BOUND)


def steps_of(maps: FeatureMaps, signed: np.ndarray) -> dict[str, np.ndarray]:
    """Return method -> steps ``[bits, tensor]``."""
    bits = jnp.asarray(BITS)[:, None]
    levels = jnp.asarray([[2.0 ** (b - s) for s in signed] for b in BITS], jnp.float32)
    whole = maps.whole
    rest, saturation = split_saturation(whole)
    found = {}
    for m in ORDERS:
        step = closed_form_step(fit(rest, order=m).tail, bits, signed=jnp.asarray(signed)[None])
        found[f"m = {m}"] = saturated_step(step, levels, saturation.limit[None], saturation.weight[None])
    for name in SCHEMES:
        found[name] = schemes.choose(name, whole, bits, signed).step
    return {name: np.asarray(step) for name, step in found.items()}


def sqnr_db(histogram: Histogram, steps: dict[str, np.ndarray], signed: np.ndarray) -> dict[str, np.ndarray]:
    """Return method -> SQNR ``[bits, tensor]`` on the histogram; two's complement where signed."""
    stacked = np.stack(list(steps.values())).transpose(2, 0, 1)  # tensor, method, bits
    top = (2.0 ** (np.asarray(BITS) - signed[:, None]) - 1)[:, None, :].astype(np.float32)
    top = np.broadcast_to(top, stacked.shape)
    error = np.asarray(
        empirical_distortion(histogram, stacked, top, (top + 1) * signed[:, None, None].astype(np.float32))
    )
    energy = np.asarray(histogram.power_sum(2)) / np.asarray(histogram.count)
    with np.errstate(divide="ignore"):
        value = 10 * np.log10(energy[:, None, None] / error)
    return {name: value[:, i].T for i, name in enumerate(steps)}


def measure(real: RealNetwork, seeds: int, sizes: tuple[int, ...], held_out_images: int | None) -> dict:
    """Return one network's row."""
    measure = held_out(real, held_out_images)
    target = measure.whole
    rows, start = [], time.perf_counter()
    for seed in track(range(seeds), f"{real.name}: seeds"):
        for images, maps in calibration(real, sizes, seed).items():
            signed = np.asarray(maps.whole.is_signed)
            steps = steps_of(maps, signed)
            steps[BOUND] = np.asarray(schemes.choose("mse-search", target, jnp.asarray(BITS)[:, None], signed).step)
            for method, value in sqnr_db(target, steps, signed).items():
                rows.append({"images": images, "seed": seed, "method": method, "sqnr_db": value.round(4).tolist()})
    return {
        "network": real.name,
        "feature_maps": measure.names,
        "held_out_images": measure.images,
        "bits": BITS,
        "seeds": seeds,
        "rows": rows,
        "seconds": round(time.perf_counter() - start, 1),
    }


def means(row: dict) -> dict[tuple[int, int, str], float]:
    """Return (images, bits, method) -> mean SQNR over seeds and over the feature maps where it is finite."""
    methods = dict.fromkeys((r["images"], r["method"]) for r in row["rows"])
    result = {}
    for images, method in methods:
        value = np.array([r["sqnr_db"] for r in row["rows"] if (r["images"], r["method"]) == (images, method)])
        for bits, of_bits in zip(row["bits"], value.transpose(1, 0, 2), strict=True):
            result[images, bits, method] = float(of_bits[np.isfinite(of_bits)].mean())
    return result


def print_tables(row: dict) -> None:
    """Print one network as Markdown."""
    mean = means(row)
    print(f"\n### {row['network']}: mean SQNR on {row['held_out_images']} held-out images, dB\n")
    print("| images | bits | " + " | ".join(METHODS) + " | ggd − best order |")
    print("|---|---|" + "---|" * (len(METHODS) + 1))
    for images in sorted({images for images, *_ in mean}):
        for bits in row["bits"]:
            cells = " | ".join(f"{mean[images, bits, method]:.2f}" for method in METHODS)
            print(f"| {images} | {bits} | {cells} | {_behind(mean, images, bits):+.3f} |")
    print(f"\n{len(row['feature_maps'])} feature maps, mean over {row['seeds']} seeds.")


def _behind(mean: dict[tuple[int, int, str], float], images: int, bits: int) -> float:
    return mean[images, bits, "ggd"] - mean[images, bits, "ggd-best-order"]


def summary(rows: list[dict]) -> None:
    """Print the cell with the most images in which m = b/2 is furthest behind the best of six orders."""
    for row in rows:
        mean = means(row)
        most = max(images for images, *_ in mean)
        worst = min(row["bits"], key=lambda bits: _behind(mean, most, bits))
        print(f"{row['network']}, {most} images: worst {_behind(mean, most, worst):+.3f} dB at {worst} bits")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="only this network (repeatable)")
    parser.add_argument("--seeds", type=int, default=3, help="choices of the calibration images to average over")
    parser.add_argument("--quick", action="store_true", help="ResNet-20, 16 images, 512 held out; nothing is written")
    parser.add_argument("--tables", action="store_true", help="print the tables of what is there and stop")
    args = parser.parse_args()
    jax.config.update("jax_numpy_rank_promotion", "raise")
    if args.tables:
        rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    elif args.quick:
        rows = [measure(NETWORKS["resnet20"], 1, (16,), 512)]
    else:
        names = args.network or list(NETWORKS)
        rows = [measure(NETWORKS[name], args.seeds, calibration_sizes(NETWORKS[name]), None) for name in names]
        rows = merged(RESULTS, rows, "network")
        rows.sort(key=lambda row: list(NETWORKS).index(row["network"]))
        RESULTS.write_text(json.dumps({"rows": rows, **report.environment()}) + "\n", encoding="utf-8")
    for row in rows:
        print_tables(row)
    summary(rows)


if __name__ == "__main__":
    main()
