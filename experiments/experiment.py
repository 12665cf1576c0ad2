"""What an experiment is: a frozen dataclass of settings that expands to cells and measures one cell at a time."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ggdjax import GgdjaxError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: One unit of work: axis -> value, such as ``{"network": "digits", "bits": 4, "scheme": "ggd", "seed": 0}``.
Cell = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Experiment(abc.ABC):
    """A sweep over cells.

    Fields named in ``AXES`` say which cells there are; every other field is a setting that changes what a cell
    measures. A finished cell is skipped where both its key and the hash of the settings agree, so an axis can grow.
    """

    NAME: ClassVar[str]
    """How rows call it; the same for all its presets."""
    AXES: ClassVar[tuple[str, ...]]

    @abc.abstractmethod
    def check(self) -> None:
        """Refuse what cannot run, before anything is computed.

        Raises:
            GgdjaxError: a network, width, scheme or number outside what is known or possible.
        """

    @abc.abstractmethod
    def cells(self) -> list[Cell]:
        """Return all cells in the order in which they run, those of a network together.

        Each has at least the axes ``network`` and ``seed``.
        """

    @abc.abstractmethod
    def prepare(self, network: str, seed: int) -> Any:
        """Return what the cells of one network and seed share: the network calibrated, its images decoded."""

    @abc.abstractmethod
    def image_ids(self, prepared: Any) -> dict[str, Sequence[str]]:
        """Return the ids of the images in each part that was used."""

    @abc.abstractmethod
    def measure(self, prepared: Any, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return the figures of one cell, as JSON has them.

        Args:
            prepared: what `prepare` returned for the cell's network and seed.
            cell: one of `cells`.
            folder: the results folder, for checkpoints of cells that take long.
        """

    @abc.abstractmethod
    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return the figures of a finished cell as the table at the end shows them: heading -> text."""

    @property
    def settings(self) -> dict[str, Any]:
        """What changes the measurement of every cell alike."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in self.AXES}

    @property
    def config_hash(self) -> str:
        """Identity of the settings."""
        text = json.dumps([self.NAME, self.settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def key_of(cell: Cell) -> str:
    """Return the identity of a cell among those of an experiment with the same settings."""
    return " ".join(f"{axis}={value}" for axis, value in cell.items())


def check_numbers(experiment: Experiment, *names: str, least: int = 1) -> None:
    """Refuse an empty field, and a number below ``least`` in it; None is left alone.

    Raises:
        GgdjaxError: names the field, what it has and what is expected.
    """
    for name in names:
        given = getattr(experiment, name)
        values = given if isinstance(given, tuple) else () if given is None else (given,)
        if given == ():
            raise GgdjaxError(f"`{name}` is empty: name at least one")
        if any(isinstance(value, int) and value < least for value in values):
            raise GgdjaxError(f"`{name}` must be at least {least}, got {' '.join(map(str, values))}")
