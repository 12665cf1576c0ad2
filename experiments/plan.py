"""What is left to do of an experiment, and how long it will take by what is done."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from experiments import store
from experiments.experiment import Cell, Experiment, key_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The cells of one shard, and the rows of those that are finished."""

    name: str
    """Of the experiment."""
    cells: list[Cell]
    rows: dict[str, dict[str, Any]]
    """Finished cells by key, of all shards."""

    @property
    def todo(self) -> list[Cell]:
        """The cells without a result, in order."""
        return [cell for cell in self.cells if key_of(cell) not in self.rows]


def plan(
    experiment: Experiment, folder: Path, shard: tuple[int, int] = (1, 1), *, only: Callable[[Cell], bool] | None = None
) -> Plan:
    """Return the cells of one shard: every n-th, whatever is finished, so that shards agree whenever they start.

    With ``only``, of the cells that it says; one that was measured with other settings is finished, too.
    """
    rows = {
        row["key"]: row
        for row in store.read_rows(folder)
        if row["experiment"] == experiment.NAME
        and (only or row["config_hash"] == experiment.config_hash(row["network"]))
    }
    index, count = shard
    cells = filter(only, experiment.cells()) if only else experiment.cells()
    unique = list({key_of(cell): cell for cell in cells}.values())
    return Plan(name=experiment.NAME, cells=unique[index - 1 :: count], rows=rows)


def seconds_left(
    todo: list[Cell], rows: list[dict[str, Any]], ready: tuple[str, int] | None = None
) -> tuple[float, int]:
    """Return the seconds that cells will take by finished ones of the same network and kind, and how many have none.

    Calibrating a network counts once for each seed, but not for the network and seed that is ``ready``.
    """
    cell_seconds: dict[Any, list[float]] = defaultdict(list)
    setup_seconds: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        cell_seconds[_like(row)].append(row.get("seconds", 0.0))
        setup_seconds[row["network"]].append(row.get("setup_seconds", 0.0))
    known = [cell for cell in todo if _like(cell) in cell_seconds]
    setups = {(cell["network"], cell["seed"]) for cell in known} - {ready}
    total = sum(fmean(cell_seconds[_like(cell)]) for cell in known)
    return total + sum(fmean(setup_seconds[network]) for network, _ in setups), len(todo) - len(known)


def _like(cell: dict[str, Any]) -> tuple[Any, Any]:
    return cell["network"], cell.get("kind")
