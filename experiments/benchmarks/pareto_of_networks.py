"""Accuracy against weight bytes, traffic and energy: one sweep over mean widths of real networks.

    python -m experiments.benchmarks.pareto_of_networks                       ResNet-20, 3 to 8 bits
    python -m experiments.benchmarks.pareto_of_networks --network squeezenet --budgets 4 6 8
    python -m experiments.benchmarks.pareto_of_networks --tables              what is there

A width per layer of each mean, and one width for all beside the integers; the default recipe without tuning
(`gd.recipe.pareto`), measured on up to 500 images that neither calibrate nor evaluate. Traffic and energy are those of
`ggdjax.cost.estimate` on its default hardware. One JSON file per network is written to
`experiments/results/pareto_NETWORK.json`, and a plot beside it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import ggdjax as gd
from experiments.real_networks import NETWORKS
from ggdjax import report
from ggdjax.recipe._pareto import COSTS
from ggdjax.report._plots import png

RESULTS = Path(__file__).resolve().parents[1] / "results"


def run(name: str, budgets: list[float], images: int) -> None:
    """Sweep one network and write its file."""
    real = NETWORKS[name]
    net = real.load()
    opened = real.open_images(net)
    counted = len(real.split(opened).calibration)
    recipe = gd.Recipe(calibration_images=counted, batch_size=real.batch_size)
    found = gd.recipe.pareto(net, opened, recipe, budgets=budgets, choose_images=images)
    print(found)
    front = {cost: [[p.mean_bits, p.uniform] for p in found.front(cost)] for cost in COSTS}
    record = {"network": name, **found.to_dict(), "front": front, **report.environment()}
    for point in record["points"]:
        del point["recipe"]
    (RESULTS / f"pareto_{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"pareto_{name}.png").write_bytes(png(report.plot_front(found)))


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20", choices=list(NETWORKS), help="which network")
    parser.add_argument("--budgets", type=float, nargs="+", default=[3, 3.5, 4, 5, 6, 8], help="mean widths, bits")
    parser.add_argument("--images", type=int, default=500, help="images that measure")
    parser.add_argument("--tables", action="store_true", help="print what is there and stop")
    args = parser.parse_args()
    if not args.tables:
        run(args.network, args.budgets, args.images)
        return
    for path in sorted(RESULTS.glob("pareto_*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        print(f"\n### {record['network']}, {record['images']} images, float top-1 {record['float_top1']:.2%}\n")
        print(
            "| bits | widths | top-1 | output SQNR dB | weights kB | traffic kB | µJ |\n|---|---|---|---|---|---|---|"
        )
        for p in record["points"]:
            print(
                f"| {p['mean_bits']:g} | {'uniform' if p['uniform'] else 'per layer'} | {p['top1']:.2%} "
                f"| {p['output_sqnr_db']:.2f} | {p['weight_bytes'] / 1e3:.1f} | {p['dram_bytes'] / 1e3:.1f} "
                f"| {p['energy_pj'] / 1e6:.2f} |"
            )


if __name__ == "__main__":
    main()
