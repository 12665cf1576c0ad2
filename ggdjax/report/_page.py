"""One self-contained HTML page of a run: figures, tables that sort and filter, every plot, provenance."""

from __future__ import annotations

import html
import json
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from ggdjax._citation import citation
from ggdjax._errors import expect_path
from ggdjax.report._comparison import compare_run
from ggdjax.report._comparisons import cost_section, scheme_sections
from ggdjax.report._distortion import plot_distortion
from ggdjax.report._drawn import drawn_curves, drawn_feature_maps
from ggdjax.report._html import drawing, number, plot_tag, search_field, section, shade_rules, table
from ggdjax.report._record import in_unit, measured
from ggdjax.report._run_folder import RECIPE_FILE, load_run
from ggdjax.report._worst import quantized_line, worst_section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

TEMPLATE = Path(__file__).with_name("page.html")

_PROVENANCE = ("versions", "device", "machine", "seed", "seconds", "options", "preprocessing")

#: Column title -> key of a row in result.json.
_MAP_COLUMNS = {
    "feature map": "name",
    "shape": "shape",
    "bits": "bits",
    "zeros, %": "zero_fraction",
    "a": "a",
    "d": "d",
    "p": "p",
    "step": "step",
    "SQNR alone, dB": "sqnr_db",
    "accumulated, dB": "accumulated_sqnr_db",
    "predicted, dB": "predicted_sqnr_db",
    "step ± %": "step_error",
}
_WEIGHT_COLUMNS = {
    "layer": "name",
    "kernel": "shape",
    "bits": "bits",
    "fractional length": "frac_bits",
    "SQNR, dB": "sqnr_db",
    "bias length": "bias_frac_bits",
    "bias SQNR, dB": "bias_sqnr_db",
}
_OUTPUT_COLUMNS = {
    "rounded alone": "name",
    "what": "rounded",
    "SQNR of the output, dB": "sqnr_db",
    "cosine": "cosine",
    "KL, nats": "kl",
}


def html_page(folder: Path, progress: Callable[[str], None] = lambda line: None) -> str:
    """Return the page of the run in ``folder``; it needs no network and no other file.

    The first page of a run compares all schemes, which takes about a minute; what was found stays in the folder.

    Args:
        folder: that `ggdjax quantize --out` wrote.
        progress: called with one line of text before each piece of work.

    Raises:
        GgdjaxError: ``folder`` is no run folder of ggdjax, or its result.json is damaged.
    """
    folder = expect_path("folder", folder, "the name of a folder")
    result = load_run(folder).result
    compared = compare_run(folder, result, progress)
    sensitivity, search = drawn_curves(folder, result)
    options = result["options"]
    kind = "distilled" if options.get("distilled_images") else "calibration"
    mean = options.get("mean_bits")
    widths = f"W{options['weight_bits']}A{options['activation_bits']}" if mean is None else f"{mean:g} bits on average"
    filtered = search_field("tr.map, details.map", "feature maps")
    sections = [
        worst_section(result),
        section("Feature maps", filtered, _maps(result["feature_maps"]), *_plots(folder, result, compared, progress)),
        *([] if compared is None else scheme_sections(compared, options["scheme"])),
        section("Weights and biases", search_field("tr.layer", "layers"), _weights(result["weights"])),
        section("Where the signal is lost", plot_tag(sensitivity, "Where the signal is lost")) if sensitivity else "",
        _output(result.get("sensitivity")),
        _tuning(result, search),
        _sweep(folder),
        cost_section(result, compared),
    ]
    subtitle = (
        f"scheme {options['scheme']}; {result['calibration_images']} {kind} images, "
        f"{result['held_out_images']} held out"
    )
    return filled(
        f"{Path(str(result['model'])).name}, {widths}",
        subtitle,
        sections,
        [folder],
        {key: result[key] for key in _PROVENANCE},
        cards="".join(_cards(result)),
        quantized=quantized_line(result),
    )


def filled(
    title: str, subtitle: str, sections: Iterable[str], folders: Iterable[Path], provenance: Any, **parts: str
) -> str:
    """Return the page of some runs; ``parts`` are HTML, ``cards`` and ``quantized``."""
    # Those of older versions hold no recipe and count as the method alone.
    cited = citation(*(load_run(folder).recipe for folder in folders if (folder / RECIPE_FILE).is_file()))
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        {"cards": "", "quantized": "", **parts},
        title=html.escape(title),
        subtitle=html.escape(subtitle),
        shades=shade_rules(),
        sections="\n".join(sections),
        citation=html.escape(cited),
        provenance=html.escape(json.dumps(provenance, indent=1, ensure_ascii=False)),
    )


def _cards(result: dict[str, Any]) -> Iterable[str]:
    intervals, metric = result["intervals_95"], measured(result)
    for title, key in (
        ("top-1, float", "float_top1"),
        ("top-1, quantized", "quantized_top1"),
        ("top-5, float", "float_top5"),
        ("top-5, quantized", "quantized_top5"),
    ):
        if key in intervals:
            low, high = intervals[key]
            yield _card(title, f"{100 * result[key]:.2f} %", f"95 %: {100 * low:.1f} to {100 * high:.1f}")
    if not intervals:
        for name in ("float", "quantized"):
            low, high = (number(in_unit(metric, end)) for end in metric[name]["interval_95"])
            value = f"{number(in_unit(metric, metric[name]['value']))} {metric['unit']}"
            yield _card(f"{metric['name']}, {name}", value, f"95 %: {low} to {high}")
    if "untuned" in result:
        before = in_unit(metric, measured(result["untuned"])["quantized"]["value"])
        yield _card(f"{metric['name']} before tuning", f"{number(before)} {metric['unit']}", "same images")
    yield _card("mean SQNR", f"{number(result['mean_sqnr_db'])} dB", "feature maps, each alone")
    if "totals" in result.get("cost", {}):
        energy = {name: record["energy_pj"] for name, record in result["cost"]["at"].items()}
        saved = energy["float32"] / result["cost"]["totals"]["energy_pj"]
        yield _card("energy, modelled", f"÷ {saved:.1f}", "against float32")


def _card(title: str, value: str, below: str) -> str:
    title, value, below = map(html.escape, (title, value, below))
    return f'<div class="card">{title}<b>{value}</b><span class="faint">{below}</span></div>'


def _maps(rows: list[dict[str, Any]]) -> str:
    percent = ("zero_fraction", "step_error")
    shown = [
        {**row, "shape": tuple(row["shape"])} | {key: 100 * row[key] for key in percent if row.get(key) is not None}
        for row in rows
    ]
    about = "<p>Step ±: standard error of the step by images; more images would change it by about as much.</p>"
    return about + table(shown, _MAP_COLUMNS, "map")


def _weights(rows: list[dict[str, Any]]) -> str:
    free = {"step": "step"} if any(row["frac_bits"] is None for row in rows) else {}  # weights in no fixed point
    return table([{**row, "shape": tuple(row["shape"])} for row in rows], {**_WEIGHT_COLUMNS, **free}, "layer")


def _output(found: dict[str, Any] | None) -> str:
    """Return the table of what each rounding alone does to the output, where the run measured it."""
    if found is None:
        return ""
    text = f"<p>Logits against those of the float network, on {found['images']} calibration images.</p>"
    field = search_field("tr.output", "feature maps and layers")
    return section(
        "What each rounding alone does to the output", text, field, table(found["rows"], _OUTPUT_COLUMNS, "output")
    )


def _sweep(folder: Path) -> str:
    """Return the plot of a sweep over widths, where the run made one."""
    path = folder / "pareto.png"
    return section("Accuracy against cost", plot_tag(path.read_bytes(), "a sweep over widths")) if path.exists() else ""


def _tuning(result: dict[str, Any], search: bytes | None) -> str:
    tuning = result.get("tuning")
    if not tuning:
        return ""
    metric = measured(result)
    if "gained" in tuning:
        said = (
            f"{tuning['gained']} were gained and {tuning['lost']} lost (McNemar, p = {tuning['mcnemar_p_value']:.2g})"
        )
    else:
        change, low, high = (
            number(in_unit(metric, value)) for value in (tuning["difference"], *tuning["difference_interval_95"])
        )
        said = (
            f"{html.escape(metric['name'])} changed by {change} {metric['unit']} (95 %: {low} to {high}, "
            f"p = {number(tuning['p_value'])})"
        )
    text = f"<p>On {len(tuning['images'])} images of their own. On the held-out images {said}.</p>"
    return section("Tuning", text, plot_tag(search, "tuning") if search else "")


def _plots(
    folder: Path, result: dict[str, Any], compared: Mapping[str, Any] | None, progress: Callable[[str], None]
) -> Iterable[str]:
    """Return one fold per feature map with its values and the distortion of its steps; the worst one is open."""
    rows = result["feature_maps"]
    known = [row["sqnr_db"] for row in rows if row["sqnr_db"] is not None]
    worst = next((i for i, row in enumerate(rows) if known and row["sqnr_db"] == min(known)), 0)
    plots = drawn_feature_maps(folder, result, progress)
    for index, row in enumerate(rows):
        progress(f"Drawing distortion: {index + 1} of {len(rows)}, {row['name']}")
        inside = plot_tag(plots[index], "values, fit and range") if index in plots else ""
        if compared is not None:
            inside += drawing(plot_distortion(compared["feature_maps"][index]), "distortion against step")
        if inside:
            name = html.escape(row["name"], quote=True)
            yield (
                f'<details class="map" data-name="{name}"{" open" * (index == worst)}><summary>{name}'
                f' <span class="faint">{number(row["sqnr_db"])} dB</span></summary>'
                f'<div class="plots">{inside}</div></details>'
            )
