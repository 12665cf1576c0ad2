"""T1, weights and biases: the chosen fractional length and its SQNR against the rule of the maximum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.configs.weights import Weights
from experiments.real_networks import NETWORKS
from experiments.tables.content import Content
from experiments.tables.entries import Cell, Entry, lookup, networks_of, number, pivot, select
from experiments.tables.plots import BLUE, GREY, LIGHT, new_figure, says_not_run
from experiments.tables.results import Results
from experiments.tables.results import networks_of as networks_in
from experiments.tables.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {
    "mean_sqnr_db": "mean SQNR over the layers, dB",
    "other_length": "layers whose fractional length differs from the rule of the maximum",
    "layers": "layers",
    "frac_bits": "fractional length F of one layer",
    "sqnr_db": "SQNR of one layer, dB",
}
RULES = {"best": "best", "max_rule": "max"}
KINDS = ("weight", "bias")
#: Widths that are drawn.
DRAWN = ("8", "6", "4")


def entries(results: Results) -> list[Entry]:
    """Return means per network and width, then every layer; `scheme` is the kind of tensor and the rule."""
    rows = {(row["network"], row["bits"]): row for row in results.rows("weights")}
    means, layers = [], []
    widths = sorted({bits for _, bits in rows} or Weights.bits, reverse=True)
    for name in networks_in(results.rows("weights")):
        for kind in KINDS:
            for bits in widths:
                whole = rows.get((name, bits), {})
                of = [row for row in whole.get("tensors", ()) if row["kind"] == kind]
                head = {"network": name, "bits": str(bits), "row": whole.get("place")}
                for rule, label in RULES.items():
                    lossy = [row[rule]["sqnr_db"] for row in of if row[rule]["sqnr_db"] is not None]
                    scheme = f"{kind}, {label}"
                    mean = float(np.mean(lossy)) if lossy else None
                    means.append(Entry(**head, scheme=scheme, metric="mean_sqnr_db", value=mean))
                    for row in of:
                        sqnr = row[rule]["sqnr_db"]
                        one = head | {"item": row["layer"], "scheme": scheme}
                        layers.append(Entry(**one, metric="frac_bits", value=row[rule]["frac_bits"]))
                        layers.append(Entry(**one, metric="sqnr_db", value="exact" if sqnr is None else sqnr))
                other = sum(row["best"]["frac_bits"] != row["max_rule"]["frac_bits"] for row in of)
                scheme = f"{kind}, best"
                means.append(Entry(**head, scheme=scheme, metric="other_length", value=other if of else None))
                means.append(Entry(**head, scheme=scheme, metric="layers", value=len(of) or None))
    order = {item: place for place, item in enumerate(dict.fromkeys(entry.item for entry in layers))}
    return means + sorted(layers, key=lambda entry: order[entry.item])


def tables(found: Sequence[Entry]) -> list[Table]:
    """Return a summary, and per network the layers' weights and biases."""
    means = [e for e in found if not e.item]
    made = [
        pivot(
            select(means, metric="mean_sqnr_db"),
            title="Mean SQNR over the layers, dB",
            rows={"network": "network", "tensors, rule": "scheme"},
            columns="bits",
            heads=_heads(found),
            cell=lambda cell: number(cell, "mean_sqnr_db"),
        ),
        pivot(
            select(means, metric=("other_length", "layers")),
            title="Layers whose fractional length differs from the rule of the maximum",
            rows={"network": "network", "tensors, rule": "scheme"},
            columns="bits",
            heads=_heads(found),
            cell=lambda cell: f"{number(cell, 'other_length', 0)} of {number(cell, 'layers', 0)}",
        ),
    ]
    for name in networks_of(found):
        for kind in KINDS:
            layers = [e for e in select(found, network=name) if e.item and e.scheme.startswith(kind)]
            if layers:
                made.append(
                    pivot(
                        layers,
                        title=f"{name}, {kind}: fractional length, SQNR in dB",
                        rows={"layer": "item", "rule": "scheme"},
                        columns="bits",
                        heads=_heads(found),
                        cell=_length,
                    )
                )
    return made


def _heads(found: Sequence[Entry]) -> dict[str, str]:
    return {bits: f"{bits} bits" for bits in dict.fromkeys(e.bits for e in found)}


def _length(cell: Cell) -> str:
    return f"{number(cell, 'frac_bits', 0)}, {number(cell, 'sqnr_db')}"


def draw(found: Sequence[Entry]) -> Figure:
    """Draw the SQNR of every layer's weights by both rules, one panel per network and width."""
    names = networks_of(found) or list(NETWORKS)
    figure = new_figure(10, 2.3 * len(names) + 0.4)
    panels = figure.subplots(len(names), len(DRAWN), sharex="row", sharey="col", squeeze=False)
    for row, name in zip(panels, names, strict=True):
        for axes, bits in zip(row, DRAWN, strict=True):
            layers = select(found, network=name, bits=bits, metric="sqnr_db")
            best = lookup(select(layers, scheme="weight, best"), "item")
            other = lookup(select(layers, scheme="weight, max"), "item")
            items = [key for key in best if key in other]
            axes.set_title(f"{name}, {bits} bits", fontsize=9)
            axes.grid(axis="y", alpha=0.3)
            if not items:
                says_not_run(axes)
                continue
            x = range(1, len(items) + 1)
            axes.vlines(x, [other[k] for k in items], [best[k] for k in items], color=LIGHT, lw=2)
            axes.plot(x, [other[k] for k in items], "o", color=GREY, ms=3.5, label="the largest value just fits")
            axes.plot(x, [best[k] for k in items], "o", color=BLUE, ms=3.5, label="least squared error")
        row[0].set_ylabel("SQNR, dB")
    for axes in panels[-1]:
        axes.set_xlabel("layer")
    if panels[0, 0].get_legend_handles_labels()[0]:
        panels[0, 0].legend(loc="lower left", fontsize=7, frameon=True, edgecolor="none", framealpha=0.8)
    return figure


CONTENT = Content(
    name="T1",
    title="Weights and biases: fractional length and SQNR against the rule of the maximum",
    about=(
        "One fractional length F per layer, steps 2^−F, normalizations folded. `best`: the F of least squared error; "
        "`max`: the largest F at which the largest magnitude just fits (Ristretto). `exact`: nothing is lost."
    ),
    sources=("weights",),
    metrics=METRICS,
    entries=entries,
    tables=tables,
    draw=draw,
    caption="SQNR of every layer's weights in the order of the network: blue, least squared error; grey, the rule.",
)
