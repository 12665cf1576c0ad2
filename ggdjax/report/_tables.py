"""Tables for a terminal."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import expect
from ggdjax.ggd import FitCode
from ggdjax.report._record import feature_map_rows, weight_rows
from ggdjax.schemes import ChoiceCode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.table import Table
    from rich.text import Text

    from ggdjax.network import Network
    from ggdjax.quantization import Accuracy, Evaluation, QuantizedNetwork
    from ggdjax.tune import Sensitivity


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


def sensitivity_table(sensitivity: Sensitivity, *, width: int = 80) -> Table:
    """Return what rounding each feature map, and the weights of each layer, alone does to the network's output.

    Args:
        sensitivity: what `ggdjax.tune.sensitivity` returned.
        width: characters of a line; longer names lose their beginning.
    """
    expect("sensitivity", sensitivity, "Sensitivity", hint="`gd.tune.sensitivity(q, images)` returns one")
    table = _table("What each rounding alone does to the output", ("rounded", "of"), ("SQNR dB", "1 - cosine", "KL"))
    for row in sensitivity.rows():
        table.add_row(
            shortened(row["name"], max(width - 54, 12)),
            row["rounded"],
            _decibel(row["sqnr_db"]),
            f"{1 - row['cosine']:.2e}",
            f"{row['kl']:.2e}",
        )
    table.caption = f"Logits against the float network's, on {sensitivity.images} calibration images. KL in nats."
    return table


def layer_table(quantized: QuantizedNetwork, evaluation: Evaluation | None = None, *, width: int = 80) -> Table:
    """Return one row per convolution and dense layer: what was quantized and how; below, what stayed in float and why.

    Args:
        quantized: the network.
        evaluation: of it, on held-out images; None: not evaluated.
        width: characters of a line; longer names lose their beginning.
    """
    maps = {row["name"]: row for row in feature_map_rows(quantized, evaluation)}
    kernels = {row["name"]: row for row in weight_rows(quantized)}
    table = _table(
        "Layers",
        ("layer",),
        ("in\nbits", "\nstep", "alone\ndB", "accum.\ndB", "weight\nbits", "\nF", "\ndB", "bias\nF"),
    )
    for node in quantized.graph.quantizable:
        row, kernel = maps.get(node.inputs[0]), kernels.get(node.name)
        before = ["float", *"–––"] if row is None else [
            str(row["bits"]),
            ("±" if row["signed"] else "") + _span(row["step"], 3),
            _decibel(row["sqnr_db"], 1),
            _decibel(row["accumulated_sqnr_db"], 1),
        ]  # fmt: skip
        after = ["float", *"–––"] if kernel is None else [
            str(kernel["bits"]),
            _lengths(kernel["frac_bits"]) if kernel["frac_bits"] is not None else f"Δ {_span(kernel['step'], 3)}",
            _decibel(kernel["sqnr_db"], 1),
            _lengths(kernel["bias_frac_bits"]),
        ]  # fmt: skip
        table.add_row(shortened(node.name, max(width - 54, 12)), *before, *after)
    table.caption = "\n".join(_about_layers(quantized, maps, evaluated=evaluation is not None))
    return table


def network_table(net: Network, *, width: int = 80) -> Table:
    """Return one row per node of a float network, and which of its inputs, feature maps, `ggdjax.quantize` rounds."""
    expect("net", net, "Network")
    table = _table("Nodes", ("node", "operation", "feature map", "input", "output"), ("parameters",))
    longest = max((width - 54) // 2, 12)
    for node in net.graph.nodes:
        sizes = [net.params[key].size for _, key in node.params]
        table.add_row(
            shortened(node.name, longest),
            node.op,
            "\n".join(shortened(tensor, longest) for tensor in node.feature_maps) or "–",
            _shape(net.graph.shape(node.inputs[0])[1:]) if node.inputs else "–",
            _shape(net.graph.shape(node.output)[1:]),
            str(sum(sizes)) if sizes else "–",
        )
    table.caption = (
        f"{len(net.graph.quantizable)} layers and {len(net.graph.feature_maps())} feature maps are rounded: inputs, "
        "weights and biases of convolutions and dense layers, factors of matrix products. What lies between computes "
        "on their results. `weight_bits_of` takes names of nodes, `activation_bits_of` those of feature maps."
    )
    return table


def _about_layers(quantized: QuantizedNetwork, maps: dict[str, dict[str, Any]], *, evaluated: bool) -> list[str]:
    """Return the lines below the table of layers."""
    record = quantized.record
    config, calibration = (None, None) if record is None else (record.config, record.calibration)
    lines = []
    if config is not None and calibration is not None:
        stages = [stage.name for stage in record.stages]
        rounded, again = "round_weights" in stages, "recalibrate" in stages
        least = "output error" if rounded else "squared error"
        weights = {"fixed-point": f"fractional length F of least {least}, step 2^-F"}
        source = f"{calibration.images} calibration images" if calibration.images else "batch normalization, no images"
        lines.append(
            f"Steps of inputs: scheme {config.scheme}, from {source}"
            f"{' of the network with rounded weights' if again else ''}. Weights: "
            f"{weights.get(config.weight_scheme, f'scheme {config.weight_scheme}, free step Δ')}, one per "
            f"{'layer' if config.weights_per == 'tensor' else 'output channel'}"
            f"{', codes rounded for the output of their layer' if rounded else ''}."
        )
    errors = {name: 100 * row["step_error"] for name, row in maps.items() if row["step_error"] is not None}
    if errors:
        most = max(errors, key=errors.get)
        lines.append(
            f"More images would change the steps by ± {np.median(list(errors.values())):.2g} % (standard error, "
            f"median), the most: {most}, ± {errors[most]:.2g} %."
        )
    if config is not None:
        lines.append(
            "Biases: on the grid of the accumulator, step of the input times step of the weights."
            if config.bias_bits is None
            else f"Biases: {config.bias_bits} bits, fractional length F of least squared error."
        )
    stages = () if record is None else record.stages
    coarser = {
        name: factor for stage in stages for name, factor in stage.figures.get("coarser_for_the_bias", {}).items()
    }
    if coarser:
        listed = ", ".join(f"{name} (times {factor:.3g})" for name, factor in coarser.items())
        lines.append(f"Steps of weights made coarser so that the bias beside them fits in the accumulator: {listed}.")
    inputs = "of the input alone, and accumulated with the errors of all layers before, on held-out images; "
    lines.append(
        f"±: codes on both sides of zero. dB: SQNR; {inputs if evaluated else ''}of the weights against the float ones."
    )
    others = Counter(node.op for node in quantized.graph.nodes if not node.feature_maps)
    if others:
        listed = ", ".join(f"{count} {op}" for op, count in others.items())
        lines.append(
            f"In float: {listed}. Only inputs, weights and biases of convolutions and dense layers are rounded; "
            "what lies between computes on their results, exactly in the integer program."
        )
    missing = [n.name for n in quantized.graph.quantizable if n.name not in quantized.quantizers.weights]
    if missing:
        lines.append(f"In float: {', '.join(missing)}: their weights have no quantizer.")
    lines += [
        f"{name}: {row['fit']}: {FitCode[row['fit'].upper().replace(' ', '_')].message}."
        for name, row in maps.items()
        if row["fit"] not in (None, "converged")
    ]
    choices = {} if record is None else {n: c for n, c in record.choices.items() if np.ndim(c.code) == 0}
    lines += [f"{n}: {ChoiceCode(int(c.code)).message}." for n, c in choices.items() if int(c.code) != ChoiceCode.OK]
    return lines


def shortened(name: str, length: int) -> str:
    """Return a name, or its end: names of layers differ there."""
    return name if len(name) <= length else "…" + name[1 - length :]


def _widths(rows: list[dict[str, Any]]) -> str:
    widths = [row["bits"] for row in rows]
    low, high = min(widths), max(widths)
    return f"{low}" if low == high else f"{low} to {high}"


def accuracy_lines(evaluation: Evaluation) -> Text:
    """Return float and quantized accuracy, or scores by the metric, with their 95 % intervals, ready to print.

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
        if accuracy.not_finite:
            parts.append(f"NaN or infinite: {accuracy.not_finite} images, counted as wrong")
        return f"{name:<10}" + "    ".join(parts)

    if evaluation.float_accuracy is None or evaluation.quantized_accuracy is None:
        return Text("\n".join(_score_lines(evaluation)))
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


def _score_lines(evaluation: Evaluation) -> Iterator[str]:
    """Yield both scores with their intervals, and how they differ."""
    metric, before, after = evaluation.metric, evaluation.float_score, evaluation.quantized_score
    against_float = metric.compares == "float output"

    def span(ends: tuple[float, float]) -> str:
        return f"[{', '.join(metric.text(end, unit=False) for end in ends)}]"

    for name, score in (("float", before), ("quantized", after)):
        if against_float and score is before:  # it is compared with itself
            continue
        lost = f"    NaN or infinite: {score.not_finite} images" if score.not_finite else ""
        yield f"{name:<10}{metric.name} {metric.text(score.value):>9}  {span(score.interval())}{lost}"
    if metric.share:
        yield f"{after.images} held-out images; 95 % intervals (Wilson)"
        return
    if not against_float:
        ends, p_value = after.compared_to(before)
        change = metric.text(after.value - before.value)
        yield f"{'change':<10}{metric.name} {change:>9}  {span(ends)}, p = {p_value:.2g}"
    yield f"{after.images} held-out images; 95 % intervals (bootstrap over images)"


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
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _shape(shape: Sequence[int | None]) -> str:
    return "×".join(str(n) for n in shape)


def _decibel(value: float | None, decimals: int = 2) -> str:
    if value is None or math.isnan(value):
        return "–"
    return "exact" if math.isinf(value) else f"{value:.{decimals}f}"


def _number(value: float | None, unit: float, form: str) -> str:
    return "–" if value is None else format(unit * value, form)


def _span(step: float | list[float], digits: int = 4) -> str:
    return f"{min(step):.3g}…{max(step):.3g}" if isinstance(step, list) else f"{step:.{digits}g}"


def _lengths(value: int | list[int] | None) -> str:
    if value is None:
        return "–"
    return f"{min(value)}…{max(value)}" if isinstance(value, list) else str(value)
