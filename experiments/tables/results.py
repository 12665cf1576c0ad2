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

from ggdjax._errors import GgdjaxError

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
    "weights_on_networks.json": "weights_on_networks",
    "zoo_check.json": "zoo_check",
}
PEERS = "peers"
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True)
class Results:
    """The folder of results; a file that is not there holds nothing."""

    folder: Path = FOLDER

    def read(self, name: str) -> Any:
        """Return what a JSON file holds, or the list of the lines of a JSON-lines file.

        Raises:
            GgdjaxError: it is not JSON. (The last line of JSON lines may be half written, and is passed over.)
        """
        path = self.folder / name
        if not path.is_file():
            return [] if name.endswith(".jsonl") else {}
        lines = path.read_text(encoding="utf-8").splitlines()
        try:
            if not name.endswith(".jsonl"):
                return json.loads("\n".join(lines))
            *rows, last = [line for line in lines if line.strip()] or [""]
            return [json.loads(row) for row in rows] + ([json.loads(last)] if last.endswith("}") else [])
        except json.JSONDecodeError as error:
            raise GgdjaxError(f"{path} is not JSON ({error}); delete it and run {command_of(name)}") from None

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of a file: its lines, its list, or what it holds under `rows`."""
        found = self.read(name)
        return found if isinstance(found, list) else found.get("rows", [])

    def peers(self) -> list[dict[str, Any]]:
        """Return the rows of other tools; empty fields left out, figures as numbers."""
        rows: list[dict[str, Any]] = []
        for path in sorted((self.folder / PEERS).glob("*")):
            if path.suffix == ".csv":
                with path.open(encoding="utf-8", newline="") as file:
                    rows += list(csv.DictReader(file))
            elif path.suffix == ".jsonl":
                rows += self.read(f"{PEERS}/{path.name}")
        whole = (
            "top1",
            "top5",
            "held_out_images",
            "calibration_over_float_pass_low",
            "calibration_over_float_pass_high",
        )
        kept = [{key: value for key, value in row.items() if value not in ("", None)} for row in rows]
        try:
            return [row | {key: float(row[key]) for key in whole if key in row} for row in kept]
        except ValueError as error:
            raise GgdjaxError(f"{self.folder / PEERS}: a figure is no number: {error}") from None

    def sources(self) -> list[tuple[str, str, str, str]]:
        """Return file, command, device with versions, and day, for every source that is there."""
        found = []
        for name in MADE_BY:
            if (self.folder / name).is_file():
                said = list(_provenance(self.read(name)))
                devices = _joined(_device(row) for row in said)
                days = {row["measured"][:10] for row in said if _DATE.match(str(row.get("measured", "")))}
                found.append((name, command_of(name), devices, _span(days) or self._committed(name)))
        for path in sorted((self.folder / PEERS).glob("*")):
            if path.suffix in (".csv", ".jsonl"):
                rows = [row for row in self._of_peer(path)]
                devices = _joined(_device(row) for row in rows)
                days = {str(row["measured"])[:10] for row in rows if row.get("measured")}
                name = f"{PEERS}/{path.name}"
                found.append((name, f"see {PEERS}/README.md", devices, _span(days) or self._committed(name)))
        return found

    def _of_peer(self, path: Path) -> list[dict[str, Any]]:
        if path.suffix == ".jsonl":
            return self.read(f"{PEERS}/{path.name}")
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

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


def _joined(texts: Iterator[str]) -> str:
    return "; ".join(dict.fromkeys(texts)) or "not recorded"


def _span(days: set[str]) -> str:
    return " to ".join(dict.fromkeys((min(days), max(days)))) if days else ""
