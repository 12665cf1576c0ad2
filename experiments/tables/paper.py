"""The paper's own printed figures, from a user's CSV; none are shipped."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from experiments.tables.entries import Entry
from ggdjax import GgdjaxError

COLUMNS = ("table", "network", "scheme", "bits", "metric", "value")

Paper = dict[tuple[str, str, str, str], float]
"""(network, scheme, bits, metric) -> what the paper prints."""


def read_paper(path: Path, metrics: Mapping[str, Collection[str]]) -> dict[str, Paper]:
    """Return, per table, the paper's figures.

    Args:
        path: CSV with a line of headings, `COLUMNS`. Accuracies are fractions, as in the CSV files of the tables.
        metrics: the metrics of every table, by its name.

    Raises:
        GgdjaxError: the file is missing or not such a CSV, or a line of it is not; names the line.
    """
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GgdjaxError(f"`--paper`: {path} is not a readable CSV file: {error}") from None
    if not lines or tuple(cell.strip() for cell in lines[0]) != COLUMNS:
        raise GgdjaxError(f"`--paper`: the first line of {path} is not the headings {','.join(COLUMNS)}")
    found: dict[str, Paper] = {name: {} for name in metrics}
    for place, line in enumerate(lines[1:], 2):
        where = f"`--paper`: {path}, line {place}"
        if len(line) != len(COLUMNS):
            raise GgdjaxError(f"{where}: {len(line)} fields, expected {len(COLUMNS)}: {','.join(COLUMNS)}")
        table, network, scheme, bits, metric, value = (cell.strip() for cell in line)
        if table not in metrics:
            raise GgdjaxError(f"{where}: `table` is {table!r}; known: {', '.join(metrics)}")
        if metric not in metrics[table]:
            raise GgdjaxError(f"{where}: `metric` is {metric!r}; known: {', '.join(metrics[table])}")
        if not network or not scheme:
            raise GgdjaxError(f"{where}: `network` or `scheme` is empty")
        key = (network, scheme, bits, metric)
        if key in found[table]:
            raise GgdjaxError(f"{where}: {', '.join(key)} is there twice; keep one")
        try:
            found[table][key] = float(value)
        except ValueError:
            found[table][key] = math.nan
        if not math.isfinite(found[table][key]):
            raise GgdjaxError(f"{where}: `value` is {value!r}, expected a number")
        if metric in ("top1", "top5") and not 0 <= found[table][key] <= 1:
            raise GgdjaxError(f"{where}: `value` is {value}; accuracies are fractions from 0 to 1")
    return found


def with_paper(entries: Iterable[Entry], paper: Paper) -> list[Entry]:
    """Return the entries with the paper's figures; those that meet none of ours come last, ours not run."""
    rest, found = dict(paper), []
    for entry in entries:
        printed = rest.pop(entry.key, None) if not entry.item else None
        found.append(entry if printed is None else replace(entry, paper=printed))
    for (network, scheme, bits, metric), value in rest.items():
        found.append(Entry(network=network, scheme=scheme, bits=bits, metric=metric, value=None, paper=value))
    return found
