"""T4, tuning: accuracy sweep by sweep of the backward-forward search, and by gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.benchmarks.backward_forward import IMAGES, WIDTHS
from experiments.benchmarks.gradient_tuning import BUDGETS, METHODS
from experiments.tables.content import Content
from experiments.tables.entries import Cell, Entry, accuracies, networks_of, number, pivot, select
from experiments.tables.plots import BLUE, GREEN, GREY, LIGHT, ORANGE, new_figure, says_not_run
from experiments.tables.results import Results
from experiments.tables.t3_accuracy import accuracy
from experiments.tables.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {
    "top1": "top-1, fraction",
    "top5": "top-5, fraction",
    "p_value": "McNemar's exact test against the untuned network",
    "seconds": "seconds of tuning, compiling included",
    "float_passes": "work of the search in passes through the network over the tuning images",
    "naive_float_passes": "the same of a search that runs the whole network for every candidate",
}
SEARCH, OTHERS = "backward-forward", "gradients and others"
#: Stage of a search -> how it reads.
STAGES = {"before": "before", "backward": "after the backward sweep", "forward": "after the forward sweep"}
#: What the runner may add to a search.
FINISH = {"gradient": "then by gradients"}


def entries(results: Results) -> list[Entry]:
    """Return the stages of every search, then the other ways of tuning; `item` says which."""
    made = []
    searches = results.rows("backward_forward.jsonl")
    for name in dict.fromkeys([*IMAGES, *(row["network"] for row in searches)]):
        runs = {_run(row): {} for row in searches if row["network"] == name} or {SEARCH: {}}
        for row in searches:
            if row["network"] == name:
                runs[_run(row)][row["widths"]] = row
        for item, by_widths in runs.items():
            for widths in WIDTHS:
                made += _search(by_widths.get(widths, {}), network=name, item=item, bits=widths)
    rows = {(row["network"], row["method"], row["bits"]): row for row in results.rows("gradient_tuning.json")}
    for name in dict.fromkeys([*BUDGETS, *(network for network, _, _ in rows)]):
        # Not every method is for every network: one that has run at no width has no line.
        for method in [m for m in METHODS if any((name, m, widths) in rows for widths in WIDTHS)]:
            for widths in WIDTHS:
                row = rows.get((name, method, widths), {})
                key = {"network": name, "item": OTHERS, "scheme": method, "bits": widths}
                images = row.get("evaluation_images")
                made += accuracies(top1=row.get("top1"), top5=row.get("top5"), images=images, **key)
                if method != "before":
                    made.append(Entry(**key, metric="seconds", value=row.get("tuning_seconds")))
    return made


def _run(row: dict) -> str:
    seed = f", seed {row['seed']}" if row["seed"] else ""
    return f"{SEARCH} on {row['objective']}, {row['tuning_images']:,} images{seed}"


def _search(row: dict, **key: str) -> list[Entry]:
    made = []
    finish = {stage: label for stage, label in FINISH.items() if stage in row.get("stages", {})}
    for stage, label in (STAGES | finish).items():
        evaluated = row.get("stages", {}).get(stage, {})
        images = evaluated.get("held_out_images")
        made += accuracies(top1=evaluated.get("top1"), top5=evaluated.get("top5"), images=images, scheme=label, **key)
        if stage != "before":
            made.append(Entry(**key, scheme=label, metric="p_value", value=evaluated.get("p_value")))
    costs = ("seconds", "float_passes", "naive_float_passes")
    return made + [Entry(**key, scheme=STAGES["forward"], metric=metric, value=row.get(metric)) for metric in costs]


def tables(found: Sequence[Entry]) -> list[Table]:
    """Return, per network, accuracies and what they cost."""
    made = []
    for name in networks_of(found):
        own = select(found, network=name)
        most = max((e.images or 0 for e in own), default=0)
        layout = {"rows": {"tuning": "item", "state": "scheme"}, "columns": "bits"}
        layout["heads"] = {widths: f"W{widths.replace('/', 'A')}" for widths in WIDTHS}
        made.append(
            pivot(
                select(own, metric=("top1", "top5", "p_value")),
                title=f"{name}: top-1 / top-5, %, on held-out images",
                cell=lambda cell, most=most: _judged(cell, most),
                **layout,
            )
        )
        made.append(
            pivot(
                select(own, metric=("seconds", "float_passes", "naive_float_passes")),
                title=f"{name}: seconds of tuning (passes through the network, of which a naive search needs)",
                cell=_cost,
                **layout,
            )
        )
    return made


def _judged(cell: Cell, most: int) -> str:
    entry = cell.get("p_value")
    p = "" if entry is None or entry.value is None else f", p {entry.value:.2g}"
    return accuracy(cell, most) + p


def _cost(cell: Cell) -> str:
    text = number(cell, "seconds", 0)
    if "float_passes" in cell and cell["float_passes"].value is not None:
        text += f" ({number(cell, 'float_passes', 0)} of {number(cell, 'naive_float_passes', 0)})"
    return text


def draw(found: Sequence[Entry]) -> Figure:
    """Draw top-1 before and after as dumbbells, one row per width and way of tuning."""
    names = networks_of(found)
    lines = {name: _dumbbells(select(found, network=name, metric="top1")) for name in names}
    height = max([len(of) for of in lines.values()] + [4])
    figure = new_figure(max(10, 4.6 * len(names)), 0.24 * height + 1.1)  # the names of the rows take half of a panel
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        axes.set_title(f"{name}: top-1, %")
        if not lines[name]:
            says_not_run(axes)
            axes.set_xticks([])
            axes.set_yticks([])
            continue
        for place, (_, points, colour) in enumerate(lines[name]):
            axes.plot([100 * v for v in points], [place] * len(points), color=LIGHT, lw=2, zorder=1)
            axes.plot(100 * points[0], place, "o", color="white", mec=GREY, ms=6)
            for value in points[1:-1]:
                axes.plot(100 * value, place, "|", color=colour, ms=8)
            axes.plot(100 * points[-1], place, "o", color=colour, ms=6)
        axes.set_yticks(range(len(lines[name])), [label for label, _, _ in lines[name]], fontsize=8)
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
    return figure


def _dumbbells(found: Sequence[Entry]) -> list[tuple[str, list[float], str]]:
    """Return label, values from before to after, and colour of every way of tuning that was run."""
    made = []
    value = {(e.item, e.scheme, e.bits): e.value for e in found if e.value is not None}
    for widths in WIDTHS:
        label = f"W{widths.replace('/', 'A')}"
        for item in dict.fromkeys(e.item for e in found if e.item != OTHERS):
            points = [value[key] for stage in (STAGES | FINISH).values() if (key := (item, stage, widths)) in value]
            if len(points) > 1:
                short = item.replace(f"{SEARCH} on top1", "search")
                made.append((f"{label} {short}", points, BLUE))
        for method in METHODS[1:]:
            before, after = (value.get((OTHERS, m, widths)) for m in ("before", method))
            if after is not None:
                points = [after] if before is None else [before, after]
                made.append((f"{label} {method}", points, GREEN if method == "gradient" else ORANGE))
    return made


CONTENT = Content(
    name="T4",
    title="Tuning: the backward-forward search sweep by sweep, and gradients",
    about=(
        "The untuned network is that of the default scheme. Images that tune, calibrate and evaluate are disjoint. p: "
        "McNemar's exact test against the untuned network. The search of SqueezeNet takes 64 of the 900 held-out "
        "images to tune, and 300 others to evaluate; the gradients take 200, and 700: compare with the `before` of the "
        "same row group. `bits`: widths per layer at the same average. Seconds are wall time, on whatever else the "
        "machine did."
    ),
    sources=("backward_forward.jsonl", "gradient_tuning.json"),
    metrics=METRICS,
    entries=entries,
    tables=tables,
    draw=draw,
    caption=(
        "Top-1 before (open) and after (filled): blue the search, with its backward sweep as a bar; green gradients; "
        "orange bias correction, equalization and widths per layer. A lone dot: `before` was not run."
    ),
)
