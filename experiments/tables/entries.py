"""One figure of a table, tables as pivots of figures, and figures as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from experiments.tables.table import Table
from ggdjax.quantization import Accuracy

NOT_RUN = "not run"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One figure; ``value`` is None where there is no result. Accuracies are fractions, SQNR is in dB."""

    network: str
    item: str = ""
    """What of the network: a layer, a feature map, another tool; empty for the network as a whole."""
    scheme: str
    bits: str = ""
    metric: str
    value: float | str | None
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval."""
    images: int | None = None
    image_set: str | None = None
    """Hash of their ids, where the result says so."""
    row: str | None = None
    """Place of the result in the folder of results: the first, where the figure is of several."""
    paper: float | None = None
    """What the paper prints for it."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What the paper's figures are matched by."""
        return self.network, self.scheme, self.bits, self.metric


Cell = Mapping[str, Entry]
"""The figures of one cell by metric."""


def accuracies(
    *, top1: float | None, top5: float | None, images: int | None, image_set: str | None = None, **key: Any
) -> list[Entry]:
    """Return top-1 and top-5 with Wilson's intervals (None: not run)."""
    found = []
    for metric, value in (("top1", top1), ("top5", top5)):
        entry = Entry(metric=metric, value=value, images=images, image_set=image_set, **key)
        if value is not None and images:
            low, high = Accuracy(top1=value, top5=value, images=images).interval()
            entry = replace(entry, low=low, high=high)
        found.append(entry)
    return found


def number(cell: Cell, metric: str, digits: int = 2, scale: float = 1.0) -> str:
    """Return one figure of a cell."""
    value = cell[metric].value if metric in cell else None
    if value is None or isinstance(value, str):
        return value or NOT_RUN
    return f"{scale * value:,.{digits}f}".replace("-", "−")


def percentages(cell: Cell) -> str:
    """Return top-1 / top-5 in %, or top-1 alone."""
    shown = [number(cell, metric, 2, 100) for metric in ("top1", "top5")]
    return " / ".join(shown) if shown[1] != NOT_RUN else shown[0]


def pivot(
    entries: Iterable[Entry],
    *,
    title: str,
    rows: Mapping[str, str],
    columns: str,
    cell: Callable[[Cell], str],
    heads: Mapping[str, str] | None = None,
    best: Callable[[Cell], float | None] | None = None,
) -> Table:
    """Return the table with one row per combination of some fields, and one column per value of another.

    Args:
        entries: rows stand in the order in which they first appear, columns in that of ``heads``, or likewise.
        title: heading of the table.
        rows: heading -> field of `Entry`, for the columns of text at the left.
        columns: the field of `Entry` that goes to the right.
        cell: how the figures of one cell read; where the paper has some, the same beside it.
        heads: heading of each column; default: its value.
        best: worth of a cell, or None where it does not compete; the largest of each column is bold.
    """
    cells: dict[tuple[str, ...], dict[str, dict[str, Entry]]] = {}
    order: dict[str, bool] = {}
    for entry in entries:
        row, column = tuple(getattr(entry, field) for field in rows.values()), getattr(entry, columns)
        cells.setdefault(row, {}).setdefault(column, {})[entry.metric] = entry
        order[column] = order.get(column, False) or entry.paper is not None
    if heads and set(order) <= set(heads):
        order = {column: order[column] for column in heads if column in order}
    top = {}
    for column in order if best else ():
        worth = [w for of_row in cells.values() if (w := best(of_row.get(column, {}))) is not None]
        top[column] = max(worth, default=None)
    lines = []
    for row, of_row in cells.items():
        line = list(row)
        for column, in_paper in order.items():
            found = of_row.get(column, {})
            text = cell(found) if any(e.value is not None for e in found.values()) else NOT_RUN
            if best and top[column] is not None and best(found) == top[column]:
                text = f"**{text}**"
            place = next((e.row for e in found.values() if e.row and e.value is not None), None)
            line.append(f"[{text}]({place})" if place and text != NOT_RUN else text)
            if in_paper:
                line.append(_of_paper(found, cell))
        lines.append(tuple(line))
    names = []
    for column, in_paper in order.items():
        name = (heads or {}).get(column, column)
        names += [name, f"{name}, paper"] if in_paper else [name]
    return Table(title=title, columns=(*rows, *names), rows=tuple(lines), left=len(rows))


def _of_paper(found: Cell, cell: Callable[[Cell], str]) -> str:
    printed = {
        m: replace(e, value=e.paper, low=None, high=None, images=None) for m, e in found.items() if e.paper is not None
    }
    return cell(printed).replace(NOT_RUN, "–") if printed else ""


def by_images(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Return entries by the images that they were evaluated on, the most first: figures of others never share a table.

    What says no images stands with those of its row, or else of the most images.
    """
    entries = list(entries)
    said = [e for e in entries if e.images is not None and e.value is not None]
    sets = sorted({(e.images, e.image_set or "") for e in said}, key=lambda one: (-one[0], one[1]))
    labels = {}
    for images, one in sets:
        others = [other for count, other in sets if count == images]
        which = f", choice {others.index(one) + 1}" if len(others) > 1 else ""
        labels[images, one] = f"{images:,} images{which}"
    found: dict[str, list[Entry]] = {label: [] for label in labels.values()} or {"": []}
    label_of: dict[tuple[str, ...], str] = {}
    for e in said:
        for row in _rows_of(e):
            label_of.setdefault(row, labels[e.images, e.image_set or ""])
    for e in entries:
        if e.images is not None and e.value is not None:
            label = labels[e.images, e.image_set or ""]
        else:
            label = next((label_of[row] for row in _rows_of(e) if row in label_of), next(iter(found)))
        found[label].append(e)
    return {label: group for label, group in found.items() if group}


def on_images(label: str) -> str:
    """Return what a title says of a label of `by_images`."""
    return f", on {label} held out" if label else ""


def _rows_of(e: Entry) -> tuple[tuple[str, ...], ...]:
    return (e.network, e.item, e.scheme, e.bits), (e.network, e.item, e.scheme)


def measured(entries: Iterable[Entry], field: str) -> list[Entry]:
    """Return the entries of those values of a field that have any figure; all, where none has."""
    entries = list(entries)
    kept = {getattr(e, field) for e in entries if e.value is not None or e.paper is not None}
    return [e for e in entries if getattr(e, field) in kept or not kept]


def width_heads(widths: Iterable[str]) -> dict[str, str]:
    """Return the headings of widths such as ``8/4``: ``W8A4``."""
    return {pair: f"W{pair.replace('/', 'A')}" for pair in widths}


def networks_of(entries: Iterable[Entry]) -> list[str]:
    """Return the networks in the order in which they appear."""
    return list(dict.fromkeys(entry.network for entry in entries))


def select(entries: Iterable[Entry], **wanted: str | Sequence[str]) -> list[Entry]:
    """Return the entries whose fields have these values, or one of these."""
    sets = {field: {value} if isinstance(value, str) else set(value) for field, value in wanted.items()}
    return [e for e in entries if all(getattr(e, field) in values for field, values in sets.items())]


def lookup(entries: Iterable[Entry], *by: str) -> dict[tuple[str, ...], float]:
    """Return the values that there are, by some fields: what plots are drawn from."""
    return {
        tuple(getattr(e, field) for field in by): e.value
        for e in entries
        if e.value is not None and not isinstance(e.value, str)
    }


def to_csv(entries: Iterable[Entry]) -> str:
    """Return one line per figure; numbers to nine digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Entry))
    for entry in entries:
        values = [getattr(entry, field.name) for field in fields(Entry)]
        values = [NOT_RUN if f.name == "value" and v is None else v for f, v in zip(fields(Entry), values, strict=True)]
        writer.writerow("" if v is None else f"{v:.9g}" if isinstance(v, float) else v for v in values)
    return text.getvalue()
