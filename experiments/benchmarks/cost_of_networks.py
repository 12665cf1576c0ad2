"""What every real network costs at every width, with its accuracy beside it: table, JSON and Pareto plot.

    python -m experiments.benchmarks.cost_of_networks            seconds; needs the network files, no images
    python -m experiments.benchmarks.cost_of_networks --buffer-kib 32 --rows 16 --columns 16
    python -m experiments.benchmarks.cost_of_networks --energy table.json      with your own energy per operation

Costs follow from shapes and widths alone (see `ggdjax/cost/_dataflow.py` for the formulas, `EnergyTable` for the
energies): one image, biases 16 bits, integer sums 32 bits, an array, registers and buffer of Eyeriss's size. The table
and the plot are those of the row-stationary dataflow; the JSON file holds all three. Accuracy is that of the scheme
`ggd`, weights and feature maps of the same width, where the experiment `schemes` has measured it, and of the widths per
layer that the experiment `gradient` has allocated (`mean 4`) and tuned; run those, then this.
Expected: 8/8 needs a quarter of float32's weights and feature maps, and about a fifth of its energy; halving both
widths again saves less than half, because sums keep theirs.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

from experiments.real_networks import NETWORKS
from experiments.tables.plots import STYLE, save
from experiments.tables.results import Results
from experiments.tables.t6_cost import ALLOCATED
from ggdjax import cost, quantization, report
from ggdjax.cost import Dataflow, EnergyTable, HardwareModel, Widths
from ggdjax.cost._hardware_model import FIXED16, FLOAT32
from ggdjax.network import fold_batch_norm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ggdjax.network import Network
    from ggdjax.quantization import QuantizedNetwork

RESULTS = Path(__file__).resolve().parents[1] / "results" / "cost_of_networks.json"
WIDTHS = (FLOAT32, FIXED16, *(Widths(weight_bits=bits, activation_bits=bits) for bits in (8, 6, 4)))
#: Colour-blind safe (Okabe & Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def run(machines: dict[Dataflow, HardwareModel]) -> list[dict[str, Any]]:
    """Return one row per network, dataflow and width."""
    accuracies = {
        (row["network"], row["bits"], row["scheme"]): row
        for row in Results().rows("schemes")
        if row["kind"] == "accuracy"
    }
    rows = []
    for name, real in NETWORKS.items():
        net = fold_batch_norm(real.load())
        mixed = mixed_widths(name, net)
        for dataflow, machine in machines.items():
            for widths in WIDTHS:
                found = cost.estimate(net, machine, widths=widths)
                scheme = "float" if widths.floating else "ggd"
                accuracy = accuracies.get((name, widths.weight_bits, scheme), {})
                head = {"network": name, "dataflow": dataflow, "widths": widths.name}
                measured = {key: accuracy.get(key) for key in ("top1", "top5", "held_out_images")}
                ratios = {against: asdict(ratio) for against, ratio in found.against().items()}
                rows.append({**head, **measured, **found.totals(), "against": ratios})
            for title, (q, accuracy) in mixed.items():
                found = cost.estimate(q, machine)
                ratios = {against: asdict(ratio) for against, ratio in found.against().items()}
                head = {"network": name, "dataflow": dataflow, "widths": title}
                rows.append({**head, **accuracy, **found.totals(), "against": ratios})
    return rows


def mixed_widths(name: str, net: Network) -> dict[str, tuple[QuantizedNetwork, dict[str, Any]]]:
    """Return the network with the widths per layer that `run gradient` has allocated and tuned, with accuracies."""
    found = {}
    for row in Results().rows("gradient"):
        if row["network"] != name or row["method"] not in ALLOCATED:
            continue
        config = quantization.QuantConfig(weight_bits_of=row["weight_bits"], activation_bits_of=row["activation_bits"])
        # Costs depend on widths alone, so that steps from one image of noise do.
        noise = np.random.default_rng(0).standard_normal((1, *net.input_shape[1:]), np.float32)
        q = quantization.quantize(net, quantization.calibrate(net, [noise]), config)
        measured = {key: row[key] for key in ("top1", "top5", "held_out_images")}
        found[f"mean {row['widths'].partition('/')[0]}{ALLOCATED[row['method']]}"] = (q, measured)
    return found


def table(rows: list[dict[str, Any]], dataflow: Dataflow) -> str:
    """Return the costs under one dataflow as Markdown; savings against float32 and 16-bit fixed point."""
    head = ("network", "widths", "weights KiB", "feature maps KiB", "DRAM KiB", "buffer KiB", "BOPs G", "Mcycles")
    head += ("use %", "MAC µJ", "buffer µJ", "DRAM µJ", "total µJ", "times less than float32, 16/16", "top-1 / top-5 %")
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    for row in rows:
        if row["dataflow"] != dataflow:
            continue
        kib = [
            f"{row[name] / 1024:.0f}" for name in ("weight_bytes", "feature_map_bytes", "dram_bytes", "buffer_bytes")
        ]
        energy = [f"{row[name] / 1e6:.1f}" for name in ("mac_pj", "buffer_pj", "dram_pj", "energy_pj")]
        savings = ", ".join(f"{row['against'][other]['energy_pj']:.2f}" for other in ("float32", "16/16"))
        measured = "not run" if row["top1"] is None else f"{100 * row['top1']:.2f} / {100 * row['top5']:.2f}"
        work = [f"{row['bops'] / 1e9:.1f}", f"{row['cycles'] / 1e6:.2f}", f"{100 * row['utilization']:.0f}"]
        cells = (row["network"], row["widths"], *kib, *work, *energy, savings, measured)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], dataflow: Dataflow) -> Figure:
    """Draw top-1 against energy per image; filled where no other width of any network is both better and cheaper."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    measured = [row for row in rows if row["dataflow"] == dataflow and row["top1"] is not None]
    for name, colour in zip(NETWORKS, COLOURS, strict=True):
        # CIFAR-10 and ImageNet are not one task: a network is compared with those of its own images.
        peers = [row for row in measured if NETWORKS[row["network"]].images == NETWORKS[name].images]
        own = sorted((row for row in measured if row["network"] == name), key=lambda row: row["energy_pj"])
        axes.plot([r["energy_pj"] / 1e6 for r in own], [100 * r["top1"] for r in own], color=colour, label=name)
        for row in own:
            beaten = any(p["energy_pj"] < row["energy_pj"] and p["top1"] >= row["top1"] for p in peers)
            x, y = row["energy_pj"] / 1e6, 100 * row["top1"]
            axes.plot(x, y, "o", color=colour, markerfacecolor="white" if beaten else colour)
            axes.annotate(row["widths"], (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel("energy per image, µJ (modelled)")
    axes.set_ylabel("top-1, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    return figure


def main() -> None:
    """Read the command line, run, write the results and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=HardwareModel.rows)
    parser.add_argument("--columns", type=int, default=HardwareModel.columns)
    parser.add_argument("--buffer-kib", type=int, default=HardwareModel.buffer_bytes // 1024)
    parser.add_argument("--energy", type=Path, help="JSON file of an EnergyTable")
    args = parser.parse_args()
    energy = EnergyTable.load(args.energy) if args.energy else EnergyTable()
    size = {"rows": args.rows, "columns": args.columns, "buffer_bytes": 1024 * args.buffer_kib, "energy": energy}
    machines = {dataflow: HardwareModel(dataflow=dataflow, **size) for dataflow in Dataflow}
    rows = run(machines)
    chosen = Dataflow.ROW_STATIONARY
    machine = {name: value for name, value in asdict(machines[chosen]).items() if name != "dataflow"}
    record = {**report.environment(), "machine_model": machine, "rows": rows}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    with mpl.rc_context(STYLE):
        save(draw(rows, chosen), RESULTS, pdf=False)
    print(f"{chosen}, {args.rows} × {args.columns} units, {args.buffer_kib} KiB; {energy.source}\n")
    print(table(rows, chosen))


if __name__ == "__main__":
    main()
