"""Sections of the page that set the run beside others: other schemes, other widths, other arithmetic."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax.report._comparison import WIDTHS, class_of
from ggdjax.report._cost import plot_pareto
from ggdjax.report._distortion import losses_db, plot_losses
from ggdjax.report._html import SHADES, drawing, number, search_field, section, table
from ggdjax.report._record import in_unit, measured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: dB below the best at which a cell has its full shade.
_FULL_SHADE_DB = 6.0
#: Row of the table of costs -> key, factor, and decimals.
_COSTS = {
    "energy, µJ": ("energy_pj", 1e-6, 1),
    "– arithmetic, µJ": ("mac_pj", 1e-6, 1),
    "– buffer, µJ": ("buffer_pj", 1e-6, 1),
    "– DRAM, µJ": ("dram_pj", 1e-6, 1),
    "DRAM traffic, KiB": ("dram_bytes", 1 / 1024, 1),
    "buffer traffic, KiB": ("buffer_bytes", 1 / 1024, 1),
    "weights and biases, KiB": ("weight_bytes", 1 / 1024, 1),
    "feature maps, KiB": ("feature_map_bytes", 1 / 1024, 1),
    "bit operations, 10⁹": ("bops", 1e-9, 3),
    "cycles, 10³": ("cycles", 1e-3, 1),
}
_LAYER_COSTS = {
    "layer": "name",
    "weight bits": "weight_bits",
    "map bits": "activation_bits",
    "MACs": "macs",
    "energy, µJ": "energy_uj",
    "DRAM, KiB": "dram_kib",
    "weights, KiB": "weight_kib",
    "cycles": "cycles",
    "units in use, %": "use",
}


def scheme_sections(compared: Mapping[str, Any], scheme: str) -> list[str]:
    """Return the sections that compare schemes: over widths, and per feature map."""
    maps, by_width = compared["feature_maps"], compared["mean_sqnr_db"]
    rows = [
        {"name": name, "class": class_of(name), **by_width[name]}
        for name in sorted(by_width, key=lambda n: -(by_width[n]["8"] or 0.0))
    ]
    keys = [str(width) for width in WIDTHS]
    names = sorted(maps[0]["choices"], key=lambda name: -_mean(row["choices"][name]["sqnr_db"] for row in maps))
    per_map = [
        {"name": row["name"], **{name: choice["sqnr_db"] for name, choice in row["choices"].items()}} for row in maps
    ]
    losses = losses_db(maps)
    plot = drawing(plot_losses(maps, scheme), "SQNR lost per scheme") if losses[names[0]].size else ""
    return [
        section(
            "Schemes",
            '<p class="faint">SQNR on the calibration histograms, dB, mean over the feature maps; the darker, the '
            "further from the best of the width. Class: a model tries no step on the data, a search takes the best "
            "by a criterion on them.</p>",
            search_field("tr.scheme", "schemes"),
            '<div class="beside">',
            table(
                rows,
                {"scheme": "name", "class": "class", **{f"{k} bits": k for k in keys}},
                "scheme",
                shades=_by_column(rows, keys),
            ),
            plot,
            "</div>",
        ),
        section(
            "SQNR of every scheme on every feature map",
            '<p class="faint">dB at the width of the run, on the calibration histograms; the darker, the further from '
            "the best of the feature map.</p>",
            search_field("tr.measured", "feature maps"),
            table(
                per_map,
                {"feature map": "name", **{name: name for name in names}},
                "measured",
                css="heat",
                shades=[_shades(row, names) for row in per_map],
            ),
        ),
    ]


def cost_section(result: Mapping[str, Any], compared: Mapping[str, Any] | None) -> str:
    """Return the section on what the network costs; nothing for a run of an older version."""
    cost = result.get("cost")
    if cost is None:
        return ""
    if "not_modelled" in cost:
        return section("Cost", f"<p>Not modelled: {html.escape(cost['not_modelled'])}</p>")
    hardware = cost["hardware"]
    about = (
        f"One image on {hardware['rows']} × {hardware['columns']} multiply-accumulate units beside a buffer of "
        f"{hardware['buffer_bytes'] // 1024} KiB, {hardware['dataflow'].replace('_', ' ')}; energies: "
        f"{hardware['energy']['source']}. A model: trust its ratios before its absolute figures."
    )
    pareto = ""
    if compared is not None:
        metric = measured(result)
        ours, real = (number(in_unit(metric, metric[name]["value"])) for name in ("quantized", "float"))
        label = f"{metric['name']} {ours} {metric['unit']} (float {real} {metric['unit']})"
        figure = plot_pareto(
            cost,
            compared["mean_sqnr_db"],
            result["options"]["scheme"],
            measured_sqnr_db=result["mean_sqnr_db"],
            label=label,
        )
        pareto = drawing(figure, "Energy against SQNR, weights and feature maps of the same width")
    layers = [
        {
            **row,
            "energy_uj": row["energy_pj"] / 1e6,
            "dram_kib": row["dram_bytes"] / 1024,
            "weight_kib": row["weight_bytes"] / 1024,
            "use": 100 * row["utilization"],
        }
        for row in cost["layers"]
    ]
    return section(
        "Cost",
        f'<p class="faint">{html.escape(about)}</p>',
        '<div class="beside">',
        _cost_table(cost),
        pareto,
        "</div>",
        "<details><summary>Layer by layer</summary>",
        search_field("tr.costed", "layers"),
        table(layers, _LAYER_COSTS, "costed"),
        "</details>",
    )


def _cost_table(cost: Mapping[str, Any]) -> str:
    totals, real, fixed = cost["totals"], cost["at"]["float32"], cost["at"]["16/16"]
    rows = []
    for title, (key, factor, decimals) in _COSTS.items():
        values = [round(factor * record[key], decimals) for record in (totals, real, fixed)]
        ratios = [f"{record[key] / totals[key]:.2f} ×" if totals[key] else "–" for record in (real, fixed)]
        rows.append({"name": title, **dict(zip("qrf", values, strict=True)), "over_r": ratios[0], "over_f": ratios[1]})
    columns = {"": "name", "this run": "q", "float32": "r", "16 bits": "f", "float32 / run": "over_r"}
    return table(rows, {**columns, "16 bits / run": "over_f"}, "cost")


def _by_column(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[dict[str, int]]:
    columns = {key: _shades({str(i): row[key] for i, row in enumerate(rows)}) for key in keys}
    return [{key: shade[str(i)] for key, shade in columns.items() if str(i) in shade} for i in range(len(rows))]


def _shades(values: Mapping[str, Any], keys: Sequence[str] | None = None) -> dict[str, int]:
    """Return by key how far a value lies below the largest one; keys without a value are left out."""
    known = {key: values[key] for key in (values if keys is None else keys) if values[key] is not None}
    best = max(known.values(), default=0.0)
    return {key: min(SHADES, math.ceil(SHADES * (best - v) / _FULL_SHADE_DB - 0.05)) for key, v in known.items()}


def _mean(values: Any) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else 0.0
