"""Tables for a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ggdjax._errors import expect
from ggdjax.report.record import feature_map_rows, weight_rows

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from ggdjax.quantization import Accuracy, Evaluation, QuantizedNetwork


def feature_map_table(quantized: QuantizedNetwork, evaluation: Evaluation) -> Table:
    """Return the table of feature maps: distribution, step, predicted and measured SQNR."""
    expect("quantized", quantized, "QuantizedNetwork")
    expect("evaluation", evaluation, "Evaluation")
    rows = feature_map_rows(quantized, evaluation)
    config = None if quantized.record is None else quantized.record.config
    scheme = "" if config is None else f", scheme {config.scheme}"
    table = _table(
        f"Feature maps, {_widths(rows)} bits{scheme}",
        ("feature map", "shape"),
        ("bits", "0 in %", "a", "d", "p", "step", "predict.", "meas.", "accum."),
    )
    for row in rows:
        table.add_row(
            row["name"],
            _shape(row["shape"]),
            str(row["bits"]),
            _number(row["zero_fraction"], 100, ".1f"),
            *(_number(row[key], 1, ".3g") for key in ("a", "d", "p")),
            ("±" if row["signed"] else "") + _span(row["step"]),
            _decibel(row["predicted_sqnr_db"]),
            _decibel(row["sqnr_db"]),
            _decibel(row["accumulated_sqnr_db"]),
        )
    table.caption = (
        "± codes on both sides of zero. a, d, p of the fit that chose the step. SQNR in dB: predicted by that fit; "
        "measured, on held-out images, each feature map alone; accumulated, with the errors of all layers before.\n"
    )
    table.caption += f"mean measured SQNR {evaluation.mean_sqnr_db:.2f} dB" + "".join(
        f"\n{row['name']}: {row['fit']}" for row in rows if row["fit"] not in (None, "converged")
    )
    return table


def weight_table(quantized: QuantizedNetwork) -> Table:
    """Return the table of weights and biases: fractional lengths and SQNR."""
    expect("quantized", quantized, "QuantizedNetwork")
    rows = weight_rows(quantized)
    table = _table(
        f"Weights, {_widths(rows)} bits, and biases",
        ("layer", "kernel"),
        ("bits", "F", "SQNR dB", "bias F", "bias SQNR dB"),
    )
    for row in rows:
        table.add_row(
            row["name"],
            _shape(row["shape"]),
            str(row["bits"]),
            _lengths(row["frac_bits"]) if row["frac_bits"] is not None else f"Δ {_span(row['step'])}",
            _decibel(row["sqnr_db"]),
            _lengths(row["bias_frac_bits"]),
            _decibel(row["bias_sqnr_db"]),
        )
    return table


def _widths(rows: list[dict[str, Any]]) -> str:
    widths = [row["bits"] for row in rows]
    low, high = min(widths), max(widths)
    return f"{low}" if low == high else f"{low} to {high}"


def accuracy_lines(evaluation: Evaluation) -> Text:
    """Return float and quantized accuracy with their 95 % intervals, ready to print.

    Example:
        >>> accuracy = gd.quantization.Accuracy(top1=0.9, top5=1.0, images=100)
        >>> evaluation = gd.quantization.Evaluation(
        ...     float_accuracy=accuracy, quantized_accuracy=accuracy, sqnr_db={}, accumulated_sqnr_db={},
        ...     float_correct=np.ones(100, bool), quantized_correct=np.ones(100, bool))
        >>> print(gd.report.accuracy_lines(evaluation))
        float     top-1  90.00 %  [82.56, 94.48]    top-5 100.00 %  [96.30, 100.00]
        quantized top-1  90.00 %  [82.56, 94.48]    top-5 100.00 %  [96.30, 100.00]
        100 held-out images; 95 % intervals (Wilson)
    """
    expect("evaluation", evaluation, "Evaluation")
    from rich.text import Text

    def line(name: str, accuracy: Accuracy) -> str:
        parts = []
        for which, label in (("top1", "top-1"), ("top5", "top-5")):
            low, high = accuracy.interval(which)
            value = getattr(accuracy, which)
            parts.append(f"{label} {100 * value:6.2f} %  [{100 * low:.2f}, {100 * high:.2f}]")
        return f"{name:<10}" + "    ".join(parts)

    images = evaluation.quantized_accuracy.images
    return Text(
        "\n".join(
            (
                line("float", evaluation.float_accuracy),
                line("quantized", evaluation.quantized_accuracy),
                f"{images} held-out images; 95 % intervals (Wilson)",
            )
        )
    )


def _table(title: str, left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        caption_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _shape(shape: list[int]) -> str:
    return "×".join(str(n) for n in shape)


def _decibel(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return "exact" if math.isinf(value) else f"{value:.2f}"


def _number(value: float | None, unit: float, form: str) -> str:
    return "–" if value is None else format(unit * value, form)


def _span(step: float | list[float]) -> str:
    return f"{min(step):.3g}…{max(step):.3g}" if isinstance(step, list) else f"{step:.4g}"


def _lengths(value: int | list[int] | None) -> str:
    if value is None:
        return "–"
    return f"{min(value)}…{max(value)}" if isinstance(value, list) else str(value)
