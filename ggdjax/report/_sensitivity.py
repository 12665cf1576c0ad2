"""Where a quantized network loses its signal: SQNR along the layers, each alone and accumulated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import GgdjaxError, expect, refusal
from ggdjax.report._colours import CYCLE
from ggdjax.report._tables import shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ggdjax.quantization import Evaluation


def plot_sensitivity(evaluations: Mapping[str, Evaluation]) -> Figure:
    """Draw the SQNR of every feature map: alone (solid) and with the errors of all layers before (dashed).

    Args:
        evaluations: one per scheme or setting, by the name to show, all of the same network.

    Returns:
        A matplotlib figure of its own, not registered with pyplot: save it with ``figure.savefig``.

    Raises:
        GgdjaxError: there are none, or they are of different networks.
    """
    if not isinstance(evaluations, Mapping) or not evaluations:
        raise refusal("evaluations", evaluations, "a dict of at least one Evaluation, by the name to show")
    for evaluation in evaluations.values():
        expect("evaluations", evaluation, "Evaluation")
    maps = {tuple(evaluation.sqnr_db) for evaluation in evaluations.values()}
    if len(maps) > 1:
        raise GgdjaxError("`evaluations` are of different networks: their feature maps differ")
    return draw_sensitivity({label: (e.sqnr_db, e.accumulated_sqnr_db) for label, e in evaluations.items()})


def draw_sensitivity(lines: Mapping[str, tuple[Mapping[str, float | None], Mapping[str, float | None]]]) -> Figure:
    """Draw SQNR in dB by feature map, alone and accumulated, of every label; None where there is none."""
    from matplotlib.figure import Figure

    names = list(next(iter(lines.values()))[0])
    figure = Figure(figsize=(max(6.4, 0.32 * len(names) + 2.0), 4.4), layout="constrained")
    axes = figure.subplots()
    position = np.arange(len(names))
    for index, (label, pair) in enumerate(lines.items()):
        colour = CYCLE[index % len(CYCLE)]
        alone, accumulated = (np.asarray([sqnr[name] for name in names], np.float64) for sqnr in pair)
        axes.plot(position, alone, "o-", color=colour, markersize=3, linewidth=1.4, label=f"{label}, alone")
        axes.plot(position, accumulated, "--", color=colour, linewidth=1.2, label=f"{label}, accumulated")
    axes.set_xticks(position, [shortened(name, 22) for name in names], rotation=60, ha="right", fontsize=7)
    axes.set_ylabel("SQNR, dB")
    axes.set_xlabel("feature map, in the order of the data")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, frameon=False, ncols=2)
    return figure
