"""Plots of schemes side by side: distortion against step for one feature map, and dB lost over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax import schemes
from ggdjax._errors import expect_record, refusal
from ggdjax.report._colours import BLUE, GREEN, ORANGE
from ggdjax.report._comparison import class_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "0.35"
#: Least distance of two labels, as a share of the width.
_APART = 0.036


def plot_distortion(compared: Mapping[str, Any]) -> Figure:
    """Draw the distortion of one feature map against the step, with every scheme's choice marked.

    Args:
        compared: one of ``feature_maps`` of `compare_schemes`.

    Returns:
        A matplotlib figure of its own, not registered with pyplot: save it with ``figure.savefig``.
    """
    from matplotlib.figure import Figure

    expect_record("compared", compared, ("curve", "choices", "own"), "`feature_maps` of `compare_schemes` holds them")
    figure = Figure(figsize=(6.4, 4.2), layout="none")
    axes = figure.subplots()
    figure.subplots_adjust(left=0.12, right=0.98, bottom=0.12, top=0.7)  # fixed: a layout engine takes half a second
    curve = [(x, -y) for x, y in zip(*compared["curve"].values(), strict=True) if y is not None]
    if not curve:
        axes.annotate("nothing is lost at any step", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return figure
    axes.plot(*zip(*curve, strict=True), color=BLUE, linewidth=1.6)
    plain_log_scale(axes)
    axes.set_xlim(curve[0][0], curve[-1][0])
    choices = [(name, c["step"], -c["sqnr_db"]) for name, c in compared["choices"].items() if c["sqnr_db"] is not None]
    if choices:
        _mark(axes, sorted(choices, key=lambda choice: choice[1]))
    own = compared["own"]
    if own["sqnr_db"] is not None:
        axes.axvline(own["step"], color=GREEN, linestyle="--", linewidth=1.2)
        label = f"this run: Δ = {own['step']:.4g}, {own['sqnr_db']:.2f} dB"
        axes.plot(own["step"], -own["sqnr_db"], "o", color=GREEN, markersize=7, label=label, zorder=4)
        # Below the curve, on the side of its least value that has more room.
        right = own["step"] ** 2 < curve[0][0] * curve[-1][0]
        axes.legend(fontsize=8, frameon=False, loc="lower right" if right else "lower left")
    axes.set_xlabel("step Δ")
    axes.set_ylabel("distortion against signal, dB  (−SQNR)")
    axes.grid(alpha=0.3)
    return figure


def plain_log_scale(axes: Axes) -> None:
    """Make the abscissa logarithmic, with ticks at 1, 2 and 5 written as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _mark(axes: Axes, choices: Sequence[tuple[str, float, float]]) -> None:
    """Mark choices, ascending in the step, and write their names above the axes, apart from each other."""
    low, high = np.log(axes.get_xlim())
    wanted = [(np.log(step) - low) / (high - low) for _, step, _ in choices]
    for (name, step, distortion), at in zip(choices, _spread(wanted), strict=True):
        colour = ORANGE if name == "ggd" else _GREY
        axes.plot(step, distortion, "o", color=colour, markersize=3.5, zorder=3)
        axes.annotate(
            name, xy=(step, 1.0), xycoords=("data", "axes fraction"), xytext=(at, 1.07), textcoords="axes fraction",
            rotation=90, ha="center", va="bottom", fontsize=7, color=colour,
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkB": 0, "relpos": (0.5, 0.0)},
        )  # fmt: skip


def _spread(wanted: Sequence[float]) -> list[float]:
    """Return the places nearest to the ascending ``wanted`` ones that are `_APART` from each other, within 0 to 1."""
    from scipy.optimize import isotonic_regression

    offsets = min(_APART, 1.0 / len(wanted)) * np.arange(len(wanted))
    return list(np.clip(isotonic_regression(wanted - offsets).x, 0.0, 1.0 - offsets[-1]) + offsets)


def plot_losses(compared: Sequence[Mapping[str, Any]], own: str) -> Figure:
    """Draw for every scheme how many dB it loses on each feature map against the best choice there.

    Args:
        compared: ``feature_maps`` of `compare_schemes`.
        own: the run's scheme, marked.

    Returns:
        A matplotlib figure of its own, not registered with pyplot: save it with ``figure.savefig``.
    """
    from matplotlib.figure import Figure

    if not isinstance(compared, list | tuple) or not compared:
        raise refusal("compared", compared, "a list of records", "`feature_maps` of `compare_schemes` is one")
    for record in compared:
        expect_record("compared", record, ("choices",), "`feature_maps` of `compare_schemes` holds them")
    losses = losses_db(compared)
    order = sorted(losses, key=lambda name: np.mean(losses[name]), reverse=True)
    figure = Figure(figsize=(7.2, 0.24 * len(order) + 1.0), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(order):
        colour = ORANGE if name == own else BLUE
        axes.plot(losses[name], [place] * len(losses[name]), "o", color=colour, alpha=0.35, markersize=4)
        axes.plot(np.mean(losses[name]), place, "|", color=colour, markersize=12, markeredgewidth=2)
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlim(left=-0.01)
    searches = [class_of(name) not in ("", schemes.SchemeClass.MODEL.value) for name in order]
    labels = [f"{name} ({class_of(name)})" if search else name for name, search in zip(order, searches, strict=True)]
    axes.set_yticks(range(len(order)), labels, fontsize=8)
    axes.set_xticks([0, 0.1, 1, 10], ["0", "0.1", "1", "10"])
    axes.set_xlabel("SQNR lost against the feature map's best scheme, dB\n(dot: a feature map, bar: mean)")
    axes.grid(axis="x", alpha=0.3)
    axes.margins(y=0.02)
    return figure


def losses_db(compared: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return by scheme the dB lost on each feature map against the best scheme there; feature maps without loss left
    out."""
    names = list(compared[0]["choices"])
    sqnr = np.asarray([[row["choices"][name]["sqnr_db"] for name in names] for row in compared], np.float64)
    sqnr = sqnr[np.isfinite(sqnr).all(axis=1)]
    return dict(zip(names, (sqnr.max(axis=1, keepdims=True, initial=-np.inf) - sqnr).T, strict=True))
