"""Two results compared: what is noise and what is not; and the golden ones, which every change is compared with."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from experiments import accuracy
from experiments.__main__ import main
from experiments.real_networks import data_folder
from experiments.store import read_rows

GOLDEN = Path(__file__).parent / "golden"
IMAGES = {"accuracy": {"count": 1000, "hash": "a"}}


def row(right: np.ndarray | None, top1: float | None = None, key: str = "k", **more: object) -> dict:
    figures = {"top1": top1, "top5": 1.0, "held_out_images": 1000}
    if right is not None:
        figures = accuracy.figures(np.where(right, 0, 1)) | {"images": IMAGES}
    return {"experiment": "schemes", "config_hash": "h", "key": key, **figures, **more}


def compared(tmp_path: Path, capsys, before: list[dict], after: list[dict], *options: str) -> tuple[int, str]:
    """Return the exit status and what was printed."""
    for name, rows in (("before", before), ("after", after)):
        (tmp_path / name / "below").mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(one) + "\n" for one in rows)
        (tmp_path / name / "below" / "cells-1-of-1.jsonl").write_text(text)
    try:
        main(["compare", str(tmp_path / "before"), str(tmp_path / "after"), *options])
    except SystemExit as end:
        return end.code, capsys.readouterr().out
    return 0, capsys.readouterr().out


def pattern(wrong: range) -> np.ndarray:
    right = np.ones(1000, bool)
    right[wrong] = False
    return right


def test_which_images_are_right_comes_back():
    right = pattern(range(3, 400, 7))
    assert np.array_equal(accuracy.right(row(right)), right)
    assert accuracy.right(row(None, 0.9)) is None


def test_paired_images_decide_where_intervals_would_not(tmp_path, capsys):
    fewer, more = pattern(range(100)), pattern(range(115))  # 15 images lost and none won: p = 6e-5, intervals overlap
    status, said = compared(tmp_path, capsys, [row(fewer)], [row(more)])
    assert status == 1
    assert "| worse | schemes: k | top-1 | 90.00 | 88.50 | -1.50 points | p = 6.1e-05 |" in said
    status, said = compared(tmp_path, capsys, [row(more)], [row(fewer)])
    assert status == 0
    assert "0 worse, 1 better" in said
    # As many lost as won: the same figure, nothing changed.
    assert compared(tmp_path, capsys, [row(pattern(range(100)))], [row(pattern(range(50, 150)))])[0] == 0
    # Other images, or images that are not told: intervals decide.
    other = {"images": {"accuracy": {"count": 1000, "hash": "b"}}}
    assert compared(tmp_path, capsys, [row(fewer)], [row(more, **other)])[0] == 0
    status, said = compared(tmp_path, capsys, [row(None, 0.9)], [row(None, 0.85)])
    assert status == 1
    assert "-5.00 points" in said
    assert "0 accuracies by McNemar" in said


def test_many_tests_together_keep_their_share_of_wrong_alarms(tmp_path, capsys):
    fewer, more = pattern(range(100)), pattern(range(107))  # p = 0.016
    assert compared(tmp_path, capsys, [row(fewer)], [row(more)])[0] == 1
    rows = [row(fewer, key=f"k{i}") for i in range(9)]
    assert compared(tmp_path, capsys, [*rows, row(fewer)], [*rows, row(more)])[0] == 0


def test_decibels_have_a_tolerance(tmp_path, capsys):
    before = row(None, 0.9, mean_sqnr_db=40.0, sqnr_db={"relu": 30.0, "input": None})
    assert compared(tmp_path, capsys, [before], [before | {"mean_sqnr_db": 39.92}])[0] == 0
    status, said = compared(tmp_path, capsys, [before], [before | {"mean_sqnr_db": 39.92}], "--tolerance-db", "0.05")
    assert status == 1
    assert "| worse | schemes: k | mean_sqnr_db | 40.00 | 39.92 | -0.08 dB |" in said
    status, said = compared(tmp_path, capsys, [before], [before | {"sqnr_db": {"relu": 31.0, "input": None}}])
    assert status == 0
    assert "| better | schemes: k | sqnr_db relu | 30.00 | 31.00 | +1.00 dB |" in said
    gone = {key: value for key, value in before.items() if key != "mean_sqnr_db"}
    assert compared(tmp_path, capsys, [before], [gone])[0] == 1


def test_stages_of_tuning_are_compared(tmp_path, capsys):
    stages = {"before": row(None, 0.6), "forward": row(None, 0.7)}
    tuned = {"experiment": "tuning", "config_hash": "h", "key": "k", "stages": stages}
    worse = {**tuned, "stages": {**stages, "forward": row(None, 0.6)}}
    status, said = compared(tmp_path, capsys, [tuned], [worse])
    assert status == 1
    assert "| tuning: k | forward: top-1 | 70.00 | 60.00 |" in said


def test_figures_that_only_later_rows_have_are_new(tmp_path, capsys):
    bare = {"experiment": "tuning", "config_hash": "h", "key": "k"}
    later = {**bare, "stages": {"before": row(None, 0.6)}, "mean_sqnr_db": 40.0}
    status, said = compared(tmp_path, capsys, [bare], [later])
    assert status == 0
    assert "0 worse, 0 better, 3 new" in said
    assert "| new | tuning: k | before: top-1 | – | 60.00 |  |  |" in said
    assert "| new | tuning: k | mean_sqnr_db | – | 40.00 |  |  |" in said
    status, said = compared(tmp_path, capsys, [later], [bare])
    assert status == 1
    assert "3 worse, 0 better" in said


def test_figures_without_a_rule_are_named_where_they_differ(tmp_path, capsys):
    cost = {"experiment": "cost", "config_hash": "h", "key": "k", "energy_pj": 3.0, "cycles": 7, "seconds": 1.0}
    rows = [cost, cost | {"key": "l", "energy_pj": 4.0, "seconds": 2.0}]
    status, said = compared(tmp_path, capsys, [cost, cost | {"key": "l"}], rows)
    assert status == 0
    assert "Compared 0 figures of 2 cells" in said
    assert "cells in which they differ: `energy_pj` in 1." in said


def test_cells_in_one_alone_are_counted_and_none_in_common_is_an_error(tmp_path, capsys):
    rows = [row(None, 0.9, key=key) for key in "abc"]
    status, said = compared(tmp_path, capsys, rows[:2], rows[1:])
    assert status == 0
    assert "of 1 cells; 1 cells are in" in said
    assert compared(tmp_path, capsys, rows[:1], rows[2:])[0] == 2
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(tmp_path / "nowhere"), str(tmp_path / "after")])
    assert "holds no results" in capsys.readouterr().err


def test_files_of_rows_are_read_too(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(json.dumps(row(None, 0.9)) + "\n")
    main(["compare", str(tmp_path / "a.jsonl"), str(tmp_path / "a.jsonl")])
    assert "Nothing changed beyond noise." in capsys.readouterr().out


def has_data() -> bool:
    try:
        data_folder()
    except SystemExit:
        return False
    return True


@pytest.mark.parametrize(
    "name",
    ["digits", pytest.param("resnet20", marks=pytest.mark.skipif(not has_data(), reason="GGDJAX_DATA is not there"))],
)
def test_golden_results_come_out_again(name, tmp_path, capsys):
    main(["run", str(GOLDEN / f"{name}.toml"), "--out", str(tmp_path)])
    capsys.readouterr()
    main(["compare", str(GOLDEN / name), str(tmp_path)])
    said = capsys.readouterr().out
    assert "0 cells are in `" in said
    assert f"figures of {len(read_rows(GOLDEN / name))} cells" in said
    (changed,) = [one for one in read_rows(tmp_path) if "float" in one["key"]]
    right = accuracy.right(changed)
    right[:50] = False  # what a fault looks like
    fault = changed | {"right": base64.b64encode(np.packbits(right)).decode(), "top1": float(right.mean())}
    (tmp_path / "cells-1-of-1.jsonl").write_text(json.dumps(fault) + "\n")
    with pytest.raises(SystemExit, match="1"):
        main(["compare", str(GOLDEN / name), str(tmp_path)])
