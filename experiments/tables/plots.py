"""How the plots look: colours that the colour-blind tell apart, labels at the lines, the same bytes each time."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito 2008.
BLUE, ORANGE, GREEN, PINK, SKY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
GREY, LIGHT = "#777777", "#C8C8C8"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "svg.hashsalt": "ggdjax",
    "svg.fonttype": "none",
}


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of its own, in inches, not registered with pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def figure_of_panels(count: int, height: float, rest: float, **shared: bool) -> tuple[Figure, list[Axes]]:
    """Return a figure of so many panels, two in a row, each ``height`` inches high, and the panels."""
    rows = (count + 1) // 2
    figure = new_figure(10, height * rows + rest)
    panels = figure.subplots(rows, 2, squeeze=False, **shared).ravel()
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, list(panels[:count])


def save(figure: Figure, stem: Path, *, pdf: bool) -> None:
    """Write SVG and PNG, small, and PDF where asked for; the same figure makes the same bytes."""
    from PIL import Image

    text, pixels = io.StringIO(), io.BytesIO()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # one layout for all files
    figure.savefig(text, format="svg", metadata={"Date": None})
    # A hundredth of a point is seen by nobody; what stands between the tags is read.
    short = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag.group()), text.getvalue())
    stem.with_suffix(".svg").write_text(short, encoding="utf-8")
    figure.savefig(pixels, format="png", dpi=100)
    small = Image.open(pixels).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(stem.with_suffix(".png"), optimize=True)
    if pdf:
        figure.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None})


def says_not_run(axes: Axes) -> None:
    """Say in an empty plot that it has no results."""
    axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", va="center", color=GREY)


def labelled_bars(axes: Axes, bars: Sequence[tuple[str, float]], digits: str, size: float) -> None:
    """Draw horizontal bars with their labels and values, the first on top; letters of ``size`` points."""
    if not bars:
        says_not_run(axes)
    for place, (_, value) in enumerate(bars):
        axes.barh(place, value, color=BLUE)
        axes.text(value, place, f" {value:{digits}}", va="center", fontsize=size)
    axes.set_yticks(range(len(bars)), [label for label, _ in bars], fontsize=size)
    axes.invert_yaxis()
    axes.margins(x=0.15)


def label_ends(axes: Axes, x: float, labels: Sequence[tuple[float, str, str]], gap: float) -> None:
    """Write (y, text, colour) at the ends of lines, moved apart to at least ``gap`` of the axis' height."""
    low, high = axes.get_ylim()
    least = gap * (high - low)
    order = sorted(labels, key=lambda label: label[0])
    places = [min(max(y, low), high) for y, _, _ in order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + least)
    if places:
        places[-1] = min(places[-1], high)
    for i in range(len(places) - 2, -1, -1):
        places[i] = min(places[i], places[i + 1] - least)
    for place, (y, text, colour) in zip(places, order, strict=True):
        weight = "bold" if text == "ggd" else "normal"
        axes.annotate(
            text,
            (x, min(max(y, low), high)),
            xytext=(1.04, (place - low) / (high - low)),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            fontweight=weight,
            color=colour,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": LIGHT, "lw": 0.6, "shrinkA": 0, "shrinkB": 1},
        )


def heat_map(
    axes: Axes,
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    texts: Sequence[Sequence[str]],
    *,
    colours: str,
    low: float,
    high: float,
) -> None:
    """Draw figures as coloured cells with their texts; None is white and says so."""
    import numpy as np

    array = np.array([[np.nan if v is None else v for v in row] for row in values], float)
    image = axes.imshow(array, cmap=colours, vmin=low, vmax=high, aspect="auto")
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            colour = GREY
            if not np.isnan(array[i, j]):
                red, green, blue, _ = image.cmap(image.norm(array[i, j]))
                colour = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
