"""The layers of a run that lose most, and what would help each."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from ggdjax.report._html import section, table

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Bits that a remedy adds, as far as there are so many; each leaves a quarter of the noise.
_MORE, _MOST = 2, 16
_COLUMNS = {
    "layer": "name",
    "share of all noise, %": "share",
    "by its weights, %": "by_weights",
    "by its input, %": "by_input",
    "what would help": "remedy",
    "would leave, %": "left",
}


def worst_layers(result: Mapping[str, Any], count: int = 3) -> list[dict[str, Any]]:
    """Return the layers that add most noise, the worst first, each with the option that takes most of it away.

    The noise of a layer's output over its signal is about that of its weights plus that of its input, each from its
    measured SQNR; noises of layers add up as far as they are independent. All figures are percentages of the sum over
    layers. Empty for runs of older versions, which do not say what a layer reads.

    Args:
        result: what result.json holds.
        count: how many layers.
    """
    maps = {row["name"]: row for row in result["feature_maps"]}
    layers = [row for row in result["weights"] if "input" in row]
    noises = [(_noise(row), _noise(maps.get(row["input"], {}))) for row in layers]
    total = sum(map(sum, noises))
    if not total > 0:
        return []
    order = sorted(range(len(layers)), key=lambda i: -sum(noises[i]))[:count]
    return [
        _row(layers[i], maps.get(layers[i]["input"], {}), *(100 * noise / total for noise in noises[i])) for i in order
    ]


def worst_section(result: Mapping[str, Any]) -> str:
    """Return the table of `worst_layers`."""
    rows = worst_layers(result)
    if not rows:
        return ""
    about = (
        "Noise over signal of weights and input, by their measured SQNR, as far as noises of layers add up. Weights "
        "that were rounded for the output count by their own error, which is more than what reaches the output."
    )
    return section(f"The {len(rows)} layers that lose most", f"<p>{about}</p>", table(rows, _COLUMNS, "worst"))


def quantized_line(result: Mapping[str, Any]) -> str:
    """Return a paragraph on what was quantized, and how."""
    options, weights, maps = result["options"], result["weights"], result["feature_maps"]
    steps = "a free step" if options.get("weight_scheme", "fixed-point") != "fixed-point" else "a fractional length"
    per = "output channel" if options.get("weights_per") == "channel" else "layer"
    source = "distilled images" if options.get("distilled_images") else "images"
    each = "channel" if options.get("activations_per") == "channel" else "feature map"
    rounded = ", rounded for the output" if "round_weights" in (result.get("seconds") or {}) else ""
    said = (
        f"Quantized: the weights of {len(weights)} layers to {_widths(weights, options['weight_bits'])} bits, {steps} "
        f"per {per}{rounded}; {len(maps)} feature maps to {_widths(maps, options['activation_bits'])} bits, a step per "
        f"{each} by {options['scheme']} from {result['calibration_images']} {source}."
    )
    return f"<p>{html.escape(said)}</p>"


def _row(layer: Mapping[str, Any], source: Mapping[str, Any], by_weights: float, by_input: float) -> dict[str, Any]:
    of_weights = by_weights >= by_input
    option = "--weight-bits-of" if of_weights else "--activation-bits-of"
    row = layer if of_weights else source
    more = min(_MORE, _MOST - row["bits"])
    return {
        "name": layer["name"],
        "share": by_weights + by_input,
        "by_weights": by_weights,
        "by_input": by_input,
        "remedy": f"{option} {row['name']}={row['bits'] + more}" if more else None,
        "left": by_weights + by_input - (1 - 4**-more) * max(by_weights, by_input),
    }


def _noise(row: Mapping[str, Any]) -> float:
    sqnr_db = row.get("sqnr_db")
    return 0.0 if sqnr_db is None else 10 ** (-sqnr_db / 10)


def _widths(rows: list[dict[str, Any]], default: int) -> str:
    found = {row.get("bits", default) for row in rows}
    return f"{min(found)} to {max(found)}" if len(found) > 1 else f"{min(found, default=default)}"
