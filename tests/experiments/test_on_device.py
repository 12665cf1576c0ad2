"""The script for an accelerator, with small sizes on a CPU."""

from __future__ import annotations

import json

import pytest

from experiments.benchmarks import on_device


def test_small_sizes_on_a_cpu(tmp_path, capsys):
    out = tmp_path / "found.json"
    with pytest.raises(SystemExit, match=r"^0$"):
        on_device.main(["--network", "digits", "--batch", "8", "--fits", "4", "--out", str(out)])
    found = json.loads(out.read_text())
    assert len(found["checks"]) == 4
    assert all(found["checks"].values())
    assert found["left_out"] == []
    assert all(figure > 0 for figure in found["figures"].values())
    assert "| integers, weights of 12 bits | equal |" in capsys.readouterr().out


def test_what_the_time_does_not_allow_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        on_device.main(["--network", "digits", "--batch", "8", "--seconds", "0", "--out", str(tmp_path / "found.json")])
    assert "| tuning | left out: no time |" in capsys.readouterr().out
