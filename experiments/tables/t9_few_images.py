"""T9, few images: SQNR and top-1 with 1 to 512 calibration images, on counted and on predictive histograms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.configs.few_images import BITS, KINDS, SCHEMES, FewImages
from experiments.tables.content import Content
from experiments.tables.entries import (
    Cell,
    Entry,
    by_images,
    lookup,
    measured,
    networks_of,
    number,
    on_images,
    pivot,
    select,
)
from experiments.tables.plots import BLUE, GREEN, GREY, LIGHT, ORANGE, figure_of_panels, says_not_run
from experiments.tables.results import Results
from experiments.tables.results import networks_of as networks_in
from experiments.tables.table import Table
from ggdjax import schemes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {
    "counted": "mean SQNR over the feature maps, dB, steps from counted histograms, mean over the draws",
    "predictive": "the same from predictive histograms",
    "top1_counted": "top-1, steps from counted histograms, weights to nearest per channel",
    "top1_predictive": "the same from predictive histograms",
}
#: Lines that are drawn: scheme and kind of histogram -> colour.
DRAWN = {("ggd", "predictive"): BLUE, ("ggd", "counted"): GREEN, ("mse-search", "counted"): ORANGE}
DRAWN |= {("max-abs", "counted"): GREY, ("kl", "counted"): LIGHT}


def entries(results: Results) -> list[Entry]:
    """Return means over all draws; `item` is the number of images."""
    return _of(results, "few-images", "mean_sqnr_db", "") + _of(results, "few-images-accuracy", "top1", "top1_")


def _of(results: Results, experiment: str, figure: str, prefix: str) -> list[Entry]:
    rows = results.rows(experiment, every_seed=True)
    found: dict[tuple[str, int, str, int, str], list[float]] = {}
    places: dict[tuple[str, int], str] = {}
    evaluated: dict[tuple[str, int], int | None] = {}
    for row in rows:
        places.setdefault((row["network"], row["calibration_images"]), row["place"])
        evaluated.setdefault(
            (row["network"], row["calibration_images"]), row.get("held_out_images") if prefix else None
        )
        for scheme, kinds in row[figure].items():
            for kind, values in kinds.items():
                for bits, value in zip(row["bits"], values, strict=True):
                    found.setdefault((row["network"], row["calibration_images"], scheme, bits, kind), []).append(value)
    made = []
    for name in networks_in(rows):
        own = [row for row in rows if row["network"] == name]
        widths = list(dict.fromkeys(bits for row in own for bits in row["bits"])) or BITS
        tried = list(dict.fromkeys(s for row in own for s in row[figure])) or SCHEMES
        for images in sorted({row["calibration_images"] for row in own}) or FewImages.images:
            for bits in widths:
                for scheme in tried:
                    for kind in KINDS:
                        values = found.get((name, images, scheme, bits, kind))
                        key = {"network": name, "item": str(images), "scheme": scheme, "bits": str(bits)}
                        key |= {"row": places.get((name, images)), "images": evaluated.get((name, images))}
                        value = float(np.mean(values)) if values else None
                        made.append(Entry(**key, metric=prefix + kind, value=value))
    return made


def tables(found: Sequence[Entry]) -> list[Table]:
    """Return tables per network and width, of SQNR and of top-1: counted / predictive."""
    return [
        pivot(
            part,
            title=f"{name}, {widths.format(bits)}: {what} by the number of images, counted / predictive"
            + on_images(label),
            rows={"scheme": "scheme"},
            columns="item",
            cell=cell,
        )
        for name in networks_of(found)
        for what, prefix, widths, cell in (
            ("mean SQNR in dB", "", "{} bits", _pair),
            ("top-1 in %", "top1_", "W{0}A{0}", _shares),
        )
        for bits in dict.fromkeys(e.bits for e in select(found, network=name))
        if (group := measured(_with(found, name, bits, prefix), "scheme"))
        for label, part in by_images(group).items()
    ]


def _with(found: Sequence[Entry], name: str, bits: str, prefix: str) -> list[Entry]:
    metrics = {prefix + kind for kind in KINDS}
    return [entry for entry in select(found, network=name, bits=bits) if entry.metric in metrics]


def _pair(cell: Cell) -> str:
    return " / ".join(number(cell, kind) for kind in KINDS)


def _shares(cell: Cell) -> str:
    return " / ".join(number(cell, f"top1_{kind}", scale=100) for kind in KINDS)


def draw(found: Sequence[Entry]) -> Figure:
    """Draw SQNR at 8 bits against the number of images, one panel per network."""
    names = networks_of(found)
    figure, panels = figure_of_panels(len(names), 2.8, 0.3)
    for axes, name in zip(panels, names, strict=True):
        bits = next(e.bits for e in select(found, network=name))
        value = lookup(select(found, network=name, bits=bits), "scheme", "metric", "item")
        axes.set_title(f"{name}: mean SQNR at {bits} bits, dB, by images")
        if not value:
            says_not_run(axes)
            continue
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
        for (scheme, kind), colour in DRAWN.items():
            points = [(int(item), v) for (s, k, item), v in value.items() if (s, k) == (scheme, kind)]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=".", label=f"{scheme}, {kind}")
        if scheme_lines := axes.get_lines():
            axes.legend(scheme_lines, [line.get_label() for line in scheme_lines], fontsize=7, frameon=False)
    return figure


CONTENT = Content(
    name="T9",
    title="Few images: SQNR and top-1 with 1 to 512 calibration images",
    about=(
        "Each feature map alone in the float network, one step per tensor, evaluated on all held-out images; mean over "
        "draws of the calibration images (ImageNet sample: out of its 100). Predictive histograms add what the next "
        "image may hold; `ggd` uses them by default below 1,000 images. Top-1: of the networks with these steps, "
        "weights to nearest with a fractional length per channel, one draw. Searches: "
        f"{', '.join(f'`{s}`' for s in SCHEMES if schemes.get(s).kind is schemes.SchemeClass.SEARCH)}."
    ),
    sources=("few-images", "few-images-accuracy"),
    metrics=METRICS,
    entries=entries,
    tables=tables,
    draw=draw,
    caption="SQNR against the number of images at the largest width.",
)
