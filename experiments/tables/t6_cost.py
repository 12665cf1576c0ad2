"""T6, cost: energy, power and memory bandwidth of every network at every width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experiments.configs.cost import ALLOCATED
from experiments.tables.content import Content
from experiments.tables.entries import Cell, Entry, by_images, lookup, networks_of, number, pivot, select
from experiments.tables.plots import BLUE, LIGHT, ORANGE, SKY, new_figure, says_not_run
from experiments.tables.results import Results
from experiments.tables.results import networks_of as networks_in
from experiments.tables.table import Table
from ggdjax.cost import Dataflow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Metric -> heading, factor, digits.
SHOWN = {
    "top1": ("top-1, %", 100, 2),
    "energy_pj": ("energy, µJ", 1e-6, 1),
    "mac_pj": ("arithmetic, µJ", 1e-6, 1),
    "buffer_pj": ("buffer, µJ", 1e-6, 1),
    "dram_pj": ("DRAM, µJ", 1e-6, 1),
    "energy_saving": ("times less than float32", 1, 2),
    "power_mw_per_ghz": ("mW per GHz", 1, 0),
    "dram_bytes": ("DRAM traffic, KiB", 1 / 1024, 0),
    "buffer_bytes": ("buffer traffic, KiB", 1 / 1024, 0),
    "dram_gb_per_s_per_ghz": ("DRAM GB/s per GHz", 1, 2),
    "buffer_gb_per_s_per_ghz": ("buffer GB/s per GHz", 1, 1),
    "cycles": ("Mcycles", 1e-6, 2),
}
METRICS = {
    "top1": "top-1 on held-out images, fraction",
    "energy_pj": "energy of one image, pJ",
    "mac_pj": "of that, arithmetic",
    "buffer_pj": "of that, the buffer on the chip",
    "dram_pj": "of that, DRAM",
    "energy_saving": "energy of float32 over this",
    "power_mw_per_ghz": "energy per cycle, pJ: power in mW at a clock of one GHz",
    "dram_bytes": "bytes from and to DRAM, one image",
    "buffer_bytes": "bytes from and to the buffer, one image",
    "dram_gb_per_s_per_ghz": "DRAM bytes per cycle: GB/s at a clock of one GHz",
    "buffer_gb_per_s_per_ghz": "buffer bytes per cycle: GB/s at a clock of one GHz",
    "cycles": "cycles of one image",
}
WIDTHS = ("float32", "16/16", "8/8", "6/6", "4/4")
MAIN = Dataflow.ROW_STATIONARY.value


def entries(results: Results) -> list[Entry]:
    """Return the costs; `scheme` is the dataflow, `bits` the widths, one for all layers or a mean over them."""
    rows = {(row["network"], row["dataflow"], row["widths"]): row for row in results.rows("cost")}
    right = _accuracies(results)
    made = []
    for name in networks_in(rows.values()):
        for dataflow in (MAIN, *(d.value for d in Dataflow if d.value != MAIN)):
            mixed = sorted(key[2] for key in rows if key[:2] == (name, dataflow) and key[2] not in WIDTHS)
            for widths in (*WIDTHS, *mixed):
                row = dict(rows.get((name, dataflow, widths), {}))
                if row:
                    row["energy_saving"] = row["against"]["float32"]["energy_pj"]
                    row["power_mw_per_ghz"] = row["energy_pj"] / row["cycles"]
                    row["dram_gb_per_s_per_ghz"] = row["dram_bytes"] / row["cycles"]
                    row["buffer_gb_per_s_per_ghz"] = row["buffer_bytes"] / row["cycles"]
                key = {"network": name, "scheme": dataflow, "bits": widths}
                top1 = right.get((name, widths), {}) if row else {}
                made.append(Entry(**key, metric="top1", value=top1.get("top1"), **results.said_of(top1)))
                key["row"] = row.get("place")
                made += [Entry(**key, metric=metric, value=row.get(metric)) for metric in METRICS if metric != "top1"]
    return made


def _accuracies(results: Results) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the accuracy of networks and widths: the default scheme, and widths per layer, allocated and tuned."""
    found = {}
    for row in results.rows("schemes"):
        if row["kind"] == "accuracy" and row["scheme"] in ("ggd", "float"):
            widths = "float32" if row["scheme"] == "float" else f"{row['bits']}/{row['bits']}"
            found[row["network"], widths] = row
    for row in results.rows("gradient"):
        if row["method"] in ALLOCATED:
            found[row["network"], f"mean {row['widths'].partition('/')[0]}{ALLOCATED[row['method']]}"] = row
    return found


def tables(found: Sequence[Entry]) -> list[Table]:
    """Return, per network, everything under one dataflow; and energy and DRAM traffic under all."""
    made = [
        pivot(
            _apart(select(found, network=name, scheme=MAIN)),
            title=f"{name}: one image, {MAIN}",
            rows={"weights/maps": "bits"},
            columns="metric",
            heads={metric: heading for metric, (heading, _, _) in SHOWN.items()},
            cell=_shown,
        )
        for name in networks_of(found)
    ]
    for metric in ("energy_pj", "dram_bytes"):
        made.append(
            pivot(
                select(found, metric=metric, bits=WIDTHS),
                title=f"Under every dataflow: {SHOWN[metric][0]}",
                rows={"network": "network", "dataflow": "scheme"},
                columns="bits",
                cell=_shown,
            )
        )
    return made


def _apart(found: Sequence[Entry]) -> list[Entry]:
    """Return the entries with a column of its own for the top-1 of every set of images."""
    groups = by_images(select(found, metric="top1"))
    if len(groups) == 1:
        return list(found)
    named = [replace(e, metric=f"top-1, %, {label}") for label, group in groups.items() for e in group]
    return [*named, *(e for e in found if e.metric != "top1")]


def _shown(cell: Cell) -> str:
    (metric,) = cell
    _, scale, digits = SHOWN.get(metric, SHOWN["top1"])
    return number(cell, metric, digits, scale)


def draw(found: Sequence[Entry]) -> Figure:
    """Draw energy by its parts and traffic, one row per network, bars by width."""
    names = networks_of(found)
    figure = new_figure(10, 1.75 * len(names) + 0.9)
    panels = figure.subplots(len(names), 2, squeeze=False)
    parts = {"mac_pj": ("arithmetic", BLUE), "buffer_pj": ("buffer", SKY), "dram_pj": ("DRAM", ORANGE)}
    for (left, right), name in zip(panels, names, strict=True):
        value = lookup(select(found, network=name, scheme=MAIN), "bits", "metric")
        left.set_title(f"{name}: energy of one image, µJ")
        right.set_title(f"{name}: traffic of one image, MiB")
        own = list(dict.fromkeys(widths for widths, _ in value)) or WIDTHS
        for axes in (left, right):
            axes.set_yticks(range(len(own)), own)
            axes.invert_yaxis()
            axes.margins(x=0.12)
            if not value:
                says_not_run(axes)
        for place, widths in enumerate(own if value else ()):
            start = 0.0
            for metric, (label, colour) in parts.items():
                energy = value[widths, metric] / 1e6
                left.barh(place, energy, left=start, color=colour, label=label if place == 0 else None)
                start += energy
            left.text(start, place, f" {start:,.0f}", va="center", fontsize=8)
            for metric, colour, label, thick in (
                ("buffer_bytes", SKY, "buffer", 0.8),
                ("dram_bytes", ORANGE, "DRAM", 0.4),
            ):
                mib = value[widths, metric] / 2**20
                right.barh(place, mib, color=colour, height=thick, label=label if place == 0 else None)
            texts = [f"{value[widths, metric] / 2**20:.3g}" for metric in ("buffer_bytes", "dram_bytes")]
            right.text(
                value[widths, "buffer_bytes"] / 2**20, place, f" {texts[0]}; {texts[1]}", va="center", fontsize=8
            )
    for axes in panels[0]:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right", fontsize=8, frameon=True, edgecolor=LIGHT)
    return figure


CONTENT = Content(
    name="T6",
    title="Cost: energy, power and memory bandwidth",
    about=(
        "Modelled from shapes and widths, not measured: one image, biases 16 bits, integer sums 32 bits, an array, "
        "registers and buffer of Eyeriss's size, energies per operation of Horowitz (ISSCC 2014, 45 nm). mW per GHz "
        "and GB/s per GHz: energy and bytes per cycle; times the clock in GHz they are the power and the bandwidth of "
        "an array that never waits. `mean 4`: a width for every layer, four bits on average (bit allocation), tuned "
        "by gradients where it says so (T4)."
    ),
    sources=("cost", "schemes", "gradient"),
    metrics=METRICS,
    entries=entries,
    tables=tables,
    draw=draw,
    shows=lambda name, cell: (
        (name != "schemes" or (cell["kind"] == "accuracy" and cell["scheme"] in ("ggd", "float")))
        and (name != "gradient" or cell["method"] in ALLOCATED)
    ),
    caption="Left: energy of one image by its parts. Right: bytes moved, buffer (wide bar; first figure) and DRAM.",
)
