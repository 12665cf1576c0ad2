"""T8, architectures and data sets: float, quantized, and the SQNR, for every network there are figures of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiments.real_networks import CIFAR10, NETWORKS
from experiments.tables.content import Content
from experiments.tables.entries import (
    Cell,
    Entry,
    accuracies,
    by_images,
    lookup,
    networks_of,
    number,
    percentages,
    pivot,
    select,
)
from experiments.tables.plots import heat_map, new_figure
from experiments.tables.results import Results
from experiments.tables.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {
    "top1": "top-1, fraction",
    "top5": "top-5, fraction",
    "mean_sqnr_db": "mean SQNR of the feature maps, dB",
    "parameters": "parameters, normalizations folded",
    "macs": "multiply-accumulates of one image",
}
SCHEME, FLOAT = "ggd", "float"
WIDTHS = ("8", "6", "5", "4")
#: Network -> the images it was evaluated on.
DATA = {name: "CIFAR-10" if real.images == CIFAR10 else "ImageNet sample" for name, real in NETWORKS.items()}
DATA |= {"digits": "digits", "resnet20-shipped": "CIFAR-10"}


def entries(results: Results) -> list[Entry]:
    """Return sizes, accuracies and SQNR of the default scheme."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    sizes: dict[str, dict[str, Any]] = {}
    for row in results.rows("schemes"):
        if row["scheme"] in (SCHEME, FLOAT):
            bits = FLOAT if row["scheme"] == FLOAT else str(row["bits"])
            rows[row["network"], bits, row["kind"]] = row
            if "parameters" in row:
                sizes[row["network"]] = row
    for row in results.rows("cost"):
        if row["widths"] == "float32":
            sizes[row["network"]] = row | {"parameters": row["weight_bytes"] // 4}
    made, measured = [], dict.fromkeys(name for name, _, _ in rows)
    for name in [n for n in DATA if n in measured] + [n for n in measured if n not in DATA] or DATA:
        for metric in ("parameters", "macs"):
            key = {"network": name, "scheme": FLOAT, "bits": FLOAT}
            size = sizes.get(name, {})
            made.append(Entry(**key, metric=metric, value=size.get(metric), row=size.get("place")))
        for bits in (FLOAT, *WIDTHS):
            key = {"network": name, "scheme": FLOAT if bits == FLOAT else SCHEME, "bits": bits}
            row = rows.get((name, bits, "accuracy"), {})
            made += accuracies(top1=row.get("top1"), top5=row.get("top5"), **results.said_of(row), **key)
            if bits != FLOAT:
                row = rows.get((name, bits, "sqnr"), {})
                value = row.get("mean_sqnr_db")
                made.append(Entry(**key, metric="mean_sqnr_db", value=value, row=row.get("place")))
    return made


def tables(found: Sequence[Entry]) -> list[Table]:
    """Return, per data set, accuracies with SQNR, and sizes."""
    made = []
    for data in dict.fromkeys(DATA.get(name, "other") for name in networks_of(found)):
        names = [name for name in networks_of(found) if DATA.get(name, "other") == data]
        of = select(found, network=names, metric=("top1", "top5", "mean_sqnr_db"))
        for label, group in by_images(of).items():
            made.append(
                pivot(
                    group,
                    title=f"{data}: top-1 / top-5, %"
                    + (f", on {label} held out" if label else "")
                    + " (mean SQNR, dB)",
                    rows={"architecture": "network"},
                    columns="bits",
                    heads={FLOAT: "float"} | {bits: f"W{bits}A{bits}" for bits in WIDTHS},
                    cell=_accuracy,
                )
            )
    made.append(
        pivot(
            select(found, metric=("parameters", "macs")),
            title="Sizes",
            rows={"architecture": "network"},
            columns="metric",
            cell=lambda cell: number(cell, next(iter(cell)), 0),
        )
    )
    return made


def _accuracy(cell: Cell) -> str:
    sqnr = f" ({number(cell, 'mean_sqnr_db', 1)})" if "mean_sqnr_db" in cell else ""
    return percentages(cell) + sqnr


def draw(found: Sequence[Entry]) -> Figure:
    """Draw top-1, coloured by what quantization costs, and SQNR, architectures against widths."""
    names = networks_of(found)
    figure = new_figure(10, 0.5 * len(names) + 1.0)
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1), sharey=True)
    top1 = lookup(select(found, metric="top1"), "network", "bits")
    sqnr = lookup(select(found, metric="mean_sqnr_db"), "network", "bits")
    columns = (FLOAT, *WIDTHS)
    heads = ["float", *(f"W{bits}A{bits}" for bits in WIDTHS)]
    labels = [f"{name}\n{DATA[name]}" if name in DATA else name for name in names]
    loss = [
        [100 * (top1[n, b] - top1[n, FLOAT]) if (n, b) in top1 and (n, FLOAT) in top1 else None for b in columns]
        for n in names
    ]
    texts = [[f"{100 * top1[n, b]:.2f}" if (n, b) in top1 else "not run" for b in columns] for n in names]
    heat_map(left, loss, labels, heads, texts, colours="cividis", low=-20, high=0)
    left.set_title("top-1, %; dark: 20 points or more below float")
    values = [[sqnr.get((n, b)) for b in WIDTHS] for n in names]
    texts = [["not run" if v is None else f"{v:.1f}" for v in row] for row in values]
    heat_map(right, values, labels, [f"{bits} bits" for bits in WIDTHS], texts, colours="cividis", low=15, high=50)
    right.set_title("mean SQNR of the feature maps, dB")
    return figure


CONTENT = Content(
    name="T8",
    title="Architectures and data sets: the default scheme on every network there are figures of",
    about=(
        "Scheme `ggd`, weights and feature maps of the same width, biases 16 bits, one step per tensor. Held-out "
        "images: 10,000 of CIFAR-10, 900 of the ImageNet sample, 500 digits. `digits` and `resnet20-shipped` come with "
        "the package; the others are the networks of `experiments/real_networks.py`."
    ),
    sources=("schemes", "cost"),
    metrics=METRICS,
    entries=entries,
    tables=tables,
    draw=draw,
    shows=lambda name, cell: name != "schemes" or cell["scheme"] in (SCHEME, FLOAT),
    caption="Left: top-1, dark where quantizing costs 20 points or more. Right: mean SQNR of the feature maps.",
)
