"""Measure the settings of a tool on one network, and keep each result the moment it is there."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import platform
import tempfile
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import store
from experiments.provenance import code_version
from ggdjax import GgdjaxError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from experiments.peers.tool import Setting, Tool
    from experiments.peers.work import Work

EXPERIMENT = "peers"
_PACKAGES = ("onnxruntime", "onnx", "numpy", "jax", "torch")


def version_of(package: str) -> str | None:
    """Return the version of a distribution; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def key_of(network: str, tool: Tool, setting: Setting) -> str:
    """Return the identity of a result among those of the same images."""
    return f"network={network} tool={tool.name} scheme={setting.scheme} per={setting.weights_per} {setting.widths}"


def config_hash(images: int | None, run: str | None = None) -> str:
    """Return the identity of what changes every result alike: the number of images, and the name of the run if any."""
    named = f" {run}" if run else ""
    return hashlib.sha256(f"{EXPERIMENT} {images}{named}".encode()).hexdigest()[:12]


def left_to_do(
    tool: Tool,
    network: str,
    widths: Sequence[str] | None,
    images: int | None,
    results: Path,
    *,
    schemes: Sequence[str] | None = None,
    per: str | None = None,
    run: str | None = None,
) -> list[Setting]:
    """Return the settings of a tool, of those given or all, that have no result yet in this run."""
    done = {row["key"] for row in store.read_rows(results) if row["config_hash"] == config_hash(images, run)}
    return [
        setting
        for setting in tool.settings
        if (widths is None or setting.widths in widths)
        and (schemes is None or setting.scheme in schemes)
        and per in (None, setting.weights_per)
        and key_of(network, tool, setting) not in done
    ]


def measure(
    tool: Tool, work: Work, settings: Sequence[Setting], images: int | None, results: Path, run: str | None = None
) -> Iterator[tuple[Setting, dict[str, Any] | str]]:
    """Yield each setting with its row once that is on the disk, or with what the tool said when it failed.

    Raises:
        GgdjaxError: another process writes these results.
    """
    if not settings:
        return
    float_pass, float_pass_cpu = work.float_pass_seconds()
    made_by = {
        "version": version_of(tool.package),
        "versions": {"python": platform.python_version(), **{p: v for p in _PACKAGES if (v := version_of(p))}},
        "device": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "code": code_version(),
        "float_pass_seconds": round(float_pass, 4),
        "float_pass_cpu_seconds": round(float_pass_cpu, 4),
    }
    with store.exclusive_folder(results), store.appending(results, (1, 1)) as append:
        made_by["images"] = {part: store.keep_image_ids(results, ids) for part, ids in work.ids.items()}
        for setting in settings:
            try:
                figures = _figures(tool, work, setting)
            except GgdjaxError:
                raise
            except Exception as error:  # a tool may fail in any way; the others go on
                yield setting, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                continue
            ratio = figures["calibration_seconds"] / float_pass
            row = {
                "experiment": EXPERIMENT,
                "config_hash": config_hash(images, run),
                **({"run": run} if run else {}),
                "key": key_of(work.network, tool, setting),
                "network": work.network,
                "tool": tool.name,
                "scheme": setting.scheme,
                "weights_per": setting.weights_per,
                "widths": setting.widths,
                **figures,
                "held_out_images": len(work.labels),
                "calibration_over_float_pass_low": round(ratio, 3),
                "calibration_over_float_pass_high": round(ratio, 3),
                **made_by,
                "measured": datetime.now(UTC).date().isoformat(),
            }
            append(row)
            yield setting, row


def _figures(tool: Tool, work: Work, setting: Setting) -> dict[str, Any]:
    seconds, cpu_seconds = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(1 + tool.compiles):
            start, cpu = time.perf_counter(), time.process_time()
            with contextlib.redirect_stdout(io.StringIO()):  # tools tell of every step
                predict = tool.quantize(work, setting, Path(scratch))
            cpu_seconds.append(round(time.process_time() - cpu, 3))
            seconds.append(round(time.perf_counter() - start, 3))
        top1, top5 = work.accuracy(predict)
    taken = {"calibration_seconds": seconds[-1], "calibration_cpu_seconds": cpu_seconds[-1]}
    if tool.compiles:
        taken |= {"first_calibration_seconds": seconds[0], "first_calibration_cpu_seconds": cpu_seconds[0]}
    return {"top1": top1, "top5": top5, **taken}
