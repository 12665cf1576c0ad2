"""How a tuning run went: score and loss after every decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import expect
from ggdjax.report._colours import BLUE, ORANGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ggdjax.tune import History


def plot_trajectory(history: History) -> Figure:
    """Draw score and loss of backward-forward tuning, decision by decision; changes are marked, sweeps told apart.

    Returns:
        A matplotlib figure of its own, not registered with pyplot: save it with ``figure.savefig``.
    """
    expect("history", history, "History")
    from matplotlib.figure import Figure

    decisions = history.decisions
    score = [history.start_score, *(d.score for d in decisions)]
    loss = [history.start_loss, *(d.loss for d in decisions)]
    changed = np.asarray([False, *(bool(d.change) for d in decisions)])
    first_of_sweep: dict[int, int] = {}
    for k, decision in enumerate(decisions, start=1):
        first_of_sweep.setdefault(decision.sweep, k)
    position = np.arange(len(score))
    figure = Figure(figsize=(max(6.4, 0.16 * len(score) + 2.0), 4.8), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for axes, values, label in zip(panels, (score, loss), (history.objective, "loss that breaks ties"), strict=True):
        axes.step(position, values, where="post", color=BLUE, linewidth=1.4)
        axes.plot(position[changed], np.asarray(values)[changed], "o", color=ORANGE, markersize=4)
        axes.set_ylabel(label)
        axes.grid(axis="y", alpha=0.3)
        for k in first_of_sweep.values():
            axes.axvline(k - 0.5, color="0.7", linewidth=0.8)
    for sweep, k in first_of_sweep.items():
        way = "forward" if sweep % 2 else "backward"
        panels[0].annotate(way, (k - 0.3, 1.0), xycoords=("data", "axes fraction"), va="top", fontsize=8)
    panels[1].set_xlabel("visits (dots: something was changed)")
    figure.suptitle(f"{history.images} tuning images, {history.float_passes:.0f} network passes", fontsize=10)
    return figure
