"""The results files: reading them, which command makes each, and what they say of where they were measured."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.networks import ALL
from experiments.real_networks import NETWORKS
from experiments.rows import read_lines
from experiments.store import evaluated_on, read_rows
from ggdjax import GgdjaxError

FOLDER = Path(__file__).resolve().parents[1] / "results"

#: Results file -> the benchmark that makes it; what is not here is an experiment of the runner.
MADE_BY = {
    "compiled_h200.json": "compiling h200",
    "compiled_v5e.json": "compiling v5e",
}
PEERS = "peers"
#: Networks of the project: those of others may stand in a folder without making its tables differ.
KNOWN = frozenset({*ALL, "any"})
#: Experiments whose networks are the project's alone.
_FIXED = frozenset({"zoo", "integers-on-networks", "fuzz"})
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file or folder of results and what it says of itself."""

    name: str
    feeds: str
    """The results file that a table names as its source."""
    command: str
    device: str
    day: str


@dataclass(frozen=True, kw_only=True)
class Store:
    """One store of the runner."""

    folder: Path
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Results:
    """The folder of results: stores of the runner in it and in the folders below it, and files of benchmarks.

    A file or store that is not there holds nothing.
    """

    folder: Path = FOLDER
    known: bool = False
    """Leave out networks that are not the project's."""

    def read(self, name: str) -> Any:
        """Return what a JSON file holds; empty where it is not there.

        Raises:
            GgdjaxError: it is not JSON.
        """
        path = self.folder / name
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except json.JSONDecodeError as error:
            raise GgdjaxError(f"{path} is not JSON ({error}); delete it and run {command_of(name)}") from None

    def rows(self, name: str, *, every_seed: bool = False) -> list[dict[str, Any]]:
        """Return the rows of an experiment, each with its ``place`` in this folder.

        One cell has one row: of several, with other settings, that on the most held-out images, and of these the
        last one. Of several seeds the first of each network counts, or ``every_seed``.
        """
        rows = [row for folder in self.stores for row in folder.rows if row["experiment"] == name]
        return _one_each([row for row in rows if not self.known or _ours(row)], every_seed)

    @cached_property
    def stores(self) -> list[Store]:
        """The stores in this folder and in those below it."""
        found = {path.parent for pattern in ("", "*/", "*/*/") for path in self.folder.glob(f"{pattern}cells-*")}
        stores = []
        for folder in sorted(found):
            if folder.name != PEERS:
                at = folder.relative_to(self.folder)
                rows = [row | {"place": (at / row["place"]).as_posix()} for row in read_rows(folder, places=True)]
                stores.append(Store(folder=folder, rows=rows))
        return stores

    @cached_property
    def _every(self) -> dict[str, int]:
        """Network -> all images that it may hold out."""
        found: dict[str, int] = {}
        for row in self.rows("schemes"):
            found[row["network"]] = max(found.get(row["network"], 0), row.get("held_out_images", 0))
        return found

    def images_of(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the number of images that a row evaluated on, and what tells them from others of this number.

        All that the network may hold out are the same ones; of others the hash of their ids, where the row says it.
        """
        count = row.get("held_out_images")
        if count is None:
            return {"images": None, "image_set": None}
        rest = "left by tuning" if "tuning_images" in row else None
        every = int(count) == self._every.get(row.get("network", ""))
        return {"images": int(count), "image_set": None if every else evaluated_on(row) or rest}

    def said_of(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the images of a row, and its place."""
        return {**self.images_of(row), "row": row.get("place")}

    def _peer_files(self) -> list[Path]:
        return sorted(path for path in (self.folder / PEERS).glob("*") if path.suffix in (".csv", ".jsonl"))

    def _peer_rows(self, path: Path) -> list[dict[str, Any]]:
        if path.suffix == ".jsonl":
            return read_lines(path)
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def peers(self) -> list[dict[str, Any]]:
        """Return the rows of other tools, most images and newest last; empty fields left out, figures as numbers."""
        rows = [
            {**row, "place": f"{PEERS}/{path.name}#L{line}"}
            for path in self._peer_files()
            for line, row in enumerate(self._peer_rows(path), 1 + (path.suffix == ".csv"))
        ]
        ratios = (f"calibration_over_float_pass_{end}" for end in ("low", "high"))
        whole = ("top1", "top5", "held_out_images", *ratios)
        kept = [{key: value for key, value in row.items() if value not in ("", None)} for row in rows]
        try:
            rows = [row | {key: float(row[key]) for key in whole if key in row} for row in kept]
        except ValueError as error:
            raise GgdjaxError(f"{self.folder / PEERS}: a figure is no number: {error}") from None
        return sorted(rows, key=lambda row: (row.get("held_out_images", 0.0), row.get("measured", "")))

    def holds(self, name: str) -> bool:
        """Return whether there is anything of an experiment, a results file, or the folder of other tools."""
        return (self.folder / name).exists() if name in (*MADE_BY, PEERS) else bool(self.rows(name))

    def sources(self) -> list[Source]:
        """Return every source that is there, with command, device, versions and day."""
        found = []
        for store in self.stores:
            for name in dict.fromkeys(row["experiment"] for row in store.rows if row["experiment"] != PEERS):
                rows = [row for row in store.rows if row["experiment"] == name]
                if self.known and not any(map(_ours, rows)):
                    continue
                place = str(store.folder.relative_to(self.folder))
                found.append(self._source(place, name, f"python -m experiments run {name}", rows))
        for name in MADE_BY:
            if (self.folder / name).is_file():
                found.append(self._source(name, name, command_of(name), self.read(name)))
        for path in self._peer_files():
            name = f"{PEERS}/{path.name}"
            found.append(self._source(name, PEERS, f"see {PEERS}/README.md", self._peer_rows(path)))
        return found

    def _source(self, name: str, feeds: str, command: str, held: Any) -> Source:
        said = list(_provenance(held))
        devices = "; ".join(dict.fromkeys(map(_device, said))) or "not recorded"
        days = {str(row.get("finished", row.get("measured", "")))[:10] for row in said}
        days = sorted(day for day in days if _DATE.fullmatch(day))
        day = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else self._committed(name)
        return Source(name=name, feeds=feeds, command=command, device=devices, day=day)

    def _committed(self, name: str) -> str:
        """Return the day of the last commit of a file, where git knows it."""
        git = ["git", "-C", str(self.folder), "log", "-1", "--format=%as", "--", name]
        try:
            day = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
        except OSError:
            day = ""
        return f"committed {day}" if day else "not recorded"


def _ours(row: dict[str, Any]) -> bool:
    return row["network"] in KNOWN or row["experiment"] in _FIXED


def networks_of(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Return the networks of some rows, those of the project first; these where there are no rows."""
    names = dict.fromkeys(row["network"] for row in rows)
    own = [name for name in NETWORKS if name in names]
    return own + [name for name in names if name not in NETWORKS] or [*NETWORKS]


def command_of(name: str) -> str:
    """Return the command that makes a results file."""
    return f"python -m experiments.benchmarks.{MADE_BY[name]}"


def _one_each(rows: list[dict[str, Any]], every_seed: bool) -> list[dict[str, Any]]:
    first: dict[str, int] = {}
    for row in rows:
        if "seed" in row:
            first[row["network"]] = min(row["seed"], first.get(row["network"], row["seed"]))
    found: dict[Any, dict[str, Any]] = {}
    for place, row in enumerate(rows):
        if not every_seed and "seed" in row and row["seed"] != first[row["network"]]:
            continue
        key = (row["experiment"], row["key"], _run_of(row)) if "key" in row else place
        if key not in found or _worth(row) >= _worth(found[key]):
            found[key] = row
    return list(found.values())


def _worth(row: dict[str, Any]) -> tuple[int, str]:
    return row.get("held_out_images", 0), row.get("finished", "")


def _run_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what of the settings makes several rows of one cell that stand beside each other."""
    if "stages" not in row:
        return ()
    rounding = row.get("rounding", "nearest")  # which older rows do not say
    return row.get("objective"), rounding, row.get("tuning_images"), "equalized" in row["stages"]


def _provenance(held: Any) -> Iterator[dict[str, Any]]:
    """Yield every part of a results file that says on what device it was made."""
    if isinstance(held, dict):
        if "device" in held:
            yield held
        held = list(held.values())
    if isinstance(held, list):
        for part in held:
            if isinstance(part, dict | list):
                yield from _provenance(part)


def _device(row: dict[str, Any]) -> str:
    device = row["device"]
    if isinstance(device, str):
        return device
    machine, versions = row.get("machine", {}), row.get("versions", {})
    text = f"{device['count']} × {device['kind']}" if device["count"] > 1 else device["kind"]
    if "architecture" in machine:
        text += f" ({machine['architecture']})"
    return text + "".join(f", {name} {versions[name]}" for name in ("ggdjax", "jax") if name in versions)
