"""Pictures of one feature map: its histogram, the fitted density, and the step that was chosen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import GgdjaxError, expect, expect_array, expect_path, kinds_of
from ggdjax.ggd import Histogram, as_tail
from ggdjax.report._colours import BLUE, GREEN, ORANGE
from ggdjax.schemes import Fitted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jax.typing import ArrayLike
    from matplotlib.figure import Figure

    from ggdjax.ggd import FitResult, GeneralizedGamma, TailWeighted
    from ggdjax.quantization import QuantizedNetwork

#: Bars of the drawn histogram. The eye needs no more; the counts behind it are finer.
_BARS = 160


def plot_feature_map(
    histogram: Histogram | ArrayLike,
    density: GeneralizedGamma | TailWeighted | FitResult | None = None,
    *,
    step: float | None = None,
    qmin: int = 0,
    qmax: int | None = None,
    title: str = "",
) -> Figure:
    """Draw the density of one feature map's nonzero values (log scale), its fit, and the range of its quantizer.

    Args:
        histogram: of one tensor (no batch axes), or the tensor's values.
        density: the fitted density of the nonzero magnitudes, drawn on both sides if the tensor has negatives.
        step: the chosen step; with ``qmax`` (and ``qmin``) the first levels and the clipping points are marked.
        qmin: smallest code.
        qmax: largest code.
        title: usually the feature map's name.

    Returns:
        A matplotlib figure of its own, not registered with pyplot: save it with ``figure.savefig``.

    Raises:
        GgdjaxError: the histogram has batch axes.

    Example:
        >>> h = gd.Histogram.from_samples(jax.random.exponential(jax.random.key(0), (10_000,)))
        >>> figure = gd.report.plot_feature_map(h, gd.GeneralizedGamma(1.0, 1.0, 1.0), step=0.5, qmax=15)
        >>> figure.savefig("feature_map.png")
    """
    from matplotlib.figure import Figure

    if "Histogram" not in kinds_of(histogram):
        values = expect_array("histogram", histogram, "a Histogram or an array of values")
        histogram = Histogram.from_samples(values)
    if density is not None:
        density = as_tail(density.tail if "FitResult" in kinds_of(density) else density)
    if np.ndim(histogram.zeros):
        raise GgdjaxError(
            f"`histogram` has batch shape {np.shape(histogram.zeros)}; draw one tensor at a time (index it first)"
        )
    edges, heights = _bars(histogram)
    zero = float(histogram.zero_fraction)
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    if heights.any():
        axes.stairs(heights, edges, fill=True, color=BLUE, alpha=0.35, label="values (zeros apart)")
        if density is not None:
            _draw_density(axes, density, edges, share_negative=float(histogram.negative_fraction) / (1.0 - zero))
        floor = heights[heights > 0].min()
        axes.set_ylim(floor / 3.0, 3.0 * heights.max())
        axes.set_yscale("log")
        axes.legend(loc="upper right", fontsize=8, frameon=False)
    if step is not None and qmax is not None:
        _draw_quantizer(axes, step, qmin, qmax)
    axes.set_xlabel("value")
    axes.set_ylabel("density")
    axes.set_title(f"{title}   {100.0 * zero:.1f} % zeros".strip(), fontsize=10)
    return figure


def draw_feature_maps(quantized: QuantizedNetwork, folder: Path) -> Iterator[Path]:
    """Write one PNG per quantized feature map into ``folder``; yield each path when it is written."""
    expect("quantized", quantized, "QuantizedNetwork")
    folder = expect_path("folder", folder, "the name of a folder")
    folder.mkdir(parents=True, exist_ok=True)
    record = quantized.record
    if record is None or record.calibration is None:
        raise GgdjaxError("`quantized` has no calibration, so there is nothing to draw: quantize its float network")
    for index, name in enumerate(record.calibration.names):
        quantizer, choice = quantized.quantizers.activations[name], record.choices[name]
        zero = 0 if quantizer.zero_point is None else int(quantizer.zero_point)
        figure = plot_feature_map(
            record.calibration.histograms[index],
            choice.evidence.tail if isinstance(choice.evidence, Fitted) else None,
            step=float(quantizer.step),
            qmin=quantizer.qmin - zero,
            qmax=quantizer.qmax - zero,
            title=name,
        )
        path = folder / f"{index:03d}_{re.sub(r'[^0-9A-Za-z.-]+', '_', name)}.png"
        figure.savefig(path, dpi=110)
        yield path


def _draw_density(axes, density, edges: np.ndarray, share_negative: float) -> None:
    x = np.linspace(edges[0], edges[-1], 801)
    x = x[x != 0.0].astype(np.float32)
    y = np.exp(np.asarray(density.log_density(np.abs(x)), dtype=np.float64))
    y *= np.where(x < 0, share_negative, 1.0 - share_negative)
    axes.plot(x, y, color=ORANGE, linewidth=1.5, label="generalized gamma fit")


def _draw_quantizer(axes, step: float, qmin: int, qmax: int) -> None:
    for code in {qmin, qmax} - {0}:
        axes.axvline(code * step, color=GREEN, linestyle="--", linewidth=1.2)
    axes.annotate(
        f"Δ = {step:.4g}, codes [{qmin}, {qmax}]",
        xy=(qmax * step, 0.04),
        xycoords=("data", "axes fraction"),
        xytext=(-4, 0),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=GREEN,
    )


def _bars(histogram: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Spread the logarithmic bins over equal bars; return edges and density per unit of x."""
    counts = np.asarray(histogram.counts, dtype=np.int64).reshape(2, -1)
    finite = np.arange(0x7F80)  # below the exponent of infinity and NaN
    lower = (finite.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    upper = ((finite + 1).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    positive, negative = counts[0, : finite.size], counts[1, : finite.size]
    total = int(positive.sum() + negative.sum())
    low, high = min(0.0, float(histogram.minimum)), max(0.0, float(histogram.maximum))
    if not total or low == high:
        return np.linspace(0.0, 1.0, _BARS + 1), np.zeros(_BARS)
    edges = np.linspace(low, high, _BARS + 1)
    below = _below(edges, lower, upper, positive) + negative.sum() - _below(-edges, lower, upper, negative)
    return edges, np.diff(below) / (total * np.diff(edges))


def _below(x: np.ndarray, lower: np.ndarray, upper: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Count of values under each ``x``, every bin's values spread evenly over it."""
    used = np.flatnonzero(counts)
    knots = np.concatenate([[0.0], np.ravel(np.stack([lower[used], upper[used]], axis=1))])
    steps = np.stack([np.zeros(used.size, dtype=np.int64), counts[used]], axis=1)
    return np.interp(x, knots, np.concatenate([[0.0], np.cumsum(steps)]), left=0.0)
