"""Which order of the tail weighting quantizes real feature maps best, and does `order="auto"` find it?

    python -m experiments.benchmarks.orders_on_networks [--network resnet20] [--seeds 3] [--quick]
    python -m experiments.benchmarks.orders_on_networks --tables      the tables of what is there, as Markdown

Mean SQNR in dB over all feature maps on held-out images, each judged alone in the float network, at 8, 6 and 4 bits.
Steps from 16, 64 and 256 calibration images (ImageNet sample: 16, 64 and the 100 it has by convention), mean over
seeds that choose the images. Compared: orders 0 to 4 and automatic ones with the closed-form and with the exact step
of the fit; max-abs; brute-force search of the least squared error on the same calibration images; and the same search
on the held-out images themselves, which no method can beat. `auto`: `fit(order="auto")`, one order per feature map,
judged on the calibration histogram; `auto, cross-validated`: `choose_order(split_axis=0)` over image splits. A point
mass at the largest magnitude (ReLU6) is taken out of all fits and enters the step by `saturated_step`.
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
from ggdjax.ggd import Histogram, choose_order, empirical_distortion, fit, split_saturation
from ggdjax.steps import closed_form_step, optimal_step, saturated_step

RESULTS = Path(__file__).resolve().parents[1] / "results" / "orders_on_networks.json"
BITS = (8, 6, 4)
ORDERS = (0, 1, 2, 3, 4)
AUTO, VALIDATED = "auto", "auto, cross-validated"
SOLVERS = {"closed form": closed_form_step, "exact": optimal_step}
MAX_ABS, SEARCH, BOUND, SCHEME = "max-abs", "search on calibration", "search on held-out", "scheme ggd"


def steps_of(maps: FeatureMaps, signed: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Return method -> steps ``[bits, tensor]``, and the automatic orders."""
    bits = jnp.asarray(BITS)[:, None]
    levels = jnp.asarray([[2.0 ** (b - s) for s in signed] for b in BITS], jnp.float32)
    whole = maps.whole
    rest, saturation = split_saturation(whole)
    orders = {f"m = {m}": jnp.full(len(maps.names), float(m)) for m in ORDERS}
    orders[AUTO] = choose_order(rest)
    orders[VALIDATED] = choose_order(split_saturation(maps.histogram)[0], split_axis=0)
    found = {}
    for name, order in orders.items():
        tail = fit(rest, order=order).tail
        for solver_name, solver in SOLVERS.items():
            step = solver(tail, bits, signed=jnp.asarray(signed)[None])
            found[f"{name}, {solver_name}"] = saturated_step(
                step, levels, saturation.limit[None], saturation.weight[None]
            )
    for name, scheme in ((MAX_ABS, "max-abs"), (SEARCH, "mse-search"), (SCHEME, "ggd")):
        found[name] = schemes.choose(scheme, whole, bits, signed).step
    chosen = {name: np.asarray(orders[name]).tolist() for name in (AUTO, VALIDATED)}
    return {name: np.asarray(step) for name, step in found.items()}, chosen


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
    judge = held_out(real, held_out_images)
    target = judge.whole
    rows, chosen, start = [], [], time.perf_counter()
    for seed in track(range(seeds), f"{real.name}: seeds"):
        for images, maps in calibration(real, sizes, seed).items():
            signed = np.asarray(maps.whole.is_signed)
            steps, orders = steps_of(maps, signed)
            steps[BOUND] = np.asarray(schemes.choose("mse-search", target, jnp.asarray(BITS)[:, None], signed).step)
            for method, value in sqnr_db(target, steps, signed).items():
                rows.append({"images": images, "seed": seed, "method": method, "sqnr_db": value.round(4).tolist()})
            chosen.append({"images": images, "seed": seed, **orders})
    return {
        "network": real.name,
        "feature_maps": judge.names,
        "held_out_images": judge.images,
        "bits": BITS,
        "seeds": seeds,
        "rows": rows,
        "orders": chosen,
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
    sizes = sorted({images for images, *_ in mean})
    names = [f"m = {m}" for m in ORDERS] + [AUTO, VALIDATED]
    for solver in SOLVERS:
        methods = [MAX_ABS, *(f"{name}, {solver}" for name in names), SCHEME, SEARCH, BOUND]
        heads = [MAX_ABS, *names, SCHEME, SEARCH, BOUND]
        print(f"\n### {row['network']}: mean SQNR on {row['held_out_images']} held-out images, dB, {solver} step\n")
        print("| images | bits | " + " | ".join(heads) + " |")
        print("|---|---|" + "---|" * len(heads))
        for images in sizes:
            for bits in row["bits"]:
                cells = " | ".join(f"{mean[images, bits, method]:.2f}" for method in methods)
                print(f"| {images} | {bits} | {cells} |")
    print(f"\n{len(row['feature_maps'])} feature maps, mean over {row['seeds']} seeds.")


def summary(rows: list[dict]) -> None:
    """Print the mean over networks, sizes and widths: which fixed order is best on average, and where auto stands."""
    names = [MAX_ABS, *(f"m = {m}" for m in ORDERS), AUTO, VALIDATED, SCHEME, SEARCH, BOUND]
    print(f"\n### Mean over {len(rows)} networks, calibration sizes and widths, dB\n")
    print("| step | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    tables = [means(row) for row in rows]
    for solver in SOLVERS:
        cells = []
        for name in names:
            key = f"{name}, {solver}" if name.startswith(("m = ", AUTO)) else name
            cells.append(np.mean([np.mean([v for (_, _, m), v in table.items() if m == key]) for table in tables]))
        print(f"| {solver} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")


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
