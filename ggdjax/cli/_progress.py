"""Progress bars, the same for every command."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import Console


@contextmanager
def progress_bar(console: Console, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar of ``total`` units while the block runs; yield a function that advances it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=not console.is_terminal) as bars:
        task = bars.add_task(title, total=total)
        yield lambda amount: bars.advance(task, amount)


def counted(batches: Iterable[tuple[Any, Any]], advance: Callable[[int], None]) -> Iterator[tuple[Any, Any]]:
    """Yield the batches as they are, and advance the bar by the images of each when the next is asked for."""
    for images, labels in batches:
        yield images, labels
        advance(len(labels))
