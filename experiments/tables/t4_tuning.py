"""T4, tuning: accuracy sweep by sweep of the backward-forward search, and by gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiments.configs.gradient import METHODS
from experiments.configs.tuning import Tuning
from experiments.tables.content import Content
from experiments.tables.entries import (
    Cell,
    Entry,
    accuracies,
    by_images,
    measured,
    networks_of,
    number,
    percentages,
    pivot,
    select,
    width_heads,
)
from experiments.tables.plots import BLUE, GREEN, GREY, LIGHT, ORANGE, new_figure, says_not_run
from experiments.tables.results import Results
from experiments.tables.results import networks_of as networks_in
from experiments.tables.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {
    "top1": "top-1, fraction",
    "top5": "top-5, fraction",
    "p_value": "McNemar's exact test against the untuned network",
    "own_untuned": "top-1 of the untuned network that this one was tuned from, where that is another figure",
    "seconds": "seconds of tuning, compiling included",
    "float_passes": "work of the search in passes through the network over the tuning images",
    "naive_float_passes": "the same of a search that runs the whole network for every candidate",
}
WIDTHS = Tuning.widths
UNTUNED, SEARCH, OTHERS = "untuned", "backward-forward", "gradients and others"
#: Stage of a search -> how it reads.
STAGES = {"backward": "after the backward sweep", "forward": "after the forward sweep"}
#: What the runner may add to a search.
FINISH = {"gradient": "then by gradients"}


def entries(results: Results) -> list[Entry]:
    """Return the untuned networks, the stages of every search, and the other ways of tuning; `item` says which.

    One network at one pair of widths on the same images has one untuned figure. Where what was tuned started from
    another, measured with another version of the code, that one stands in the metric ``own_untuned``.
    """
    made = []

    def images_of(row: dict) -> tuple[Any, ...]:
        return tuple(results.images_of(row).values())

    searches, others = results.rows("tuning"), results.rows("gradient")
    schemes = [row for row in results.rows("schemes") if (row["kind"], row["scheme"]) == ("accuracy", "ggd")]
    for name in networks_in([*searches, *others]):
        every = max((row["held_out_images"] for row in schemes if row["network"] == name), default=0)
        found = [row | {"widths": f"{row['bits']}/{row['bits']}"} for row in schemes if row["held_out_images"] == every]
        found += [row for row in others if row["method"] == "before"]
        found += [_stage(row, "before") for row in searches if row.get("rounding", "nearest") == "nearest"]
        own = [row if "method" in row else _stage(row, "before") for row in (*searches, *others)]
        evaluated = {images_of(row) for row in own if row["network"] == name}
        untuned = {}
        for row in found:
            if row["network"] == name and images_of(row) in evaluated:
                untuned.setdefault((row["widths"], images_of(row)), row)
        for images in sorted(evaluated, key=str) or [None]:
            for widths in WIDTHS:
                row = untuned.get((widths, images), {})
                made += _figures(results, row, network=name, item=UNTUNED, scheme="ggd", bits=widths)
        runs = {_run(row): {} for row in searches if row["network"] == name}
        for row in searches:
            if row["network"] == name:
                runs[_run(row)][row["widths"]] = row
        for item, by_widths in runs.items():
            for widths in WIDTHS:
                made += _search(results, by_widths.get(widths, {}), untuned, network=name, item=item, bits=widths)
        rows = {(row["method"], row["widths"]): row for row in others if row["network"] == name}
        # Not every method is for every network: one that has run at no width has no line.
        for method in [m for m in METHODS if m != "before" and any((m, widths) in rows for widths in WIDTHS)]:
            for widths in WIDTHS:
                row = rows.get((method, widths), {})
                key = {"network": name, "item": OTHERS, "scheme": method, "bits": widths}
                made += _figures(results, row, **key)
                if row:
                    made += _other_start(results, rows.get(("before", widths), {}), untuned, **key)
                made.append(Entry(**key, metric="seconds", value=row.get("tuning_seconds"), row=row.get("place")))
    return made


def _run(row: dict) -> str:
    seed = f", seed {row['seed']}" if row["seed"] else ""
    rounded = ", weights rounded for the output" if row.get("rounding") == "output" else ""
    return f"{SEARCH} on {row['objective']}, {row['tuning_images']:,} images{rounded}{seed}"


def _stage(row: dict, stage: str) -> dict:
    """Return the figures of one stage as a row of its own."""
    kept = ("network", "widths", "images", "tuning_images", "place")
    return {**{key: row[key] for key in kept if key in row}, **row.get("stages", {}).get(stage, {})}


def _figures(results: Results, row: dict, **key: str) -> list[Entry]:
    return accuracies(top1=row.get("top1"), top5=row.get("top5"), **results.said_of(row), **key)


def _other_start(results: Results, before: dict, untuned: dict, **key: str) -> list[Entry]:
    """Return the untuned figure of a tuned network where it is not the one of the table."""
    one = untuned.get((key["bits"], tuple(results.images_of(before).values())), before)
    if before.get("top1") == one.get("top1"):
        return []
    return [Entry(**key, metric="own_untuned", value=before["top1"], **results.said_of(before))]


def _search(results: Results, row: dict, untuned: dict, **key: str) -> list[Entry]:
    made = []
    rounded = row.get("rounding", "nearest") != "nearest"
    finish = {stage: label for stage, label in FINISH.items() if stage in row.get("stages", {})}
    first = {"before": "before"} if rounded else {}
    for stage, label in (first | STAGES | finish).items():
        found = _stage(row, stage)
        made += _figures(results, found, scheme=label, **key)
        if stage != "before":
            made.append(
                Entry(**key, scheme=label, metric="p_value", value=found.get("p_value"), **results.said_of(found))
            )
            if not rounded and row:
                made += _other_start(results, _stage(row, "before"), untuned, scheme=label, **key)
    costs = {"seconds": "search_seconds", "float_passes": "float_passes", "naive_float_passes": "naive_float_passes"}
    label = STAGES["forward"]
    key |= {"scheme": label, "row": row.get("place")}
    return made + [Entry(**key, metric=metric, value=row.get(name)) for metric, name in costs.items()]


def tables(found: Sequence[Entry]) -> list[Table]:
    """Return, per network and images, accuracies, and what they cost."""
    made = []
    for name in networks_of(found):
        own = select(found, network=name)
        layout = {"rows": {"tuning": "item", "state": "scheme"}, "columns": "bits"}
        layout["heads"] = width_heads(WIDTHS)
        for label, group in by_images(select(own, metric=("top1", "top5", "p_value", "own_untuned"))).items():
            made.append(
                pivot(
                    measured(group, "bits"),
                    title=f"{name}: top-1 / top-5, %, on {label or 'images'} held out",
                    cell=_accuracy,
                    **layout,
                )
            )
        cost = measured(select(own, metric=("seconds", "float_passes", "naive_float_passes")), "bits")
        title = f"{name}: seconds of tuning (passes through the network, of which a naive search needs)"
        if cost:
            made.append(pivot(cost, title=title, cell=_cost, **layout))
    return made


def _accuracy(cell: Cell) -> str:
    entry = cell.get("p_value")
    p = "" if entry is None or entry.value is None else f", p {entry.value:.2g}"
    return percentages(cell) + (" †" if "own_untuned" in cell else "") + p


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
    value = {(e.item, e.scheme, e.bits): e for e in found if e.value is not None}
    start = {(e.bits, e.images): e.value for e in found if e.item == UNTUNED and e.value is not None}
    for widths, label in width_heads(WIDTHS).items():
        for item in dict.fromkeys(e.item for e in found if e.item not in (OTHERS, UNTUNED)):
            stages = [value[k] for s in ("before", *(STAGES | FINISH).values()) if (k := (item, s, widths)) in value]
            points = [e.value for e in stages]
            if stages and stages[0].scheme != "before" and (widths, stages[0].images) in start:
                points.insert(0, start[widths, stages[0].images])
            if len(points) > 1:
                short = item.replace(f"{SEARCH} on top1", "search")
                made.append((f"{label} {short}", points, BLUE))
        for method in METHODS:
            after = value.get((OTHERS, method, widths))
            if after is not None:
                before = [start[widths, after.images]] if (widths, after.images) in start else []
                made.append((f"{label} {method}", [*before, after.value], GREEN if method == "gradient" else ORANGE))
    return made


CONTENT = Content(
    name="T4",
    title="Tuning: the backward-forward search sweep by sweep, and gradients",
    about=(
        "The untuned network is that of the default scheme. Images that tune, calibrate and evaluate are disjoint. p: "
        "McNemar's exact test against the untuned network that was tuned. †: that one has another figure than the "
        "one of this table: it was made by another version of the code. `bits`: widths per layer at "
        "the same average. Seconds are wall time, on whatever else the machine did."
    ),
    sources=("tuning", "gradient", "schemes"),
    metrics=METRICS,
    entries=entries,
    tables=tables,
    draw=draw,
    shows=lambda name, cell: name != "schemes" or (cell["kind"], cell["scheme"]) == ("accuracy", "ggd"),
    caption=(
        "Top-1 before (open) and after (filled): blue the search, with its backward sweep as a bar; green gradients; "
        "orange bias correction, equalization and widths per layer. A lone dot: the untuned network was not run."
    ),
)
