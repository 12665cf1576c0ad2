"""How many calibration images are enough? The credible interval of the 8-bit step against their number.

    python -m experiments.benchmarks.posterior_of_the_step [--network resnet20] [--order 2] [--quick]

For each number of calibration images: the width of the 90 % credible interval of the closed-form step relative to its
median, from the posterior of the tail-weighted fit (NUTS on the histogram likelihood, uncertainty measured between 16
splits of the images). Beside it what it should predict: how the fitted steps scatter over random choices of
the images (3.29 standard deviations over seeds), and the share of seeds whose interval holds the step of all held-out
images. The last column is the naive interval that counts every value as independent.
Results: `experiments/results/posterior_of_the_step.json`.
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

from experiments.feature_maps import calibration, held_out
from experiments.real_networks import CIFAR10, NETWORKS
from experiments.rows import merged
from ggdjax import report
from ggdjax.ggd import TailWeighted, fit, sample_posterior
from ggdjax.steps import closed_form_step

RESULTS = Path(__file__).resolve().parents[1] / "results" / "posterior_of_the_step.json"
#: Feature maps shown one by one: the first, some in the middle, the last; all of them enter the medians.
SHOWN = 6
LEVEL = 0.9


def measure(name: str, order: float, bits: int, sizes: tuple[int, ...], seeds: int, draws: int) -> dict:
    """Return the relative widths of the intervals, per size and feature map, and what they should predict."""
    real = NETWORKS[name]
    whole = held_out(real).whole
    signed = jnp.asarray(np.asarray(whole.is_signed))

    def step(tail: TailWeighted) -> jax.Array:
        return closed_form_step(tail, bits, signed=signed)

    target = np.asarray(step(fit(whole, order=order).tail))
    fitted = {images: [] for images in sizes}
    honest = {images: [] for images in sizes}
    naive, seconds, start = {}, {}, time.perf_counter()
    for seed in track(range(seeds), f"{name}: posteriors"):
        for images, maps in calibration(real, sizes, seed).items():
            fitted[images].append(np.asarray(step(fit(maps.whole, order=order).tail)))
            begun = time.perf_counter()
            posterior = sample_posterior(maps.histogram, jax.random.key(seed), order=order, split_axis=0, draws=draws)
            honest[images].append(np.stack(posterior.interval(step, LEVEL)))
            seconds[images] = min(time.perf_counter() - begun, seconds.get(images, np.inf))
            if seed == 0:
                posterior = sample_posterior(maps.whole, jax.random.key(0), order=order, draws=draws)
                naive[images] = np.stack(posterior.interval(step, LEVEL))
    rows = []
    for images in sizes:
        low, median, high = np.stack(honest[images], axis=1)  # seed, tensor
        scatter = 2 * 1.645 * np.std(np.log(fitted[images]), axis=0, ddof=1)
        rows.append(
            {
                "images": images,
                "relative_width": ((high - low) / median).mean(0).round(5).tolist(),
                "scatter_over_seeds": scatter.round(5).tolist(),
                "covered": ((low < target) & (target < high)).mean(0).round(3).tolist(),
                "naive_width": ((naive[images][2] - naive[images][0]) / naive[images][1]).round(5).tolist(),
                "seconds": round(seconds[images], 3),
            }
        )
    return {
        "network": name,
        "order": order,
        "bits": bits,
        "level": LEVEL,
        "seeds": seeds,
        "draws": draws,
        "feature_maps": held_out(real).names,
        "rows": rows,
        "seconds": round(time.perf_counter() - start, 1),
    }


def print_tables(row: dict) -> None:
    """Print two Markdown tables: all feature maps in the median, and some of them one by one."""
    print(
        f"\n### {row['network']}: {row['level']:.0%} interval of the {row['bits']}-bit step, order {row['order']:g}\n"
    )
    print("Medians over all feature maps; widths in % of the step.\n")
    print("| images | width | scatter over seeds | holds the held-out step | naive width | seconds, all feature maps |")
    print("|---|---|---|---|---|---|")
    for r in row["rows"]:
        width, scatter, naive = (100 * np.median(r[k]) for k in ("relative_width", "scatter_over_seeds", "naive_width"))
        covered = np.mean(r["covered"])
        print(f"| {r['images']} | {width:.1f} | {scatter:.1f} | {covered:.0%} | {naive:.2f} | {r['seconds']:.2f} |")
    shown = np.unique(np.linspace(0, len(row["feature_maps"]) - 1, SHOWN).astype(int))
    print("\nWidth in % of the step, per feature map:\n")
    print("| feature map | " + " | ".join(f"{r['images']} images" for r in row["rows"]) + " |")
    print("|---|" + "---|" * len(row["rows"]))
    for i in shown:
        cells = " | ".join(f"{100 * r['relative_width'][i]:.1f}" for r in row["rows"])
        print(f"| {row['feature_maps'][i]} | {cells} |")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="default: resnet20 (repeatable)")
    parser.add_argument("--order", type=float, default=2.0, help="order of the tail weighting")
    parser.add_argument("--bits", type=int, default=8, help="width of the step")
    parser.add_argument("--seeds", type=int, default=8, help="choices of the calibration images")
    parser.add_argument("--draws", type=int, default=500, help="draws of each posterior")
    parser.add_argument("--quick", action="store_true", help="16 and 64 images, 3 seeds; nothing is written")
    args = parser.parse_args()
    rows = []
    for name in args.network or ["resnet20"]:
        sizes = (16, 64, 256, 1024) if NETWORKS[name].images == CIFAR10 else (16, 32, 64, 100)
        sizes, seeds = ((16, 64), 3) if args.quick else (sizes, args.seeds)
        rows.append(measure(name, args.order, args.bits, sizes, seeds, args.draws))
        print_tables(rows[-1])
    if not args.quick:
        rows = merged(RESULTS, rows, "network", "order", "bits")
        RESULTS.write_text(json.dumps({"rows": rows, **report.environment()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
