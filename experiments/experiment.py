"""What an experiment is: a frozen dataclass of settings that expands to cells and measures one cell at a time."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from experiments import networks
from experiments.networks import OwnNetwork
from ggdjax import GgdjaxError
from ggdjax._errors import near_matches

Names = Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--network",), metavar="NAME [NAME ...]")]
"""Names of networks."""
#: One unit of work: axis -> value, such as ``{"network": "digits", "bits": 4, "scheme": "ggd", "seed": 0}``.
Cell = dict[str, Any]
#: Field of an experiment -> what its values are called in a cell; other fields lose their last letter.
_AXIS = {name: name for name in ("bits", "accumulator_bits", "widths", "per", "images")} | {"measures": "kind"}


@dataclass(frozen=True, kw_only=True)
class Experiment(abc.ABC):
    """A sweep over cells.

    Fields named in ``AXES`` say which cells there are; every other field is a setting that changes what a cell
    measures. A finished cell is skipped where both its key and the hash of the settings agree, so an axis can grow.
    """

    NAME: ClassVar[str]
    """How rows call it; the same for all its presets."""
    AXES: ClassVar[tuple[str, ...]]
    """Besides ``networks`` and ``seeds``, in the order of the loops, the outermost first."""
    MAY_BE_EMPTY: ClassVar[tuple[str, ...]] = ()
    """Axes that stand for all, or the usual, values where none is named."""
    NEEDS_IMAGES: ClassVar[bool] = True
    """Whether networks come with images."""
    TAKES_OWN: ClassVar[bool] = True
    """Whether networks may be the user's, or of the zoo with weights of the user's."""
    FREE: ClassVar[str] = "digits"
    """A network that needs no data: settings are checked with it where nothing is to run."""
    BENCH: ClassVar[dict[str, Any]] = {}
    """Options of the `Bench` of `prepare`."""
    PASSES: ClassVar[tuple[dict[str, float], dict[str, float]] | None] = None
    """How often the images of each part run through the network, in `prepare` and in one cell: see `passes`."""
    HOLDS: ClassVar[tuple[str, ...]] = ("accuracy",)
    """Parts of the images that are held in memory."""
    BESIDES: ClassVar[str] = ""
    """What `passes` leaves out."""

    networks: Names = ("digits",)
    """Networks: names in experiments/networks.py; with `--data`, names of the zoo, or module:function."""
    seeds: tuple[int, ...] = (0,)
    """Each chooses other calibration images."""
    own: Annotated[tuple[OwnNetwork, ...], tyro.conf.Suppress] = ()
    """Networks of the user's."""

    def check(self) -> None:
        """Refuse what cannot run, before anything is computed.

        Raises:
            GgdjaxError: a network, width, scheme or number outside what is known or possible.
        """
        from ggdjax import QuantConfig, schemes

        check_numbers(self, "networks", *self.AXES)
        check_numbers(self, *(f.name for f in dataclasses.fields(self) if f.name.endswith("_images")))
        check_numbers(self, "seeds", least=0)
        for bits in getattr(self, "bits", ()):
            QuantConfig(weight_bits=bits, activation_bits=bits)
        for text in getattr(self, "widths", ()):
            weights, maps = widths_of(text)
            QuantConfig(weight_bits=weights, activation_bits=maps)
        for scheme in getattr(self, "schemes", ()):
            schemes.get(scheme)
        networks.check(self.networks, self.own, images=self.NEEDS_IMAGES)

    def cells(self) -> list[Cell]:
        """Return all cells in the order in which they run, those of a network together.

        Each has at least the axes ``network`` and ``seed``.
        """
        return [
            {"network": network, **cell, "seed": seed}
            for network in self.networks
            for seed in self.seeds
            for cell in self.cells_of(network)
        ]

    def cells_of(self, network: str) -> Iterable[Cell]:
        """Return the cells of a network, but for its name and the seed: all combinations of the axes."""
        axes = {self.axis(field): getattr(self, field) for field in self.AXES}
        return (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))

    def prepare(self, network: str, seed: int) -> Any:
        """Return what the cells of one network and seed share: the network calibrated, its images as asked for."""
        from experiments.bench import Bench

        wanted = (getattr(self, f"{part}_images", None) for part in ("calibration", "held_out"))
        return Bench(self.network(network), *wanted, tuning=self.tuning_count(network), seed=seed, **self.BENCH)

    def image_ids(self, prepared: Any) -> dict[str, Sequence[str]]:
        """Return the ids of the images in each part that was used."""
        return getattr(prepared, "ids", {})

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

    def passes(self, cell: Cell | None) -> dict[str, float] | None:
        """Return how often the images of each part run through the network: in `prepare` (None), or in one cell.

        Parts are those of `bench.choose_parts`; ``""`` is a number of images. A pass of gradients counts three times.
        None: nobody can say.
        """
        return None if self.PASSES is None else self.PASSES[cell is not None]

    def tuning_count(self, network: str) -> int:
        """Return how many images tune a network."""
        return 0

    def network(self, name: str) -> networks.AnyNetwork:
        """Return one of the networks, by its name."""
        return networks.find(name, self.own)

    @staticmethod
    def axis(field: str) -> str:
        """Return what the values of a field are called in a cell."""
        return _AXIS.get(field, field[:-1])

    @property
    def settings(self) -> dict[str, Any]:
        """What changes the measurement of every cell alike."""
        axes = {*self.AXES, "networks", "seeds", "own"}
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in axes}

    def settings_of(self, network: str) -> dict[str, Any]:
        """Return the settings and, where the network is the user's, what tells it from others of its name."""
        mine = next((one for one in self.own if one.name == network), None)
        return self.settings if mine is None else {**self.settings, "own": mine.identity}

    def config_hash(self, network: str) -> str:
        """Return the identity of the settings."""
        text = json.dumps([self.NAME, self.settings_of(network)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def key_of(cell: Cell) -> str:
    """Return the identity of a cell among those of an experiment with the same settings."""
    return " ".join(f"{axis}={value}" for axis, value in cell.items())


def widths_of(text: str) -> tuple[int, int]:
    """Return the bits of weights and of feature maps that a text such as ``4/8`` names.

    Raises:
        GgdjaxError: it names none.
    """
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise GgdjaxError(f"`widths` are bits of weights/feature maps, such as 4/8; got `{text}`")
    return int(parts[0]), int(parts[1])


def seeds_of(text: str) -> range:
    """Return the seeds that a text such as ``0-99`` names.

    Raises:
        GgdjaxError: it names none.
    """
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise GgdjaxError(f"`ranges` are of seeds, the first and the last, such as 0-99; got `{text}`")
    return range(int(first), int(last) + 1)


def check_known(experiment: Experiment, field: str, known: Iterable[str]) -> None:
    """Refuse a name in a field that is not known.

    Raises:
        GgdjaxError: names it and those that are known.
    """
    for name in getattr(experiment, field):
        if name not in known:
            raise GgdjaxError(f"no {field[:-1]} is called `{name}`: {near_matches(name, known)}")


def check_numbers(experiment: Experiment, *names: str, least: int = 1) -> None:
    """Refuse an empty field, and a number below ``least`` in it; None is left alone.

    Raises:
        GgdjaxError: names the field, what it has and what is expected.
    """
    for name in names:
        given = getattr(experiment, name)
        values = given if isinstance(given, tuple) else () if given is None else (given,)
        if given == () and name not in experiment.MAY_BE_EMPTY:
            raise GgdjaxError(f"`{name}` is empty: name at least one")
        if any(isinstance(value, int) and value < least for value in values):
            raise GgdjaxError(f"`{name}` must be at least {least}, got {' '.join(map(str, values))}")
