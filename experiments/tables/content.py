"""What one of the tables is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.tables.entries import Entry
from experiments.tables.results import Results
from experiments.tables.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Content:
    """One of the tables: figures from the results, how they are laid out, and their plot."""

    name: str
    title: str
    about: str
    """What a reader must know to read it."""
    sources: tuple[str, ...]
    """The results files it is made from."""
    metrics: Mapping[str, str]
    """Metric -> what it is and its unit."""
    entries: Callable[[Results], list[Entry]]
    tables: Callable[[Sequence[Entry]], list[Table]]
    draw: Callable[[Sequence[Entry]], Figure]
    caption: str
    """What the plot shows."""
    shows: Callable[[str, Mapping[str, Any]], bool] = lambda name, cell: True
    """Whether it shows a cell of an experiment, of those among the sources."""
