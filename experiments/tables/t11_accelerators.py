"""T11, accelerators: what the compilers of a GPU and of a TPU make of the programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.tables.content import Content
from experiments.tables.entries import Cell, Entry, lookup, number, pivot, select
from experiments.tables.plots import labelled_bars, new_figure
from experiments.tables.results import Results
from experiments.tables.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Results file -> accelerator.
TARGETS = {"compiled_h200.json": "H200", "compiled_v5e.json": "TPU v5e"}
#: Metric -> heading, digits.
SHOWN = {
    "launches": ("kernels launched", 0),
    "temporary_mib": ("temporary memory, MiB", 1),
    "gigabytes": ("traffic, GB", 2),
    "gigaflops": ("GFLOP", 1),
    "products": ("products by operand", 0),
}
METRICS = {
    "launches": "kernels of one call, loops counted as often as they run (once where the data decide)",
    "temporary_mib": "temporary memory of one call, MiB",
    "gigabytes": "bytes read and written, GB; XLA's count, loops once, none of a GPU's kernels",
    "gigaflops": "operations of one call, 10^9, counted likewise",
    "products": "matrix products and convolutions in the program, by the type of their operands",
}


def entries(results: Results) -> list[Entry]:
    """Return the figures; `item` is the accelerator, `network` what is compiled, `scheme` the program."""
    made = []
    for file, target in TARGETS.items():
        held = results.read(file)
        for name, figures in held.items() or [("statistics, 1000: fit", {})]:
            network, _, program = name.partition(": ")
            key = {"network": network, "item": target, "scheme": program, "row": file if held else None}
            for metric in SHOWN:
                value = figures.get(metric)
                if metric == "products" and held:
                    value = ", ".join(f"{count} {kind}" for kind, count in (value or {}).items()) or "none"
                elif target == "H200" and metric in ("gigabytes", "gigaflops") and not value:
                    value = None
                made.append(Entry(**key, metric=metric, value=value))
    return made


def tables(found: Sequence[Entry]) -> list[Table]:
    """Return one table per accelerator."""
    return [
        pivot(
            [e for e in own if any(o.value is not None for o in select(own, metric=e.metric)) or not any_value(own)],
            title=f"Compiled for {target}, without one",
            rows={"what, how many at once": "network", "program": "scheme"},
            columns="metric",
            heads={metric: heading for metric, (heading, _) in SHOWN.items()},
            cell=_shown,
        )
        for target in TARGETS.values()
        if (own := select(found, item=target))
    ]


def any_value(found: Sequence[Entry]) -> bool:
    """Return whether there is any figure."""
    return any(e.value is not None for e in found)


def _shown(cell: Cell) -> str:
    (metric,) = cell
    return number(cell, metric, SHOWN[metric][1])


def draw(found: Sequence[Entry]) -> Figure:
    """Draw the temporary memory of every program, one panel per accelerator."""
    figure = new_figure(10, 3.8)
    panels = figure.subplots(1, len(TARGETS))
    memory = lookup(select(found, metric="temporary_mib"), "item", "network", "scheme")
    for axes, target in zip(panels, TARGETS.values(), strict=True):
        bars = [(f"{n}: {p}", value) for (item, n, p), value in memory.items() if item == target]
        axes.set_title(f"{target}: temporary memory, MiB")
        labelled_bars(axes, bars, ",.0f", 7)
    return figure


CONTENT = Content(
    name="T11",
    title="Accelerators: what their compilers make of the programs",
    about=(
        "Compiled by XLA for an accelerator that need not be there; nothing was run. Fits, steps and schemes of 1,000 "
        "tensors at once; the programs of a network on 64 images. Products of int8 and of pred operands become "
        "int8 matrix instructions."
    ),
    sources=tuple(TARGETS),
    metrics=METRICS,
    entries=entries,
    tables=tables,
    draw=draw,
    caption="Temporary memory that one call of each program asks for.",
)
