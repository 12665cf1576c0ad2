"""The plots of a run folder: drawn from its figures when they are asked for, and kept there."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ggdjax.ggd import Histogram
from ggdjax.report._comparison import HISTOGRAMS_FILE
from ggdjax.report._plots import feature_map_figures, png
from ggdjax.report._sensitivity import draw_sensitivity
from ggdjax.report._trajectory import plot_trajectory
from ggdjax.tune import History

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from matplotlib.figure import Figure


def drawn_feature_maps(folder: Path, result: dict[str, Any], progress: Callable[[str], None]) -> dict[int, bytes]:
    """Return a PNG of the values of each feature map, its fit and its step, by index; old runs lack some.

    One plot shows one step: that of the whole feature map, where the run has one per channel.
    """
    place = folder / "feature_maps"
    kept = {int(file.name[:3]): file.read_bytes() for file in sorted(place.glob("[0-9][0-9][0-9]_*.png"))}
    rows = result.get("steps_per_tensor", result)["feature_maps"]
    if kept or not (folder / HISTOGRAMS_FILE).is_file():
        return kept
    for index, figure in enumerate(feature_map_figures(Histogram.load(folder / HISTOGRAMS_FILE), rows)):
        name = rows[index]["name"]
        progress(f"Drawing: {index + 1} of {len(rows)}, {name}")
        kept[index] = png(figure)
        _keep(place / f"{index:03d}_{re.sub(r'[^0-9A-Za-z.-]+', '_', name)}.png", kept[index])
    return kept


def drawn_curves(folder: Path, result: dict[str, Any]) -> tuple[bytes | None, bytes | None]:
    """Return PNGs of the SQNR along the layers and of the search over steps; None where the run has no such figures."""
    return tuple(
        _drawn(folder / f"{name}.png", lambda draw=draw: draw(result))  # type: ignore[return-value]
        for name, draw in (("sensitivity", _sensitivity), ("tuning", _tuning))
    )


def _drawn(file: Path, draw: Callable[[], Figure | None]) -> bytes | None:
    if file.is_file():
        return file.read_bytes()
    if (figure := draw()) is None:
        return None
    _keep(file, made := png(figure))
    return made


def _keep(file: Path, content: bytes) -> None:
    with suppress(OSError):  # a folder that cannot be written still has its page
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)


def _sensitivity(result: dict[str, Any]) -> Figure | None:
    records = {result["options"]["scheme"]: result} | {
        key.replace("_", " "): result[key] for key in ("steps_per_tensor", "untuned") if key in result
    }
    if any(row["sqnr_db"] is None for record in records.values() for row in record["feature_maps"]):
        return None
    return draw_sensitivity(dict(_lines(records)))


def _lines(records: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for label, record in records.items():
        rows = record["feature_maps"]
        yield label, tuple({row["name"]: row[key] for row in rows} for key in ("sqnr_db", "accumulated_sqnr_db"))


def _tuning(result: dict[str, Any]) -> Figure | None:
    search = result.get("tuning", {}).get("backward_forward")
    return None if search is None else plot_trajectory(History.from_dict(search))
