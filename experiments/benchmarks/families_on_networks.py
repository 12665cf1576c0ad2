"""Which family describes the feature maps of real networks? Eight families on one histogram per feature map.

    python -m experiments.benchmarks.families_on_networks [--network resnet20] [--images 256] [--quick]

Per network: how many of its feature maps each family wins by each criterion, and the mean Kolmogorov-Smirnov
distance, Anderson-Darling distance and KL divergence. The nonzero magnitudes of calibration images are fitted; a
point mass at the largest magnitude (ReLU6, over-exposed pixels) is taken out before, for all families alike.
Results: `experiments/results/families_on_networks.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np

from experiments.feature_maps import calibration, calibration_sizes
from experiments.real_networks import NETWORKS, RealNetwork
from experiments.rows import merged
from ggdjax import report
from ggdjax.ggd import FAMILIES, compare_families, split_saturation

RESULTS = Path(__file__).resolve().parents[1] / "results" / "families_on_networks.json"
CRITERIA = ("kolmogorov_smirnov", "anderson_darling", "kl", "bic")


def measure(real: RealNetwork, images: int) -> dict:
    """Return one network's row."""
    maps = calibration(real, (images,), seed=0)[images]
    rest, saturation = split_saturation(maps.whole)
    start = time.perf_counter()
    comparison = jax.block_until_ready(compare_families(rest))
    first = time.perf_counter() - start
    start = time.perf_counter()
    jax.block_until_ready(compare_families(rest))
    again = time.perf_counter() - start
    goodness = jax.tree.map(np.asarray, comparison.goodness)
    mean = {c: dict(zip(FAMILIES, getattr(goodness, c).mean(1).round(6).tolist(), strict=True)) for c in CRITERIA}
    ks = goodness.kolmogorov_smirnov
    return {
        "network": real.name,
        "images": images,
        "feature_maps": len(maps.names),
        "saturated": int((np.asarray(saturation.weight) > 0).sum()),
        "wins": {c: comparison.wins(c) for c in CRITERIA},
        "mean": {c: mean[c] for c in CRITERIA if c != "bic"},
        "kolmogorov_smirnov": {
            name: dict(zip(FAMILIES, ks[:, i].round(5).tolist(), strict=True)) for i, name in enumerate(maps.names)
        },
        "seconds": {"with_compilation": round(first, 3), "again": round(again, 3)},
    }


def print_table(row: dict) -> None:
    """Print one network as Markdown."""
    print(f"\n### {row['network']}: {row['feature_maps']} feature maps, {row['images']} images\n")
    print("| family | wins by KS | by AD | by KL | by BIC | mean KS | mean AD | mean KL, nats |")
    print("|---|" + "---|" * 7)
    for family in FAMILIES:
        wins = " | ".join(str(row["wins"][c][family]) for c in CRITERIA)
        mean = " | ".join(f"{row['mean'][c][family]:.4f}" for c in CRITERIA if c != "bic")
        print(f"| {family} | {wins} | {mean} |")
    print(f"\nAll eight families, {row['feature_maps']} feature maps: {row['seconds']['again']} s once compiled.")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="only this network (repeatable)")
    parser.add_argument("--images", type=int, help="calibration images, a multiple of 4 (default: 256 or 100)")
    parser.add_argument("--quick", action="store_true", help="ResNet-20 with 16 images; nothing is written")
    args = parser.parse_args()
    names = ["resnet20"] if args.quick else args.network or list(NETWORKS)
    rows = []
    for name in names:
        images = 16 if args.quick else args.images or max(calibration_sizes(NETWORKS[name]))
        rows.append(measure(NETWORKS[name], images))
        print_table(rows[-1])
    if not args.quick:
        rows = merged(RESULTS, rows, "network")
        rows.sort(key=lambda row: list(NETWORKS).index(row["network"]))
        RESULTS.write_text(json.dumps({"rows": rows, **report.environment()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
