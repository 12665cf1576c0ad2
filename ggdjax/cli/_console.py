"""How commands look: one console, progress with the time that is left."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from rich.console import Console

#: Width of what goes into a file or a pipe, which has none of its own: nothing is cut off.
_PIPE = 120
#: Stage -> what people read.
_TITLES = {
    "equalize": "Equalizing",
    "distill": "Distilling images",
    "calibrate": "Calibrating",
    "quantize": "Choosing steps",
    "widths": "Choosing widths per layer",
    "round_weights": "Rounding weights",
    "recalibrate": "Calibrating with rounded weights",
    "bias_correction": "Correcting biases",
    "evaluate_untuned": "Evaluating before tuning",
    "search": "Searching steps",
    "gradient": "Gradient steps",
    "evaluate": "Evaluating",
}


def console() -> Console:
    """Return the console: colours and bars on a terminal, unless NO_COLOR or TERM=dumb; plain text elsewhere."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPE, highlight=False)


@contextmanager
def progress_bar(console: Console, title: str, total: int) -> Generator[Callable[[int], None]]:
    """Show a bar of ``total`` units while the block runs; yield a function that advances it."""
    with _bars(console) as bars:
        task = bars.add_task(title, total=total)
        yield lambda amount: bars.advance(task, amount)


@contextmanager
def stages(console: Console) -> Generator[Callable[[str, int, int, str], None]]:
    """Show a bar per stage while the block runs; yield the ``progress`` of `ggdjax.recipe.run`."""
    with _bars(console) as bars:
        tasks: dict[str, Any] = {}

        def progress(stage: str, done: int, total: int, note: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(_title(stage), total=total)
            if note and done in (0, total) and note != "timing one step":
                bars.console.print(f"{_title(stage)}: {note}", markup=False)
            bars.update(tasks[stage], completed=done, total=total)

        def finished(stage: str, done: int, total: int, note: str) -> None:
            # What a stage does last is not known to it: the next one's beginning ends its bar.
            for name, task in tasks.items():
                if name != stage and (t := bars.tasks[bars.task_ids.index(task)]).total is not None:
                    bars.update(task, completed=t.total)
            progress(stage, done, total, note)

        yield finished


def _title(stage: str) -> str:
    """Return what people read: of a ladder's stages the rung comes first."""
    rung, _, own = stage.rpartition(": ")
    title = _TITLES.get(own, own)
    return f"{rung}: {title}" if rung else title


def counted(batches: Iterable[tuple[Any, Any]], advance: Callable[[int], None]) -> Iterator[tuple[Any, Any]]:
    """Yield the batches as they are, and advance the bar by the images of each when the next is asked for."""
    for images, labels in batches:
        yield images, labels
        advance(len(labels))


def _bars(console: Console) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<26}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
    still = not console.is_terminal or console.is_dumb_terminal
    return Progress(*columns, console=console, disable=still)
