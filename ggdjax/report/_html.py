"""Pieces of the page: sections, tables that sort and filter, plots that lie in the page itself.

Functions and `string.Template`, no jinja2: tables are made row by row, and few names are left to fill in.
"""

from __future__ import annotations

import base64
import html
import io
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

#: A cell's shade goes from 0 (as good as the best) to this; the colour of the last, light enough for black letters.
SHADES = 9
_DARKEST = (240, 150, 90)


def shade_rules() -> str:
    """Return the style rules of the shades, white to the darkest."""
    levels = [[round(255 + (full - 255) * k / SHADES) for full in _DARKEST] for k in range(1, SHADES + 1)]
    return " ".join(
        f"td.s{k} {{ background: rgb{tuple(level)}; color: #1c2430; }}" for k, level in enumerate(levels, start=1)
    )


def section(title: str, *parts: str) -> str:
    """Return a heading with what follows it."""
    return f"<h2>{html.escape(title)}</h2>\n" + "\n".join(parts)


def search_field(selector: str, what: str) -> str:
    """Return a field that hides those of ``selector`` whose data-name does not hold what is typed."""
    return f'<input type="search" aria-label="filter {what}" placeholder="filter {what}" data-filters="{selector}">'


def plot_tag(data: bytes, name: str, *, kind: str = "png") -> str:
    """Return a PNG or SVG with its caption."""
    name = html.escape(name, quote=True)
    coded = base64.b64encode(data).decode()
    mime = "image/svg+xml" if kind == "svg" else f"image/{kind}"
    return (
        f'<figure><img alt="{name}" loading="lazy" src="data:{mime};base64,{coded}">'
        f"<figcaption>{name}</figcaption></figure>"
    )


def drawing(figure: Figure, name: str) -> str:
    """Return a matplotlib figure as SVG, its letters as text."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ggdjax"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return plot_tag(buffer.getvalue(), name, kind="svg")


def table(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    kind: str,
    *,
    css: str = "",
    shades: Sequence[Mapping[str, int]] = (),
) -> str:
    """Return a table that sorts by a click on a head.

    Args:
        rows: each with a ``name``, by which it is filtered. A tuple is a shape, and sorts by its size; a list holds
            one value per channel: its span is shown, and sorts by the least.
        columns: title of the column -> key in a row.
        kind: class of the rows.
        css: class of the table.
        shades: per row, key -> 0 to `SHADES`.
    """
    heads = "".join(f'<th scope="col"><button>{html.escape(title)}</button></th>' for title in columns)
    body = "".join(
        f'<tr class="{kind}" data-name="{html.escape(str(row["name"]), quote=True)}">'
        + "".join(_cell(row.get(key), (shades[i] if shades else {}).get(key)) for key in columns.values())
        + "</tr>"
        for i, row in enumerate(rows)
    )
    return (
        f'<div class="scroll"><table class="{css}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def number(value: float | None) -> str:
    """Return a number as people read it."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return str(value)
    if 1000 <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.2f}" if value == 0 or 0.1 <= abs(value) < 1000 else f"{value:.3g}"


def _cell(value: Any, shade: int | None = None) -> str:
    """Return a table cell; numbers keep their value for sorting."""
    if isinstance(value, tuple):
        return f'<td data-value="{math.prod(value)}">{"×".join(map(str, value))}</td>'
    if isinstance(value, list):
        return f'<td data-value="{min(value)}">{number(min(value))} to {number(max(value))}</td>'
    if value is None:
        return "<td>–</td>"
    if isinstance(value, str):
        return f"<td>{html.escape(value)}</td>"
    shaded = "" if shade is None else f' class="s{shade}"'
    return f'<td data-value="{value}"{shaded}>{number(value)}</td>'
