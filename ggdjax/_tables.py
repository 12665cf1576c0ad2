"""What a notebook shows of a value: its `repr` above a table.

By hand, because pandas would be installed for this alone.
"""

from __future__ import annotations

import html
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Rows that are shown of a long table.
_MOST_ROWS = 60


def html_table(value: object, rows: Iterable[Mapping[str, Any]], count: int) -> str:
    """Return the HTML of ``rows`` (all with the same columns) below ``repr(value)``; ``count``: how many there are."""
    shown = list(islice(rows, _MOST_ROWS))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in (shown[0] if shown else ()))
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(_text(v))}</td>' for v in row.values())}</tr>" for row in shown)
    more = f"<p>{count - len(shown)} rows more</p>" if count > len(shown) else ""
    title = f"<pre>{html.escape(repr(value))}</pre>"
    return f"{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    array = np.asarray(value) if hasattr(value, "shape") else None
    if array is not None and array.ndim:  # per channel
        low, high = array.min(), array.max()
        return f"{low:.4g}" if low == high else f"{low:.4g} … {high:.4g}"
    return str(value)
