"""What every scheme would have chosen for the feature maps of a run, and what each choice would have cost."""

from __future__ import annotations

import contextlib
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax import schemes
from ggdjax._errors import GgdjaxError, expect, expect_path
from ggdjax.ggd import Histogram
from ggdjax.ggd._empirical import empirical_sqnr_db
from ggdjax.quantization._quantize import pad_tensors, padded_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from jaxtyping import Array

    from ggdjax.schemes import Choice

#: Histograms of a run's feature maps, and what was found from them.
HISTOGRAMS_FILE, COMPARISON_FILE = "histograms.safetensors", "schemes.json"
#: Widths at which schemes are compared beside the run's own, in bits.
WIDTHS = (8, 7, 6, 5, 4, 3)
#: Row of an empty tensor that pads a batch.
_PADDING = {"signed": False, "qmin": 0, "qmax": 255, "zero_point": 0, "step": 1.0}
#: Steps of the drawn curve, and how far it extends beyond the outermost choice.
_POINTS, _BEYOND = 96, 1.5


def compare_schemes(
    histograms: Histogram, rows: Sequence[dict[str, Any]], progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Return the choice of every registered scheme for every feature map, measured on the histograms.

    The first call compiles every scheme: about a minute on two cores.

    Args:
        histograms: of the feature maps, batch shape ``[tensor]``.
        rows: theirs from `feature_map_rows`, with one step each: codes and signedness are those of the run.
        progress: called with one line of text after each scheme.

    Returns:
        ``feature_maps``: one record each: ``name``, ``choices`` (``step`` and ``sqnr_db`` by scheme, at the run's
        width), ``own`` (the same of the run's step), ``curve`` (``step`` and ``sqnr_db``, lists). ``mean_sqnr_db``: by
        scheme, by width in bits, over the feature maps that have one. SQNR in dB; None where nothing is lost.

    Raises:
        GgdjaxError: there are not as many rows as histograms.
    """
    expect("histograms", histograms, "Histogram")
    if histograms.batch_shape != (len(rows),):
        raise GgdjaxError(
            f"`histograms` has batch shape {histograms.batch_shape}, expected one for each of {len(rows)}"
        )
    count, size = len(rows), padded_size(len(rows))
    histograms = jax.tree.map(lambda leaf: pad_tensors(leaf, size), histograms)
    rows = [*rows, *[_PADDING] * (size - count)]
    signed = np.asarray([row["signed"] for row in rows], dtype=bool)
    low, high = (np.asarray([row[key] - row["zero_point"] for row in rows]) for key in ("qmin", "qmax"))
    own_bits = np.asarray([(row["qmax"] - row["qmin"]).bit_length() for row in rows])
    bits = np.stack([own_bits, *(np.full_like(own_bits, width) for width in WIDTHS)])
    names = schemes.names()
    steps, sqnr = {}, {}

    def choices(name: str) -> Any:
        return _step_and_codes(replace(schemes.choose(name, histograms, bits, signed), evidence=None))

    # Nearly all of it is compiling, which threads do side by side.
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for number, (name, chosen) in enumerate(zip(names, pool.map(choices, names), strict=True), start=1):
            progress(f"Comparing schemes: {number} of {len(names)}, {name}")
            step, *codes = jax.device_get(chosen)
            steps[name] = step[0]
            sqnr[name] = _sqnr_db(histograms, *(value.T for value in (step, *codes)))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    own = np.asarray([row["step"] for row in rows], np.float32)
    outermost = np.stack([own, *steps.values()])
    grid = np.geomspace(outermost.min(0) / _BEYOND, outermost.max(0) * _BEYOND, _POINTS, axis=1).astype(np.float32)
    curve = _sqnr_db(histograms, np.concatenate([own[:, None], grid], axis=1), high[:, None], -low[:, None])
    return {
        "feature_maps": [
            {
                "name": row["name"],
                "own": _choice(own[i], curve[i, 0]),
                "choices": {name: _choice(steps[name][i], sqnr[name][i, 0]) for name in names},
                "curve": {"step": _rounded(grid[i]), "sqnr_db": _rounded(curve[i, 1:])},
            }
            for i, row in enumerate(rows[:count])
        ],
        "mean_sqnr_db": {
            name: {str(width): _mean(sqnr[name][:count, k]) for k, width in enumerate(WIDTHS, start=1)}
            for name in names
        },
    }


def compare_run(
    folder: Path, result: dict[str, Any], progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any] | None:
    """Return `compare_schemes` of the run in ``folder``; found once, it is kept there.

    Args:
        folder: of the run.
        result: what its result.json holds.
        progress: called with one line of text after each scheme.

    Returns:
        None where the folder holds no histograms: the run is an older version's.
    """
    folder = expect_path("folder", folder, "the name of a folder")
    kept = folder / COMPARISON_FILE
    with contextlib.suppress(OSError, ValueError):
        return json.loads(kept.read_text(encoding="utf-8"))
    if not (folder / HISTOGRAMS_FILE).is_file():
        return None
    rows = result.get("steps_per_tensor", result)["feature_maps"]
    found = compare_schemes(Histogram.load(folder / HISTOGRAMS_FILE), rows, progress)
    with contextlib.suppress(OSError):  # a folder that cannot be written still has its page
        kept.write_text(json.dumps(found, allow_nan=False, ensure_ascii=False), encoding="utf-8")
    return found


@jax.jit
def _step_and_codes(chosen: Choice) -> tuple[Array, Array, Array]:
    """Return the steps, and the largest codes above and below zero."""
    zero = jnp.float32(0) if chosen.zero_point is None else chosen.zero_point
    return chosen.step, chosen.qmax.astype(jnp.float32) - zero, zero - chosen.qmin.astype(jnp.float32)


def _sqnr_db(histograms: Histogram, step: np.ndarray, above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return the SQNR in dB of steps and largest codes, ``[tensor, candidate]``, on the histograms."""
    levels = (np.broadcast_to(side, step.shape).astype(np.float32) for side in (above, below))
    return empirical_sqnr_db(histograms, step, *levels)


def class_of(scheme: str) -> str:
    """Return the class of a scheme, as tables print it; empty for one of an older version."""
    return schemes.get(scheme).kind.value if scheme in schemes.names() else ""


def _choice(step: float, sqnr: float) -> dict[str, float | None]:
    (step,), (sqnr,) = _rounded([step]), _rounded([sqnr])
    return {"step": step, "sqnr_db": sqnr}


def _mean(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return round(float(finite.mean()), 3) if finite.size else None


def _rounded(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """Return the values to six digits: enough for every plot, and small."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
