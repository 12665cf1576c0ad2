"""The results as one Markdown table per network: ggdjax and its peers, same work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.peers.measure import EXPERIMENT, config_hash
from experiments.store import read_rows

if TYPE_CHECKING:
    from collections.abc import Sequence


def markdown(results: Path, images: int | None, run: str | None = None) -> str:
    """Return the tables of the results on that many held-out images, those of a named run or those of none."""
    wanted = (EXPERIMENT, config_hash(images, run))
    rows = [row for row in read_rows(results) if (row["experiment"], row["config_hash"]) == wanted]
    networks = list(dict.fromkeys(row["network"] for row in rows))
    tables = [_table([row for row in rows if row["network"] == name]) for name in networks]
    return "\n\n".join(tables) or "no results yet"


def _table(rows: Sequence[dict[str, Any]]) -> str:
    first = rows[0]
    widths = sorted({row["widths"] for row in rows}, key=lambda pair: [-int(bits) for bits in pair.split("/")])
    heads = [f"W{pair.replace('/', 'A')}" for pair in widths]
    lines = [
        f"### {first['network']}: top-1 / top-5, %, on {first['held_out_images']:,} images",
        "",
        "| tool | scheme | weights per | " + " | ".join(heads) + " | calibration / float pass |",
        "|---|---|---|" + "---|" * len(widths) + "---|",
    ]
    groups: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        tool = f"{row['tool']} {row['version']}"
        groups.setdefault((tool, row["scheme"], row["weights_per"]), {})[row["widths"]] = row
    for names, by_width in groups.items():
        cells = [f"{100 * r['top1']:.2f} / {100 * r['top5']:.2f}" if (r := by_width.get(w)) else "" for w in widths]
        ratios = [row["calibration_over_float_pass_low"] for row in by_width.values()]
        span = f"{min(ratios):.1f}" if len(ratios) == 1 else f"{min(ratios):.1f}–{max(ratios):.1f}"
        lines.append("| " + " | ".join([*names, *cells, span]) + " |")
    return "\n".join(lines)
