"""The commands that measure a table's figures, and running those of its cells that are missing."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import files, runner
from experiments.configs import CONFIGS
from experiments.display import print_plan
from experiments.experiment import Cell, Experiment
from experiments.plan import plan
from experiments.tables.results import FOLDER, MADE_BY, PEERS, Results, command_of
from ggdjax import GgdjaxError

if TYPE_CHECKING:
    from rich.console import Console

    from experiments.tables.content import Content


#: Values of an axis that a command names, though it would measure them among others.
_FEW = 4


def commands_of(content: Content, results: Results) -> list[str]:
    """Return the commands that made what is there of a table's results, that runs what is missing, and the table's."""
    found = []
    for name in content.sources:
        if results.folder != FOLDER and not results.holds(name):
            continue  # of the project's networks
        if name == PEERS:
            found.append("python -m experiments.peers")
        elif name in MADE_BY:
            found.append(command_of(name))
        else:
            found += _runs(name, results) or [f"python -m experiments run {name}"]
    where = "" if results.folder == FOLDER else f" --results {shlex.quote(str(results.folder))}"
    return [
        *dict.fromkeys(found),
        *(f"python -m experiments tables {content.name}{o}{where}" for o in (" --missing", "")),
    ]


def _runs(name: str, results: Results) -> list[str]:
    """Return a command for all rows of an experiment that share their settings."""
    usual, groups = CONFIGS[name], {}
    for row in results.rows(name, every_seed=True):
        own = "own" in row["settings"] if "settings" in row else False
        key = str(Path(row["place"]).parent) if own else str(row.get("settings"))
        groups.setdefault((own, key), []).append(row)
    found = []
    for (own, key), rows in groups.items():
        if own:
            found.append(shlex.join(["python", "-m", "experiments", "run", str(results.folder / key / files.KEPT)]))
            continue
        settings = {**usual.settings, **rows[0].get("settings", {})}
        words = [word for field, value in usual.settings.items() for word in _option(field, value, settings[field])]
        for axis, values in _axes(usual, rows).items():
            words += [f"--{axis.replace('_', '-')}", *map(str, values)]
        found.append(shlex.join(["python", "-m", "experiments", "run", name, *words]))
    return found


def _option(field: str, usual: Any, value: Any) -> list[str]:
    if value == usual or (isinstance(usual, tuple) and list(usual) == value):
        return []
    option = f"--{field.replace('_', '-')}"
    if isinstance(value, bool):
        return [option if value else f"--no-{option[2:]}"]
    return [option, *map(str, value if isinstance(value, list | tuple) else [value])]


def _axes(usual: Experiment, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the axes whose values are not among the usual ones, or are few of them; and networks that are not all."""
    found, cells = {}, usual.cells()
    for field in ("networks", *usual.AXES, "seeds"):
        axis, known = usual.axis(field), getattr(usual, field)
        usually = {cell[axis] for cell in cells}  # with those that belong to every run, such as the float network
        values = list(dict.fromkeys(row[axis] for row in rows if axis in row))
        few = usually != {*values} and (field == "networks" or len(values) <= _FEW)
        if values and (few or not usually.issuperset(values)):
            options = known or usually - {"float"}
            found[field] = [v for v in values if (v in options or v not in usually) and _possible(usual, field, v)]
    return found


def _possible(usual: Experiment, field: str, value: Any) -> bool:
    """Whether today's code knows a value."""
    try:
        dataclasses.replace(usual, **{"networks": (usual.FREE,), field: (value,)}).check()
    except GgdjaxError:
        return False
    return True


def run_missing(contents: Sequence[Content], results: Results, console: Console, *, dry_run: bool = False) -> None:
    """Run the cells of some tables that no row has, with whatever settings, in the folders that hold the others.

    An experiment whose networks or images are not there is told of, and left out; so is one without a row where the
    folder holds networks of the user's: it would measure those of the project.
    """
    own = any(experiment.own for store in results.stores for experiment in files.kept(store.folder).values())
    for name in dict.fromkeys(name for content in contents for name in content.sources):
        if name in MADE_BY and not results.holds(name):
            console.print(f"{results.folder / name} is not there: {command_of(name)}", soft_wrap=True, highlight=False)
        if name in MADE_BY or name == PEERS:
            continue
        if own and not results.holds(name):
            console.print(
                f"{name}: nothing in {results.folder}: add it to the file of your experiments", soft_wrap=True
            )
            continue
        shown = [content.shows for content in contents if name in content.sources]

        def only(cell: Cell, name: str = name, shown: Sequence[Callable[[str, Cell], bool]] = shown) -> bool:
            return any(shows(name, cell) for shows in shown)

        for experiment, folder in _experiments(name, results):
            planned = plan(experiment, folder, only=only)
            if not planned.todo or dry_run:
                print_plan(planned, folder, 1, console)
                continue
            try:
                experiment.check()
            except GgdjaxError as error:
                console.print(f"{name}: not run: {error}", soft_wrap=True, highlight=False)
                continue
            runner.run(experiment, folder, None, console, only=only)


def _experiments(name: str, results: Results) -> list[tuple[Experiment, Path]]:
    """Return the experiments of a name and their folders: as a folder keeps them, else as they usually run."""
    folders = [store.folder for store in results.stores if any(row["experiment"] == name for row in store.rows)]
    kept = [(files.kept(folder)[name], folder) for folder in folders if name in files.kept(folder)]
    return kept or [(CONFIGS[name], folders[0] if folders else results.folder / name)]
