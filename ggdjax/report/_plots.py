"""Plots of one feature map: its histogram, the fitted density, and the step that was chosen."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from ggdjax._errors import GgdjaxError, expect_array, kinds_of
from ggdjax.ggd import GeneralizedGamma, Histogram, TailWeighted
from ggdjax.ggd._tail import as_tail
from ggdjax.report._colours import BLUE, GREEN, ORANGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from jax.typing import ArrayLike
    from jaxtyping import Array
    from matplotlib.figure import Figure

    from ggdjax.ggd import FitResult

#: Bars of the drawn histogram. The eye needs no more; the counts behind it are finer.
_BARS = 160
#: Points of the drawn density.
_POINTS = 801


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
    if "Histogram" not in kinds_of(histogram):
        values = expect_array("histogram", histogram, "a Histogram or an array of values")
        histogram = Histogram.from_samples(values)
    if density is not None:
        density = as_tail(density.tail if "FitResult" in kinds_of(density) else density)
    if np.ndim(histogram.zeros):
        raise GgdjaxError(
            f"`histogram` has batch shape {np.shape(histogram.zeros)}; draw one tensor at a time (index it first)"
        )
    bars, curve = _bars(histogram), None
    if density is not None and bars.nonzero:
        curve = np.asarray(_log_density(density, np.abs(bars.points)), np.float64)
    return _draw(histogram, bars, curve, step, qmin, qmax, title)


def _draw(
    histogram: Histogram,
    bars: _Bars,
    log_density: np.ndarray | None,
    step: float | None,
    qmin: int,
    qmax: int | None,
    title: str,
) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    edges, heights, _ = bars
    zero = float(histogram.zero_fraction)
    # A fixed layout: a layout engine draws everything once more.
    figure = Figure(figsize=(6.4, 3.6), layout="none")
    axes = figure.subplots()
    figure.subplots_adjust(left=0.13, right=0.98, bottom=0.14, top=0.91)
    if heights.any():
        axes.stairs(heights, edges, fill=True, color=BLUE, alpha=0.35, label="values (zeros apart)")
        if log_density is not None:
            negative = float(histogram.negative_fraction) / (1.0 - zero)
            _draw_density(axes, bars.points, log_density, share_negative=negative)
        floor = heights[heights > 0].min()
        axes.set_ylim(floor / 3.0, 3.0 * heights.max())
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.legend(loc="upper right", fontsize=8, frameon=False)
    if step is not None and qmax is not None:
        _draw_quantizer(axes, step, qmin, qmax)
    axes.set_xlabel("value")
    axes.set_ylabel("density")
    axes.set_title(f"{title}   {100.0 * zero:.1f} % zeros".strip(), fontsize=10)
    return figure


def feature_map_figures(histograms: Histogram, rows: Sequence[Mapping[str, Any]]) -> Iterator[Figure]:
    """Yield one figure per feature map.

    Args:
        histograms: batch shape ``[tensor]``.
        rows: theirs from `feature_map_rows`, with one step each.
    """
    histograms = jax.device_get(histograms)
    bars = [_bars(histograms[index]) for index in range(len(rows))]
    curves = _log_densities(rows, bars)
    for index, row in enumerate(rows):
        low, high = (row[key] - row["zero_point"] for key in ("qmin", "qmax"))
        yield _draw(histograms[index], bars[index], curves.get(index), row["step"], low, high, row["name"])


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file: what `savefig` does, which draws twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(110)
    FigureCanvasAgg(figure).print_png(buffer := io.BytesIO())
    return buffer.getvalue()


def _log_densities(rows: Sequence[Mapping[str, Any]], bars: Sequence[_Bars]) -> dict[int, np.ndarray]:
    """Return the fitted log-densities at the points of the bars, by index: of all of them in one program."""
    which = [i for i, row in enumerate(rows) if row.get("tail") is not None and bars[i].nonzero]
    if not which:
        return {}
    tails = np.asarray([(*rows[i]["tail"], rows[i]["order"]) for i in which], np.float32)
    loc, d, p, log_moment, order = tails.T[:, :, None]
    density = TailWeighted(distribution=GeneralizedGamma.from_loc(loc, d, p), order=order, log_moment=log_moment)
    curves = _log_density(density, np.abs(np.stack([bars[i].points for i in which])))
    return dict(zip(which, np.asarray(curves, np.float64), strict=True))


@jax.jit
def _log_density(density: TailWeighted, x: Array) -> Array:
    return density.log_density(x)


def _draw_density(axes, x: np.ndarray, log_density: np.ndarray, share_negative: float) -> None:
    y = np.exp(log_density) * np.where(x < 0, share_negative, 1.0 - share_negative)
    x, y = x[x != 0.0], y[x != 0.0]
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


class _Bars(NamedTuple):
    edges: np.ndarray
    heights: np.ndarray
    """Density per unit of x."""
    nonzero: int
    """Number of values beside zero."""

    @property
    def points(self) -> np.ndarray:
        """Where the fitted density is drawn."""
        return np.linspace(self.edges[0], self.edges[-1], _POINTS).astype(np.float32)


def _bars(histogram: Histogram) -> _Bars:
    """Spread the logarithmic bins over equal bars."""
    counts = np.asarray(histogram.counts, dtype=np.int64).reshape(2, -1)
    finite = np.arange(0x7F80)  # below the exponent of infinity and NaN
    lower = (finite.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    upper = ((finite + 1).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    positive, negative = counts[0, : finite.size], counts[1, : finite.size]
    total = int(positive.sum() + negative.sum())
    low, high = min(0.0, float(histogram.minimum)), max(0.0, float(histogram.maximum))
    if not total or low == high:
        return _Bars(np.linspace(0.0, 1.0, _BARS + 1), np.zeros(_BARS), 0)
    edges = np.linspace(low, high, _BARS + 1)
    below = _below(edges, lower, upper, positive) + negative.sum() - _below(-edges, lower, upper, negative)
    return _Bars(edges, np.diff(below) / (total * np.diff(edges)), total)


def _below(x: np.ndarray, lower: np.ndarray, upper: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Count of values under each ``x``, every bin's values spread evenly over it."""
    used = np.flatnonzero(counts)
    knots = np.concatenate([[0.0], np.ravel(np.stack([lower[used], upper[used]], axis=1))])
    steps = np.stack([np.zeros(used.size, dtype=np.int64), counts[used]], axis=1)
    return np.interp(x, knots, np.concatenate([[0.0], np.cumsum(steps)]), left=0.0)
