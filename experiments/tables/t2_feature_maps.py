"""T2, feature maps: SQNR of every scheme on every network at every width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.tables.content import Content
from experiments.tables.entries import Cell, Entry, lookup, measured, networks_of, number, pivot, select
from experiments.tables.plots import BLUE, GREEN, GREY, LIGHT, ORANGE, label_ends, new_figure, says_not_run
from experiments.tables.results import Results
from experiments.tables.results import networks_of as networks_in
from experiments.tables.table import Table
from ggdjax import schemes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {
    "mean_sqnr_db": "mean SQNR over the feature maps, dB",
    "min_sqnr_db": "SQNR of the weakest feature map, dB",
}
MODEL = schemes.SchemeClass.MODEL.value
BITS = ("8", "7", "6", "5", "4", "3")
#: Schemes named in the plot; the others are there, without a name.
NAMED = {"ggd": BLUE, "mse-search": GREEN, "max-abs": ORANGE, "kl": GREY, "ggd-plain": GREY, "sqnr-laplace": GREY}
NAMED |= {"percentile-99.99": GREY, "aciq-laplace": GREY}


def entries(results: Results) -> list[Entry]:
    """Return mean and smallest SQNR, the schemes best at 8 bits first."""
    found = {
        (row["network"], row["scheme"], str(row["bits"])): row
        for row in results.rows("schemes")
        if row["kind"] == "sqnr"
    }
    made = []
    for name in networks_in(found.values()):
        first = {
            scheme: found.get((name, scheme, BITS[0]), {}).get("mean_sqnr_db") or 0.0 for scheme in schemes.names()
        }
        for scheme in sorted(first, key=lambda scheme: -first[scheme]):
            for bits in BITS:
                row = found.get((name, scheme, bits), {})
                key = {"network": name, "scheme": scheme, "bits": bits, "row": row.get("place")}
                made += [Entry(**key, metric=metric, value=row.get(metric)) for metric in METRICS]
    return made


def tables(found: Sequence[Entry]) -> list[Table]:
    """Return one table per network."""
    return [
        _with_classes(
            pivot(
                measured(select(found, network=name), "scheme"),
                title=f"{name}: mean (smallest) SQNR of the feature maps, dB",
                rows={"scheme": "scheme"},
                columns="bits",
                heads={bits: f"{bits} bits" for bits in BITS},
                cell=_sqnr,
                best=_worth,
            )
        )
        for name in networks_of(found)
    ]


def _class(scheme: str) -> str:
    return schemes.get(scheme).kind.value if scheme in schemes.names() else ""


def _with_classes(table: Table) -> Table:
    """Return the table with a column for the class of each scheme."""
    rows = tuple((scheme, _class(scheme), *cells) for scheme, *cells in table.rows)
    return replace(table, columns=("scheme", "class", *table.columns[1:]), rows=rows, left=2)


def _sqnr(cell: Cell) -> str:
    least = number(cell, "min_sqnr_db")
    return number(cell, "mean_sqnr_db") + (f" ({least})" if least != "not run" else "")


def _worth(cell: Cell) -> float | None:
    entry = cell.get("mean_sqnr_db")
    # To the digits shown: what reads the same is bold together.
    return None if entry is None or entry.value is None or _class(entry.scheme) != MODEL else round(entry.value, 2)


def draw(found: Sequence[Entry]) -> Figure:
    """Draw SQNR against bits, and what each scheme loses against the search, one row per network."""
    names = networks_of(found)
    figure = new_figure(10, 3.0 * len(names) + 0.3)
    panels = figure.subplots(len(names), 2, sharex=True, squeeze=False)
    widths = sorted(map(int, BITS))
    for (left, right), name in zip(panels, names, strict=True):
        value = lookup(select(found, network=name, metric="mean_sqnr_db"), "scheme", "bits")
        search = {bits: value.get(("mse-search", str(bits))) for bits in widths}
        ends: dict[str, list] = {"left": [], "right": []}
        for scheme in sorted({scheme for scheme, _ in value}, key=lambda scheme: (scheme == "ggd", scheme)):
            colour = NAMED.get(scheme, LIGHT)
            style = {"color": colour, "lw": 2.6 if scheme == "ggd" else 0.9}
            style |= {"zorder": 3 if scheme == "ggd" else 2 if scheme in NAMED else 1}
            if scheme == "mse-search":
                style |= {"ls": (0, (3, 3)), "lw": 1.4, "zorder": 4}
            points = [(bits, value[scheme, str(bits)]) for bits in widths if (scheme, str(bits)) in value]
            left.plot(*zip(*points, strict=True), **style)
            loss = [(bits, y - search[bits]) for bits, y in points if search[bits] is not None]
            right.plot(*zip(*loss, strict=True), **style)
            if scheme in ("ggd", "max-abs", "sqnr-laplace"):
                ends["left"].append((points[-1][1], scheme, colour))
            if scheme in NAMED:
                ends["right"].append((loss[-1][1], scheme, colour) if loss else (0.0, scheme, colour))
        if not value:
            says_not_run(left)
        left.set_title(f"{name}: mean SQNR, dB")
        right.set_title(f"{name}: against mse-search, dB")
        right.set_ylim(-6, 0.4)
        for axes, side in ((left, "left"), (right, "right")):
            axes.grid(alpha=0.3)
            axes.set_xticks(widths)
            label_ends(axes, widths[-1], ends[side], 0.08)
    for axes in panels[-1]:
        axes.set_xlabel("bits")
    return figure


CONTENT = Content(
    name="T2",
    title="Feature maps: SQNR of every scheme, network and width",
    about=(
        "SQNR of each convolution's and dense layer's input in the float network, each measured alone, one step per "
        "tensor, on all held-out images (10,000 of CIFAR-10, 900 of the ImageNet sample), steps from the counted "
        "histograms. Class: a model tries no step on the data, a search takes the best by a criterion on them. Bold: "
        "the best mean of a width among the models."
    ),
    sources=("schemes",),
    metrics=METRICS,
    entries=entries,
    tables=tables,
    draw=draw,
    shows=lambda name, cell: name != "schemes" or cell["kind"] == "sqnr",
    caption=(
        "Left: mean SQNR against bits. Right: the same less that of the search; what lies below −6 dB is cut off. "
        "`ggd` bold, light grey lines are the schemes without a name."
    ),
)
