"""What a quantized network costs on an accelerator, as a plain record; and the plot of energy against SQNR."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ggdjax import cost
from ggdjax._errors import GgdjaxError, expect, expect_record
from ggdjax.cost import Widths
from ggdjax.cost._hardware_model import FIXED16, FLOAT32
from ggdjax.report._colours import BLUE, GREEN, ORANGE
from ggdjax.report._comparison import WIDTHS
from ggdjax.report._distortion import plain_log_scale

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure

    from ggdjax.quantization import QuantizedNetwork
    from ggdjax.recipe import Pareto

#: Cost of a point -> label of its axis, and its unit.
_FRONTS = {
    "weight_bytes": ("weights, kB", 1e3),
    "dram_bytes": ("traffic per image, kB (modelled)", 1e3),
    "energy_pj": ("energy per image, µJ (modelled)", 1e6),
}


def cost_record(quantized: QuantizedNetwork) -> dict[str, Any]:
    """Return the cost of one image on the default hardware, by `ggdjax.cost.estimate`.

    Keys: ``totals``; ``at``: totals by widths, ``float32``, ``16/16`` and ``b/b`` for 3 to 8 bits; ``layers``: one
    record each; ``hardware``. Or ``not_modelled`` alone: why the model has no answer for this network.
    """
    expect("quantized", quantized, "QuantizedNetwork")
    try:
        found = cost.estimate(quantized)
        others = (FLOAT32, FIXED16, *(Widths(weight_bits=bits, activation_bits=bits) for bits in WIDTHS))
        return {
            "totals": found.totals(),
            "at": {widths.name: found.at(widths).totals() for widths in others},
            "layers": found.rows(),
            "hardware": asdict(found.hardware),
        }
    except GgdjaxError as error:
        return {"not_modelled": str(error)}


def plot_pareto(
    cost: Mapping[str, Any],
    mean_sqnr_db: Mapping[str, Mapping[str, float | None]],
    scheme: str,
    *,
    measured_sqnr_db: float | None,
    label: str,
) -> Figure:
    """Draw the mean SQNR of the feature maps against the energy of one image, for all schemes at 3 to 8 bits.

    Args:
        cost: of the run, by `cost_record`.
        mean_sqnr_db: by scheme and width, on calibration histograms; see `compare_schemes`.
        scheme: the run's own, whose points are joined.
        measured_sqnr_db: the run's own on held-out images.
        label: stands at the run's own point.

    Returns:
        A matplotlib figure of its own, not registered with pyplot: save it with ``figure.savefig``.
    """
    from matplotlib.figure import Figure

    expect_record("cost", cost, ("at", "totals"), "`cost_record` returns one")
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    energy = {width: cost["at"][f"{width}/{width}"]["energy_pj"] / 1e6 for width in WIDTHS}
    for name, by_width in mean_sqnr_db.items():
        style = {"color": "0.65", "marker": "_", "linestyle": "none", "markersize": 9}
        if name == scheme:
            style = {"color": BLUE, "marker": "o", "markersize": 5, "label": f"{name}, predicted", "zorder": 3}
        elif name == "max-abs":
            style = {"color": ORANGE, "marker": "s", "markersize": 4, "linestyle": ":", "label": name}
        points = [(energy[width], by_width[str(width)]) for width in WIDTHS if by_width[str(width)] is not None]
        axes.plot(*zip(*points, strict=True), **style)
    axes.plot([], [], color="0.65", marker="_", linestyle="none", markersize=9, label="every other scheme")
    for width in WIDTHS:
        value = mean_sqnr_db[scheme][str(width)]
        if value is not None:
            where = {"xytext": (-6, 5), "textcoords": "offset points", "ha": "right", "fontsize": 8}
            axes.annotate(f"{width}/{width}", (energy[width], value), color=BLUE, **where)
    if measured_sqnr_db is not None:
        own = (cost["totals"]["energy_pj"] / 1e6, measured_sqnr_db)
        axes.plot(*own, "*", color=GREEN, markersize=14, zorder=4, label=f"this run, measured:\n{label}")
    for name in ("16/16", "float32"):
        axes.axvline(cost["at"][name]["energy_pj"] / 1e6, color="0.5", linestyle="--", linewidth=1)
        at = (cost["at"][name]["energy_pj"] / 1e6, 0.02)
        axes.annotate(name, at, xycoords=("data", "axes fraction"), xytext=(-4, 0), textcoords="offset points",
                      ha="right", rotation=90, fontsize=8, color="0.35")  # fmt: skip
    plain_log_scale(axes)
    axes.set_xlabel("energy per image, µJ (modelled)")
    axes.set_ylabel("mean SQNR of the feature maps, dB")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center right")
    return figure


def plot_front(pareto: Pareto, worth: str = "value") -> Figure:
    """Draw a sweep over widths: accuracy against weight bytes, traffic and energy, each with its Pareto front.

    Args:
        pareto: what `ggdjax.recipe.pareto` returned.
        worth: ``"value"`` by the sweep's metric, with 95 % intervals, or ``"output_sqnr_db"``.

    Returns:
        A matplotlib figure of its own, not registered with pyplot: save it with ``figure.savefig``.

    Raises:
        GgdjaxError: ``pareto`` is something else, or an unknown worth.
    """
    from matplotlib.figure import Figure

    expect("pareto", pareto, "Pareto", hint="`gd.recipe.pareto(net, images)` returns one")
    figure = Figure(figsize=(10.8, 3.8), layout="constrained")
    by_metric = worth == "value"
    percent = 100.0 if by_metric and pareto.metric.unit == "%" else 1.0
    for axes, (name, (label, unit)) in zip(figure.subplots(1, 3, sharey=True), _FRONTS.items(), strict=True):
        front = pareto.front(name, worth)
        line = [(getattr(p, name) / unit, percent * getattr(p, worth)) for p in front]
        axes.plot(*zip(*line, strict=True), color=GREEN, linewidth=1.2, drawstyle="steps-post", label="Pareto front")
        for uniform, marker, colour in ((False, "o", BLUE), (True, "s", ORANGE)):
            points = [p for p in pareto.points if p.uniform == uniform]
            x, y = ([getattr(p, key) / by for p in points] for key, by in ((name, unit), (worth, 1 / percent)))
            shown = "one width for all" if uniform else "a width per layer"
            axes.plot(x, y, marker, color=colour, markersize=5, label=shown)
            if by_metric:
                ends = [[percent * end for end in p.interval] for p in points]
                axes.vlines(x, *(list(zip(*ends, strict=True)) or [[], []]), color=colour, linewidth=0.8, alpha=0.5)
            for p, *at in zip(points, x, y, strict=True):
                axes.annotate(f"{p.mean_bits:g}", at, xytext=(4, -9), textcoords="offset points", fontsize=7)
        if by_metric and math.isfinite(pareto.float_value):
            axes.axhline(percent * pareto.float_value, color="0.5", linestyle="--", linewidth=1, label="float32")
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    first = figure.axes[0]
    unit = pareto.metric.unit
    own = f"{pareto.metric.name}{', ' if unit else ''}{unit} of {pareto.images} images"
    first.set_ylabel(own if by_metric else "SQNR of the output, dB")
    first.legend(fontsize=8, loc="lower right")
    return figure
