"""One page that sets several runs side by side, with paired tests on the images that they share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import GgdjaxError, expect_path, refusal
from ggdjax.quantization._bootstrap import paired_bootstrap
from ggdjax.report._html import search_field, section, table
from ggdjax.report._page import filled
from ggdjax.report._record import in_unit, measured
from ggdjax.report._run_folder import load_run
from ggdjax.tune import mcnemar

if TYPE_CHECKING:
    from pathlib import Path

_RUN_COLUMNS = {
    "run": "name",
    "model": "model",
    "weight bits": "weight_bits",
    "map bits": "activation_bits",
    "scheme": "scheme",
    "tuned on": "tuned",
    "images": "images",
    "metric": "metric",
    "float": "float",
    "quantized": "quantized",
    "95 % from": "low",
    "to": "high",
    "mean SQNR, dB": "mean_sqnr_db",
}
_PAIR_COLUMNS = {
    "runs": "name",
    "shared images": "shared",
    "first": "first",
    "second": "second",
    "gained": "gained",
    "lost": "lost",
    "p": "p_value",
}


def comparison_page(folders: Sequence[Path]) -> str:
    """Return a page of several runs; it needs no network and no other file.

    Args:
        folders: that `ggdjax quantize --out` or `ggdjax tune --out` wrote.

    Raises:
        GgdjaxError: fewer than two, one twice, or one that is no run folder.
    """
    if isinstance(folders, str) or not isinstance(folders, Sequence):
        raise refusal("folders", folders, "a list of at least two run folders")
    folders = [expect_path("folders", folder, "names of run folders") for folder in folders]
    if len(folders) < 2 or len({folder.resolve() for folder in folders}) < len(folders):
        raise GgdjaxError("`folders` must be at least two different run folders")
    runs = {str(folder): load_run(folder).result for folder in folders}
    tests = paired_tests(runs)
    text = (
        "<p>Each pair on the images that both evaluated: gained are images that only the second run has right; p by "
        "McNemar's exact test, the probability of so uneven a split if both were equally good. Of scores that are no "
        "shares: the means of single images, how many got better and worse, p by exchanging the runs on each image.</p>"
    )
    maps = [
        {"name": name, **{run: _sqnr(result, name) for run, result in runs.items()}}
        for name in dict.fromkeys(row["name"] for result in runs.values() for row in result["feature_maps"])
    ]
    sections = [
        section("Runs", table([_row(name, result) for name, result in runs.items()], _RUN_COLUMNS, "run")),
        section("Pairs", text, table(tests, _PAIR_COLUMNS, "pair"))
        if tests
        else section("Pairs", "<p>No two runs share held-out images.</p>"),
        section(
            "SQNR of feature maps, with the errors of all layers before, dB",
            search_field("tr.map", "feature maps"),
            table(maps, {"feature map": "name", **{run: run for run in runs}}, "map"),
        ),
    ]
    provenance = {
        name: {key: result[key] for key in ("options", "versions", "device")} for name, result in runs.items()
    }
    return filled(f"{len(runs)} runs", ", ".join(runs), sections, folders, provenance)


def paired_tests(runs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per pair of runs that share held-out images, by what their result.json holds."""
    rows = []
    for (first, a), (second, b) in combinations(runs.items(), 2):
        metric, other = measured(a), measured(b)
        by_score = metric["name"] == other["name"] and "scores" in a and "scores" in b
        hits = [_scores(result) if by_score else _correct(result) for result in (a, b)]
        shared = [id_ for id_ in hits[0] if id_ in hits[1]]
        if not shared:
            continue
        before, after = (np.asarray([hit[id_] for id_ in shared], float) for hit in hits)
        rows.append(
            {
                "name": f"{first} → {second}",
                "shared": len(shared),
                "first": in_unit(metric if by_score else {"unit": "%"}, float(before.mean())),
                "second": in_unit(metric if by_score else {"unit": "%"}, float(after.mean())),
                **(_resampled(before, after, metric) if by_score else vars(mcnemar(before > 0, after > 0))),
            }
        )
    return rows


def _resampled(before: np.ndarray, after: np.ndarray, metric: dict[str, Any]) -> dict[str, Any]:
    better = (after - before) * (1 if metric["higher_is_better"] else -1)
    _, p_value = paired_bootstrap(before[:, None], after[:, None], lambda means: means[:, 0])
    return {"gained": int((better > 0).sum()), "lost": int((better < 0).sum()), "p_value": p_value}


def _correct(result: dict[str, Any]) -> dict[str, bool]:
    """Return by id which held-out images a run has right; runs of older versions do not say."""
    bits = result.get("correct", {}).get("quantized", "")
    return dict(zip(result["images"]["held_out_ids"], (bit == "1" for bit in bits), strict=False))


def _scores(result: dict[str, Any]) -> dict[str, float]:
    """Return the scores of a run's held-out images by id, those that are numbers."""
    pairs = zip(result["images"]["held_out_ids"], result["scores"]["quantized"], strict=True)
    return {id_: score for id_, score in pairs if score is not None}


def _row(name: str, result: dict[str, Any]) -> dict[str, Any]:
    options, metric = result["options"], measured(result)
    low, high = metric["quantized"]["interval_95"]
    widths = {key: options[key] for key in ("weight_bits", "activation_bits")}
    if options.get("mean_bits") is not None:
        widths = dict.fromkeys(widths, f"{options['mean_bits']:g} on average")
    return {
        "name": name,
        "model": result["model"],
        **widths,
        "scheme": options["scheme"],
        "tuned": len(result["tuning"]["images"]) if "tuning" in result else None,
        "images": result["held_out_images"],
        "metric": f"{metric['name']}, {metric['unit']}" if metric["unit"] else metric["name"],
        **{which: in_unit(metric, metric[which]["value"]) for which in ("float", "quantized")},
        "low": in_unit(metric, low),
        "high": in_unit(metric, high),
        "mean_sqnr_db": result["mean_sqnr_db"],
    }


def _sqnr(result: dict[str, Any], name: str) -> float | None:
    return next((row["accumulated_sqnr_db"] for row in result["feature_maps"] if row["name"] == name), None)
