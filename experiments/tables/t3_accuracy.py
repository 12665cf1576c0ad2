"""T3, accuracy: top-1 and top-5 of every scheme on every network at every width, and what other tools reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experiments.peers.ours import ROUNDED
from experiments.tables.content import Content
from experiments.tables.entries import (
    Cell,
    Entry,
    accuracies,
    by_images,
    lookup,
    measured,
    networks_of,
    number,
    on_images,
    percentages,
    pivot,
    select,
    width_heads,
)
from experiments.tables.plots import BLUE, GREEN, GREY, LIGHT, ORANGE, figure_of_panels, label_ends, says_not_run
from experiments.tables.results import Results
from experiments.tables.results import networks_of as networks_in
from experiments.tables.t2_feature_maps import BITS, NAMED
from experiments.tables.table import Table
from ggdjax import schemes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = {
    "top1": "top-1, fraction",
    "top5": "top-5, fraction",
    "run_top1": "top-1 of a run of all tools one after the other, fraction",
    "run_seconds": "CPU seconds of calibration in that run, of all threads",
    "run_passes": "the same over those of one float pass by ONNX Runtime",
}
WIDTHS = tuple(f"{bits}/{bits}" for bits in BITS)
#: Widths of weights and feature maps that other tools were measured at.
PEER_WIDTHS = ("8/8", "6/6", "5/5", "4/4", "8/6", "8/4", "4/8")
#: Widths at which all tools were measured in one run.
RUN_WIDTHS = ("8/8", "6/6", "4/8", "4/4")
FLOAT = "float"
OURS, BY_CHANNEL = "ggdjax, tensor", "ggdjax, channel"
GRADIENT, SEARCHED = "ggd, gradient tuning", "ggd, backward-forward"


def entries(results: Results) -> list[Entry]:
    """Return our schemes, then ours beside other tools (`item` is the tool and what shares a weight step)."""
    found = {
        (row["network"], row["scheme"], _pair(row["bits"])): row
        for row in results.rows("schemes")
        if row["kind"] == "accuracy"
    }
    names = networks_in(
        [
            *found.values(),
            *(row for source in ("gradient", "rounding", "tuning", "paper") for row in results.rows(source)),
        ]
    )
    made = []
    for name in names:
        made += _of(results, found.get((name, FLOAT, FLOAT)), network=name, scheme=FLOAT, bits=FLOAT)
        for scheme in schemes.names():
            for widths in WIDTHS:
                made += _of(results, found.get((name, scheme, widths)), network=name, scheme=scheme, bits=widths)
    for name in names:
        ours = _ours(results, name, found)
        beside = ours | _peers(results, name) | ours  # ours come first, and have the last word on themselves
        for item, scheme in dict.fromkeys((item, scheme) for item, scheme, _ in beside):
            for widths in PEER_WIDTHS:
                row = beside.get((item, scheme, widths))
                made += _of(results, row, network=name, item=item, scheme=scheme, bits=widths)
        made += _in_one_run(results, name)
    return made


def _in_one_run(results: Results, name: str) -> list[Entry]:
    """Return accuracy and time of every tool in the newest named run (``python -m experiments.peers --run NAME``)."""
    rows = [row for row in results.peers() if "run" in row and row["network"] == name]
    made = []
    for row in rows:
        if row["run"] == rows[-1]["run"]:
            item = f"{row['tool']} {row['version']}, {row['weights_per']}"
            key = {"network": name, "item": item, "scheme": row["scheme"], "bits": row["widths"]}
            key |= results.said_of(row)
            made.append(replace(accuracies(top1=row["top1"], top5=None, **key)[0], metric="run_top1"))
            seconds = row["calibration_cpu_seconds"]
            made.append(Entry(metric="run_seconds", value=seconds, **key))
            made.append(Entry(metric="run_passes", value=seconds / row["float_pass_cpu_seconds"], **key))
    return made


def _pair(bits: int | str) -> str:
    return FLOAT if bits == 32 else f"{bits}/{bits}"


def _of(results: Results, row: dict[str, Any] | None, **key: str) -> list[Entry]:
    row = row or {}
    return accuracies(top1=row.get("top1"), top5=row.get("top5"), **results.said_of(row), **key)


def _ours(results: Results, name: str, found: dict) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return the default scheme at every pair of widths, and tuned."""
    rows = {(OURS, "ggd", widths): row for widths in PEER_WIDTHS if (row := found.get((name, "ggd", widths)))}
    for row in results.rows("gradient"):
        if row["network"] == name and row["method"] == "before":
            rows.setdefault((OURS, "ggd", row["widths"]), row)
        if row["network"] == name and row["method"] == "gradient":
            rows[OURS, GRADIENT, row["widths"]] = row
    for row in results.rows("rounding"):
        if row["network"] == name and "equalized" not in row["stages"]:
            own = {key: row[key] for key in ("network", "images", "place") if key in row}
            rows[OURS if row["per"] == "tensor" else BY_CHANNEL, ROUNDED, row["widths"]] = own | row["stages"]["output"]
    for row in results.rows("paper"):
        for stage, figures in row["stages"].items() if row["network"] == name else ():
            own = {key: row[key] for key in ("network", "images", "place") if key in row}
            rows[OURS, f"recipe {row['recipe']}, {stage}", row["widths"]] = own | figures
    for row in results.rows("tuning"):
        if row["network"] == name and row.get("rounding", "nearest") == "nearest":
            own = {key: row[key] for key in ("network", "images", "tuning_images", "place") if key in row}
            rows[OURS, SEARCHED, row["widths"]] = own | row["stages"]["forward"]
    return rows


def _peers(results: Results, name: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {
        (f"{row['tool']}, {row['weights_per']}", row["scheme"], row["widths"]): row
        for row in results.peers()
        if row["network"] == name
    }


def tables(found: Sequence[Entry]) -> list[Table]:
    """Return, per network, our schemes and the other tools."""
    made = []
    for name in networks_of(found):
        own = [e for e in select(found, network=name) if not e.item]
        if any(e.value is not None for e in select(found, network=name)) and all(e.value is None for e in own):
            own = []
        real = {e.metric: e for e in own if e.bits == FLOAT}
        for label, group in by_images(e for e in own if e.bits != FLOAT).items():
            text = (
                f", float {percentages(real)}" if real and label in ("", f"{real['top1'].images or 0:,} images") else ""
            )
            made.append(
                pivot(
                    measured(measured(group, "scheme"), "bits"),
                    title=f"{name}: top-1 / top-5, %{on_images(label)}{text}",
                    rows={"scheme": "scheme"},
                    columns="bits",
                    heads=width_heads(WIDTHS),
                    cell=percentages,
                )
            )
        beside = [e for e in select(found, network=name, metric=("top1", "top5")) if e.item]
        for label, group in by_images(beside).items():
            made.append(
                pivot(
                    measured(group, "bits"),
                    title=f"{name}: beside other tools, top-1 / top-5, %{on_images(label)}",
                    rows={"tool, a weight step per": "item", "scheme": "scheme"},
                    columns="bits",
                    heads=width_heads(PEER_WIDTHS),
                    cell=percentages,
                    best=lambda cell: cell["top1"].value if "top1" in cell else None,
                )
            )
        if in_one_run := select(found, network=name, metric=("run_top1", "run_seconds", "run_passes")):
            made.append(
                pivot(
                    in_one_run,
                    title=f"{name}: in one run, top-1, % (CPU seconds of calibration, over one float pass)",
                    rows={"tool, a weight step per": "item", "scheme": "scheme"},
                    columns="bits",
                    heads=width_heads(RUN_WIDTHS),
                    cell=_accuracy_and_time,
                    best=lambda cell: cell["run_top1"].value if cell else None,
                )
            )
    return made


def _accuracy_and_time(cell: Cell) -> str:
    seconds = cell["run_seconds"].value
    shown = f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}"
    return f"{number(cell, 'run_top1', 2, 100)} ({shown} s, {number(cell, 'run_passes', 0)})"


def draw(found: Sequence[Entry]) -> Figure:
    """Draw top-1 against widths: our schemes as lines, other tools as crosses."""
    names = networks_of(found)
    figure, panels = figure_of_panels(len(names), 3.2, 0.4)
    for axes, name in zip(panels, names, strict=True):
        _panel(axes, select(found, network=name, metric="top1"), name)
    return figure


def _panel(axes: Axes, found: Sequence[Entry], name: str) -> None:
    order = WIDTHS[::-1]
    # Accuracies on fewer images than the others are not comparable.
    most = max((e.images or 0 for e in found), default=0)
    own = lookup([e for e in found if not e.item and e.images == most], "scheme", "bits")
    axes.set_title(f"{name}: top-1, %")
    axes.set_xticks(range(len(order)), width_heads(order).values(), fontsize=8)
    axes.set_xlim(-0.3, len(order) - 0.7)
    axes.grid(alpha=0.3)
    if not own:
        says_not_run(axes)
        return
    ends = []
    if (FLOAT, FLOAT) in own:
        axes.axhline(100 * own[FLOAT, FLOAT], color="black", lw=0.8, ls=":")
        ends.append((100 * own[FLOAT, FLOAT], "float", "black"))
    for scheme in sorted({scheme for scheme, _ in own} - {FLOAT}, key=lambda scheme: (scheme == "ggd", scheme)):
        points = [(i, 100 * own[scheme, widths]) for i, widths in enumerate(order) if (scheme, widths) in own]
        style = {"color": NAMED.get(scheme, LIGHT), "lw": 2.6 if scheme == "ggd" else 0.9, "marker": ".", "ms": 4}
        axes.plot(*zip(*points, strict=True), zorder=3 if scheme == "ggd" else 1 + (scheme in NAMED), **style)
        if scheme in ("ggd", "max-abs") or (scheme == "kl" and points[-1][0] == len(order) - 1):
            ends.append((points[-1][1], scheme, NAMED[scheme]))
    beside = [e for e in found if e.item and e.value is not None and e.bits in order]
    tools = [e for e in beside if e.item != OURS]
    groups = [(tools, "x", GREY, "other tools")]
    for scheme, colour, marker in ((ROUNDED, BLUE, "s"), (GRADIENT, GREEN, "D"), (SEARCHED, ORANGE, "^")):
        groups.append((select(beside, item=OURS, scheme=scheme), marker, colour, scheme))
    for group, marker, colour, label in groups:
        if group:
            x = [order.index(e.bits) - 0.08 for e in group]
            axes.plot(x, [100 * e.value for e in group], marker, color=colour, ms=4.5, label=label)
    if any(group for group, *_ in groups):
        axes.legend(fontsize=8, frameon=False, loc="best", bbox_to_anchor=(0.03, 0.03, 0.92, 0.94))
    axes.set_ylim(bottom=0)
    label_ends(axes, len(order) - 1, ends, 0.08)


CONTENT = Content(
    name="T3",
    title="Accuracy: every scheme, network and width, and other tools",
    about=(
        "W6A4: weights of 6 bits, feature maps of 4; biases 16 bits, one step per tensor, weights in fixed point. "
        "CIFAR-10: 512 calibration images, all 10,000 test images; ImageNet sample: 100 and 900. Figures on other "
        "images have a table of their own. 95 % intervals (Wilson) are in the CSV file: about ±0.8 "
        "points at 10,000 images and ±3 at 900. Bold: the highest top-1 of a width beside other tools, whatever it "
        "costs. The tools place their quantizers as they see fit (see `peers/README.md`); tuned networks stand on "
        "images that did not tune."
    ),
    sources=("schemes", "peers", "rounding", "gradient", "tuning", "paper"),
    metrics=METRICS,
    entries=entries,
    tables=tables,
    draw=draw,
    shows=lambda name, cell: name != "schemes" or cell["kind"] == "accuracy",
    caption=(
        "Top-1 against widths: `ggd` bold, other schemes grey, other tools as crosses; `ggd` with weights rounded for "
        "the output, the default of `ggdjax quantize`, as blue squares; tuned by gradients as green diamonds, by the "
        "backward-forward search as orange triangles, both on the images that did not tune."
    ),
)
