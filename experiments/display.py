"""What a person sees of a run: the plan, a bar, and the table of the cells."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from experiments.experiment import Experiment, key_of
from experiments.plan import Plan, seconds_left
from experiments.provenance import code_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def make_console() -> Console:
    """Return the console; a file or a pipe, which has no width of its own, gets lines that are not cut."""
    # In a notebook, too: rich's own output there is a widget, which ends the kernel's when it closes.
    console = Console(force_jupyter=False)
    return console if console.is_terminal else Console(width=160, force_jupyter=False)


def print_experiments(console: Console) -> None:
    """Print every experiment, what it measures and the tables that it feeds."""
    from experiments.configs import CONFIGS
    from experiments.launch import first_line
    from experiments.tables.command import CONTENTS

    table = Table("experiment", "what it measures", "tables", box=None)
    for name, experiment in CONFIGS.items():
        feeds = [content.name for content in CONTENTS.values() if experiment.NAME in content.sources]
        table.add_row(name, first_line(experiment), " ".join(feeds))
    console.print(table)


def print_plan(planned: Plan, folder: Path, processes: int, console: Console) -> None:
    """Print how much there is to do in this folder, and for how long."""
    todo = planned.todo
    line = f"{folder}: {planned.name}: {len(planned.cells)} cells, {len(planned.cells) - len(todo)} finished, "
    line += f"{len(todo)} to do"
    if todo:
        per_network = Counter(cell["network"] for cell in todo)
        line += f" ({', '.join(f'{name} {count}' for name, count in per_network.items())})"
        seconds, unknown = seconds_left(todo, list(planned.rows.values()))
        if unknown == len(todo):
            line += "; how long they take, the first will tell"
        else:
            line += f"; about {_duration(seconds / processes)}"
            line += f" in {processes} processes" if processes > 1 else ""
            line += f", and {unknown} cells of which none like them is finished" if unknown else ""
    console.print(line, soft_wrap=True, highlight=False)
    code = code_version()
    done = [planned.rows[key] for cell in planned.cells if (key := key_of(cell)) in planned.rows]
    others = sum(row.get("code") != code for row in done)
    if others:
        console.print(f"{others} finished cells were made by another version of the code", highlight=False)


def print_estimate(cells: int, seconds: float, unlike: int, console: Console) -> None:
    """Print what the first cell tells of the others, and how many it tells nothing of."""
    line = f"By the first cell, {cells} cells like it take about {_duration(seconds)}"
    line += f"; {unlike} are of other networks or kinds" if unlike else ""
    console.print(line, highlight=False)


def print_table(experiment: Experiment, planned: Plan, console: Console) -> None:
    """Print every cell with its figures; one without a result says so."""
    if not planned.cells:
        return  # more shards than cells
    shown = {key: experiment.shown(row) for key, row in planned.rows.items()}
    headings = list(dict.fromkeys(heading for row in shown.values() for heading in row))
    table = Table(*planned.cells[0], *headings or ["figures"])
    for cell in planned.cells:
        row = shown.get(key_of(cell))
        texts = [row.get(heading, "") for heading in headings] if row else ["not run"]
        table.add_row(*map(str, cell.values()), *texts)
    console.print(table)


@contextmanager
def progress_bar(console: Console, total: int) -> Iterator[Callable[[int, float], None]]:
    """Show a bar of ``total`` cells; yield what takes the number of finished ones and the seconds that are left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=not console.is_terminal) as bar:
        task = bar.add_task("cells", total=total, left="")
        yield lambda done, seconds: bar.update(task, completed=done, left=f"about {_duration(seconds)} left")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
