"""One self-contained HTML page of a run: figures, tables that sort and filter, every picture, provenance."""

from __future__ import annotations

import base64
import html
import json
import math
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from ggdjax._errors import GgdjaxError
from ggdjax.report.run_folder import RESULT_FILE, RESULT_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_TEMPLATE = Path(__file__).with_name("page.html")

_WANTED = "give a folder that `ggdjax quantize --out` wrote"
_PROVENANCE = ("versions", "device", "machine", "seed", "seconds", "options", "preprocessing")

#: Column title -> key of a row in result.json.
_MAP_COLUMNS = {
    "feature map": "name",
    "shape": "shape",
    "zeros, %": "zero_fraction",
    "a": "a",
    "d": "d",
    "p": "p",
    "step": "step",
    "SQNR alone, dB": "sqnr_db",
    "accumulated, dB": "accumulated_sqnr_db",
    "predicted, dB": "predicted_sqnr_db",
}
_WEIGHT_COLUMNS = {
    "layer": "name",
    "kernel": "shape",
    "fractional length": "frac_bits",
    "SQNR, dB": "sqnr_db",
    "bias length": "bias_frac_bits",
    "bias SQNR, dB": "bias_sqnr_db",
}


def html_page(folder: Path) -> str:
    """Return the page of the run in ``folder``; it needs no network and no other file.

    Raises:
        GgdjaxError: ``folder`` is no run folder of ggdjax, or its result.json is damaged.
    """
    path = folder / RESULT_FILE
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GgdjaxError(
            f"{folder} holds no {RESULT_FILE}: give a folder that `ggdjax quantize --out` wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise GgdjaxError(f"{path} cannot be read: {error}") from None
    if RESULT_KEY not in result:
        raise GgdjaxError(f"{path} was not written by ggdjax: {_WANTED}")
    options = result["options"]
    widths = f"W{options['weight_bits']}A{options['activation_bits']}"
    sections = [
        _section("Feature maps", _filter("tr.map, figure.map", "feature maps"), _maps(result["feature_maps"])),
        _pictures(folder),
        _section("Weights and biases", _filter("tr.layer", "layers"), _weights(result["weights"])),
        _picture_section("Where the signal is lost", folder / "sensitivity.png"),
        _tuning(result, folder),
    ]
    provenance = {
        key: result[key] for key in ("versions", "device", "machine", "seed", "seconds", "options", "preprocessing")
    }
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(f"{Path(str(result['model'])).name}, {widths}"),
        subtitle=html.escape(
            f"scheme {options['scheme']}; {result['calibration_images']} calibration images, "
            f"{result['held_out_images']} held out"
        ),
        cards="".join(_cards(result)),
        sections="\n".join(sections),
        provenance=html.escape(json.dumps(provenance, indent=1, ensure_ascii=False)),
    )


def _cards(result: dict[str, Any]) -> Iterable[str]:
    intervals = result["intervals_95"]
    for title, key in (
        ("top-1, float", "float_top1"),
        ("top-1, quantized", "quantized_top1"),
        ("top-5, float", "float_top5"),
        ("top-5, quantized", "quantized_top5"),
    ):
        low, high = intervals[key]
        yield _card(title, f"{100 * result[key]:.2f} %", f"95 %: {100 * low:.1f} to {100 * high:.1f}")
    if "untuned" in result:
        yield _card("top-1 before tuning", f"{100 * result['untuned']['quantized_top1']:.2f} %", "same images")
    yield _card("mean SQNR", f"{_number(result['mean_sqnr_db'])} dB", "feature maps, each alone")


def _card(title: str, value: str, below: str) -> str:
    title, value, below = map(html.escape, (title, value, below))
    return f'<div class="card">{title}<b>{value}</b><span class="faint">{below}</span></div>'


def _maps(rows: list[dict[str, Any]]) -> str:
    shown = [{**row, "zero_fraction": 100 * row["zero_fraction"]} for row in rows]
    return _table(shown, _MAP_COLUMNS, "map")


def _weights(rows: list[dict[str, Any]]) -> str:
    return _table(rows, _WEIGHT_COLUMNS, "layer")


def _tuning(result: dict[str, Any], folder: Path) -> str:
    tuning = result.get("tuning")
    if not tuning:
        return ""
    text = (
        f"<p>On {len(tuning['images'])} images of their own. On the held-out images {tuning['gained']} were gained and "
        f"{tuning['lost']} lost (McNemar, p = {tuning['mcnemar_p_value']:.2g}).</p>"
    )
    picture = folder / "tuning.png"
    return _section("Tuning", text, _figure(picture, "tuning", "") if picture.is_file() else "")


def _pictures(folder: Path) -> str:
    files = sorted((folder / "feature_maps").glob("*.png"))
    if not files:
        return ""
    figures = "".join(_figure(file, file.stem.partition("_")[2], "map") for file in files)
    return _section("Values, fit and range of every feature map", f'<div class="pictures">{figures}</div>')


def _picture_section(title: str, file: Path) -> str:
    return _section(title, _figure(file, title, "")) if file.is_file() else ""


def _figure(file: Path, name: str, kind: str) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    name = html.escape(name, quote=True)
    return (
        f'<figure class="{kind}" data-name="{name}"><img alt="{name}" src="data:image/png;base64,{data}">'
        f"<figcaption>{name}</figcaption></figure>"
    )


def _section(title: str, *parts: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n" + "\n".join(parts)


def _filter(selector: str, what: str) -> str:
    return f'<input type="search" aria-label="filter {what}" placeholder="filter {what}" data-filters="{selector}">'


def _table(rows: list[dict[str, Any]], columns: dict[str, str], kind: str) -> str:
    heads = "".join(f"<th><button>{html.escape(title)}</button></th>" for title in columns)
    body = "".join(
        f'<tr class="{kind}" data-name="{html.escape(row["name"], quote=True)}">'
        + "".join(_cell(row.get(key)) for key in columns.values())
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    """Return a table cell; numbers keep their value for sorting, a list shows its span."""
    if isinstance(value, list):
        return _span(value)
    if value is None:
        return "<td>–</td>"
    if isinstance(value, str):
        return f"<td>{html.escape(value)}</td>"
    return f'<td data-value="{value}">{_number(value)}</td>'


def _span(values: Sequence[Any]) -> str:
    if values and all(isinstance(v, int) for v in values):
        return f'<td data-value="{math.prod(values)}">{"×".join(map(str, values))}</td>'
    return f"<td>{_number(min(values))} to {_number(max(values))}</td>"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return str(value)
    return f"{value:.2f}" if 0.1 <= abs(value) < 1000 else f"{value:.3g}"
