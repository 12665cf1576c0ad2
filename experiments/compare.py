"""`python -m experiments compare A B`: what changed beyond noise between two results, as Markdown for a pull request.

    python -m experiments compare runs/before runs/after
    python -m experiments compare before.jsonl after.jsonl --tolerance-db 0.05

Of each cell with the same settings in both. Accuracies: McNemar's exact test where both say which images are right and
the images are the same, at 5 % over all such tests together (Bonferroni); else 95 % intervals that do not overlap.
SQNR: more than a tolerance. Other figures have no rule: those that differ are named. Exit status 1 if something got
worse, 0 if not.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments import accuracy
from experiments.rows import Row, read_lines
from experiments.store import evaluated_on, read_rows
from ggdjax import GgdjaxError, tune
from ggdjax.cli import parse_words
from ggdjax.quantization import Accuracy

#: Share of wrong alarms over all paired tests together.
_ALPHA = 0.05
#: What a row says of its making, and what goes with an accuracy.
_MAKING = frozenset({"code", "versions", "device", "machine", "seconds", "setup_seconds", "finished", "settings"})
_WITH_ACCURACY = {"stages", "right", "top1", "top5", "top1_interval", "top5_interval", "images", "image_ids"}
_NO_FIGURES = _MAKING | _WITH_ACCURACY


@dataclass(frozen=True, kw_only=True)
class Change:
    """One figure in both results."""

    cell: str
    figure: str
    before: float | None
    after: float | None
    unit: str
    p_value: float | None = None
    """Of McNemar's test, where it was possible."""
    beyond: bool = False
    """Whether a rule other than a paired test says that it changed."""

    @property
    def mark(self) -> str:
        """Whether the figure is ``worse`` (it fell, or went), ``better`` or ``new``."""
        if self.before is None:
            return "new"
        return "worse" if self.after is None or self.after < self.before else "better"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two results, cell by cell."""

    changes: list[Change]
    """Every accuracy and SQNR of the cells in both."""
    cells: int
    """In both."""
    alone: tuple[int, int]
    """Cells in either alone."""
    others: dict[str, int]
    """Other figure -> in how many cells it differs."""


def read(path: Path) -> list[Row]:
    """Return the rows of a file, or of all stores in a folder and below it.

    Raises:
        GgdjaxError: there is none.
    """
    if path.is_file():
        rows = read_lines(path)
    else:
        folders = sorted({file.parent for file in path.rglob("cells-*.jsonl")})
        rows = [row for folder in folders for row in read_rows(folder)]
    rows = [row for row in rows if {"experiment", "config_hash", "key"} <= row.keys()]
    if not rows:
        raise GgdjaxError(f"{path} holds no results: give a folder that `run` wrote, or a file of rows")
    return rows


def compare(before: Sequence[Row], after: Sequence[Row], tolerance_db: float) -> Comparison:
    """Compare every figure of the cells that are in both."""
    first, second = ({(r["experiment"], r["config_hash"], r["key"]): r for r in rows} for rows in (before, after))
    both = [key for key in first if key in second]
    found, others = [], Counter()
    for key in both:
        cell, pair = f"{key[0]}: {key[2]}", (first[key], second[key])
        found += _accuracies(cell, *pair)
        found += _decibels(cell, *pair, tolerance_db)
        others.update(_others(*pair))
    return Comparison(
        changes=found, cells=len(both), alone=(len(first) - len(both), len(second) - len(both)), others=dict(others)
    )


def _others(before: Row, after: Row) -> Iterator[str]:
    """Yield what differs of a cell that neither is an accuracy nor has figures in dB."""
    for name in dict.fromkeys((*before, *after)):
        values = before.get(name), after.get(name)
        if name not in _NO_FIGURES and values[0] != values[1] and not any(dict(_figures_db({name: v})) for v in values):
            yield name


def _accuracies(cell: str, before: Row, after: Row) -> Iterator[Change]:
    pairs = [("", before, after)]
    stages = [row.get("stages", {}) for row in (before, after)]
    pairs += [(f"{s}: ", *(one.get(s, {}) for one in stages)) for s in dict.fromkeys((*stages[0], *stages[1]))]
    same = evaluated_on(before) is not None and evaluated_on(before) == evaluated_on(after)
    for name, one, other in pairs:
        for which in ("top1", "top5"):
            figure, ends = f"{name}top-{which[3:]}", (one.get(which), other.get(which))
            values = {"cell": cell, "figure": figure, "before": ends[0], "after": ends[1], "unit": "%"}
            right = [accuracy.right(row) for row in (one, other)] if which == "top1" and same else [None]
            if all(r is not None for r in right) and len(right[0]) == len(right[1]):
                yield Change(**values, p_value=tune.mcnemar(*right).p_value)
            elif ends != (None, None):
                yield Change(**values, beyond=None in ends or _apart(one, other, which))


def _apart(one: Row, other: Row, which: str) -> bool:
    ends = [
        Accuracy(top1=row[which], top5=row[which], images=int(row["held_out_images"])).interval()
        for row in (one, other)
    ]
    return ends[0][1] < ends[1][0] or ends[1][1] < ends[0][0]


def _decibels(cell: str, before: Row, after: Row, tolerance: float) -> Iterator[Change]:
    one, other = dict(_figures_db(before)), dict(_figures_db(after))
    for name in dict.fromkeys((*one, *other)):
        ends = one.get(name), other.get(name)
        if ends != (None, None):
            beyond = None in ends or abs(ends[1] - ends[0]) > tolerance
            yield Change(cell=cell, figure=name, before=ends[0], after=ends[1], unit="dB", beyond=beyond)


def _figures_db(value: Any, name: str = "", inside: bool = False) -> Iterator[tuple[str, float | None]]:
    """Yield every figure in dB of a row, by its place."""
    if isinstance(value, dict):
        for key, one in value.items():
            below = inside or key.endswith("_db")
            label = one.get("layer", key) if isinstance(one, dict) else key
            yield from _figures_db(one, f"{name} {label}".strip(), below)
    elif isinstance(value, list):
        for place, one in enumerate(value):
            mark = f"{one['layer']} {one['kind']}" if isinstance(one, dict) and "layer" in one else str(place)
            yield from _figures_db(one, f"{name} {mark}".strip(), inside)
    elif inside and (value is None or isinstance(value, int | float)):
        yield name, value


def markdown(found: Comparison, names: tuple[str, str], tolerance_db: float) -> str:
    """Return what changed beyond noise, what got worse first, and what was compared."""
    changed = beyond_noise(found.changes)
    paired = sum(change.p_value is not None for change in found.changes)
    counts = Counter(change.mark for change in changed)
    said = f"{counts['worse']} worse, {counts['better']} better" + (f", {counts['new']} new" if counts["new"] else "")
    lines = [f"### `{names[0]}` → `{names[1]}`: {said}", ""]
    if changed:
        lines += ["| | cell | figure | before | after | change | |", "|---|---|---|---:|---:|---:|---|"]
    for change in sorted(changed, key=lambda change: change.mark != "worse"):
        how = "gone" if change.after is None else ""
        how = f"p = {change.p_value:.2g}" if change.p_value is not None else how
        scale = 100 if change.unit == "%" else 1
        shown = ["–" if v is None else f"{scale * v:.2f}" for v in (change.before, change.after)]
        if change.before is not None and change.after is not None:
            shown.append(f"{scale * (change.after - change.before):+.2f} {'points' if change.unit == '%' else 'dB'}")
        else:
            shown.append("")
        lines.append(f"| {change.mark} | {change.cell} | {change.figure} | {' | '.join(shown)} | {how} |")
    lines += [
        "" if changed else "Nothing changed beyond noise.",
        f"Compared {len(found.changes)} figures of {found.cells} cells; {found.alone[0]} cells are in `{names[0]}` "
        f"alone, {found.alone[1]} in `{names[1]}`. Noise: {paired} accuracies by McNemar's exact test (5 % over all of "
        f"them), others by 95 % intervals that overlap; SQNR up to {tolerance_db:g} dB.",
    ]
    if found.others:
        differ = ", ".join(f"`{name}` in {count}" for name, count in found.others.items())
        lines += ["", f"No rule says what is noise of other figures; cells in which they differ: {differ}."]
    return "\n".join(lines) + "\n"


def beyond_noise(found: Sequence[Change]) -> list[Change]:
    """Return the figures that changed beyond noise."""
    tests = max(1, sum(change.p_value is not None for change in found))
    return [c for c in found if (c.beyond if c.p_value is None else c.p_value < _ALPHA / tests)]


@dataclass(frozen=True, kw_only=True)
class Compare:  # noqa: D101
    __doc__ = __doc__

    before: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BEFORE")]
    """Folder or file of results."""
    after: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="AFTER")]
    """The same, later."""
    tolerance_db: float = 0.1
    """An SQNR changes from here on."""


def main(argv: Sequence[str]) -> None:
    """Read the command line, print what changed.

    Raises:
        GgdjaxError: a place without results, or two without a cell in common.
        SystemExit: 1 if something got worse.
    """
    args = parse_words({"compare": Compare}, "python -m experiments", __doc__, ["compare", *argv])
    found = compare(read(args.before), read(args.after), args.tolerance_db)
    if not found.cells:
        raise GgdjaxError(f"{args.before} and {args.after} have no cell of the same settings in common")
    print(markdown(found, (str(args.before), str(args.after)), args.tolerance_db), end="")
    if any(change.mark == "worse" for change in beyond_noise(found.changes)):
        sys.stdout.flush()
        raise SystemExit(1)
