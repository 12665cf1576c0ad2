"""Run the cells of an experiment, one after the other, and keep each the moment it is finished."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from experiments import display, files, store
from experiments.experiment import Cell, Experiment, key_of
from experiments.plan import plan, seconds_left
from experiments.provenance import code_version
from ggdjax import GgdjaxError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from rich.console import Console


def run(
    experiment: Experiment,
    folder: Path,
    shard: tuple[int, int] | None,
    console: Console,
    *,
    only: Callable[[Cell], bool] | None = None,
) -> None:
    """Run what is not finished of all cells, or of one shard, and print the plan, a bar and the table of the cells.

    With ``only``, of the cells that it says; one that was measured with other settings is finished, too.

    Raises:
        GgdjaxError: another run holds the folder or this shard, or a cell cannot be measured.
    """
    lock = store.exclusive_folder if shard is None else store.shared_folder
    shard = shard or (1, 1)
    with lock(folder):
        files.keep(folder, experiment)
        planned = plan(experiment, folder, shard, only=only)
        display.print_plan(planned, folder, 1, console)
        left, rows = planned.todo, list(planned.rows.values())
        unknown = seconds_left(left, rows)[1] == len(left)
        with display.progress_bar(console, len(left)) as update:
            for number, row in enumerate(finish(experiment, folder, shard, only=only), 1):
                rows.append(row)
                seconds, unlike = seconds_left(left[number:], rows, ready=(row["network"], row["seed"]))
                update(number, seconds)
                if number == 1 and unknown and len(left) > 1:
                    display.print_estimate(len(left) - 1 - unlike, seconds, unlike, console)
    display.print_table(experiment, plan(experiment, folder, shard, only=only), console)


def finish(
    experiment: Experiment, folder: Path, shard: tuple[int, int], *, only: Callable[[Cell], bool] | None = None
) -> Iterator[dict[str, Any]]:
    """Measure what is not finished of a shard; yield each row once it is on the disk.

    Raises:
        GgdjaxError: another process has this shard, or a cell cannot be measured.
    """
    with store.appending(folder, shard) as append:
        for row in _rows(experiment, folder, plan(experiment, folder, shard, only=only).todo):
            append(row)
            yield row


def _rows(experiment: Experiment, folder: Path, cells: Iterable[Cell]) -> Iterator[dict[str, Any]]:
    from ggdjax import report

    made_by = {"code": code_version(), **report.environment()}
    prepared = None
    for (network, seed), group in groupby(cells, key=lambda cell: (cell["network"], cell["seed"])):
        del prepared  # the images of one network go before those of the next come
        prepared, setup_seconds = _timed(f"network={network} seed={seed}", experiment.prepare, network, seed)
        made_by["config_hash"] = experiment.config_hash(network)
        made_by["settings"] = experiment.settings_of(network)
        parts = experiment.image_ids(prepared)
        images = {part: store.keep_image_ids(folder, ids) for part, ids in parts.items()}
        for cell in group:
            key = key_of(cell)
            figures, seconds = _timed(key, experiment.measure, prepared, cell, folder)
            yield {
                "experiment": experiment.NAME,
                "key": key,
                **cell,
                **figures,
                "seconds": seconds,
                "setup_seconds": setup_seconds,
                # An axis of this name (`few-images`) stays what it is.
                "image_ids" if "images" in cell else "images": images,
                **made_by,
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            }


def _timed(what: str, function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    try:
        result = function(*arguments)
    except GgdjaxError as error:
        raise GgdjaxError(f"{what}: {error}") from error
    return result, round(time.perf_counter() - start, 3)
