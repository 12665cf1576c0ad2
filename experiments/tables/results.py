"""The results files: reading them, which command makes each, and what they say of where they were measured."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.rows import read_lines
from experiments.store import read_rows
from ggdjax import GgdjaxError

FOLDER = Path(__file__).resolve().parents[1] / "results"

#: Results file -> the benchmark that makes it.
MADE_BY = {
    "backward_forward.jsonl": "backward_forward",
    "backward_forward_cost.json": "backward_forward --naive",
    "calibration_memory.json": "calibration_memory",
    "cost_of_networks.json": "cost_of_networks",
    "families_on_networks.json": "families_on_networks",
    "fit_against_scipy.json": "fit_against_scipy",
    "fit_throughput.json": "fit_throughput",
    "float_throughput.json": "float_throughput",
    "gradient_tuning.json": "gradient_tuning",
    "schemes_on_networks.jsonl": "schemes_on_networks",
    "shipped_networks.json": "shipped_networks",
    "simulator_throughput.json": "simulator_throughput",
    "steps_throughput.json": "steps_throughput",
    "time_to_choose.json": "time_to_choose",
    "tuning_scaling.json": "tuning_scaling",
    "weights_on_networks.json": "weights_on_networks",
}
#: Results file -> the experiment of the runner whose cells count as more of its rows.
RUNS = {"schemes_on_networks.jsonl": "schemes", "backward_forward.jsonl": "tuning"}
PEERS = "peers"
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


@dataclass(frozen=True)
class Results:
    """The folder of results; a file that is not there holds nothing."""

    folder: Path = FOLDER

    def read(self, name: str) -> Any:
        """Return what a JSON file holds, or the rows of a JSON-lines file; empty where it is not there.

        Raises:
            GgdjaxError: it is not JSON.
        """
        path = self.folder / name
        try:
            if name.endswith(".jsonl"):
                return read_lines(path)
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except json.JSONDecodeError as error:
            raise GgdjaxError(f"{path} is not JSON ({error}); delete it and run {command_of(name)}") from None

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of a file: its lines, its list, or what it holds under `rows`.

        Cells of the runner (`python -m experiments run … --out` into a folder beside the file) come first, so that the
        file has the last word.
        """
        found = self.read(name)
        found = found if isinstance(found, list) else found.get("rows", [])
        return [row for folder in self._run_folders(name) for row in _cells(folder, RUNS[name])] + found

    def _run_folders(self, name: str) -> list[Path]:
        if name not in RUNS:
            return []
        folders = dict.fromkeys(path.parent for path in sorted(self.folder.glob("*/cells-*.jsonl")))
        return [folder for folder in folders if folder.name != PEERS and _cells(folder, RUNS[name])]

    def _peer_files(self) -> list[Path]:
        return sorted(path for path in (self.folder / PEERS).glob("*") if path.suffix in (".csv", ".jsonl"))

    def _peer_rows(self, path: Path) -> list[dict[str, Any]]:
        if path.suffix == ".jsonl":
            return self.read(f"{PEERS}/{path.name}")
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def peers(self) -> list[dict[str, Any]]:
        """Return the rows of other tools, most images and newest last; empty fields left out, figures as numbers."""
        rows = [row for path in self._peer_files() for row in self._peer_rows(path)]
        whole = (
            "top1",
            "top5",
            "held_out_images",
            "calibration_over_float_pass_low",
            "calibration_over_float_pass_high",
        )
        kept = [{key: value for key, value in row.items() if value not in ("", None)} for row in rows]
        try:
            rows = [row | {key: float(row[key]) for key in whole if key in row} for row in kept]
        except ValueError as error:
            raise GgdjaxError(f"{self.folder / PEERS}: a figure is no number: {error}") from None
        return sorted(rows, key=lambda row: (row.get("held_out_images", 0.0), row.get("measured", "")))

    def holds(self, name: str) -> bool:
        """Return whether there is anything of a results file, or of the peers' folder."""
        return (self.folder / name).exists() or bool(self._run_folders(name))

    def sources(self) -> list[Source]:
        """Return every source that is there, with command, device, versions and day."""
        found = []
        for name in MADE_BY:
            if (self.folder / name).is_file():
                found.append(self._source(name, name, command_of(name), self.read(name)))
            for folder in self._run_folders(name):
                command = f"python -m experiments run {RUNS[name]}"
                found.append(self._source(folder.name, name, command, _cells(folder, RUNS[name])))
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


def command_of(name: str) -> str:
    """Return the command that makes a results file."""
    return f"python -m experiments.benchmarks.{MADE_BY.get(name, name)}"


def _cells(folder: Path, experiment: str) -> list[dict[str, Any]]:
    """Return the finished cells of one experiment, with the first seed alone."""
    return [row for row in read_rows(folder) if row["experiment"] == experiment and row["seed"] == 0]


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
