"""The comparison with other tools, on the digits network: resumed, recorded, and told in one line what is missing."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.peers import __main__ as peers
from experiments.peers.measure import left_to_do
from experiments.peers.tool import Setting, Tool
from experiments.peers.work import open_work
from experiments.store import read_rows
from ggdjax import data, zoo

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    return tmp_path_factory.mktemp("arrays")


def run(out, arrays, *more):
    peers.main([*more, "--network", "digits", "--images", "100", "--out", str(out), "--arrays", str(arrays)])


@pytest.fixture(scope="module")
def results(arrays, tmp_path_factory):
    """Return the folder of one tool's results on the digits network."""
    out = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        few = tuple(s for s in peers.TOOLS["onnxruntime"].settings if s.scheme == "MinMax" and s.widths == "8/8")
        tool = peers.TOOLS["onnxruntime"]
        patch.setitem(peers.TOOLS, "onnxruntime", Tool(**{**vars(tool), "settings": few}))
        run(out, arrays, "onnxruntime")
    return out


def test_onnx_runtime_is_measured_on_the_same_images(results, arrays):
    rows = read_rows(results)
    assert [row["weights_per"] for row in rows] == ["tensor", "channel"]
    images = data.digits()
    for row in rows:
        assert row["top1"] > 0.9
        assert row["top5"] >= row["top1"]
        assert row["held_out_images"] == 100
        assert row["calibration_over_float_pass_low"] > 0
        assert {"version", "versions", "device", "code", "measured"} <= row.keys()
    work = open_work("digits", 100, arrays)
    assert work.ids["calibration"] == [images.ids[i] for i in data.split(images, 512, 0).calibration]
    assert not set(work.ids["calibration"]) & set(work.ids["held_out"])


def test_the_float_file_computes_what_the_network_computes(results, arrays):
    from experiments.onnx_runtime import predictor

    work = open_work("digits", 100, arrays)
    ours = np.asarray(zoo.digits_net()(work.held_out[:7]))
    np.testing.assert_allclose(predictor(work.model)(np.asarray(work.held_out[:7])), ours, atol=1e-4)


def test_accuracy_counts_ties_as_wrong(results, arrays):
    work = open_work("digits", 100, arrays)
    right = np.eye(10, dtype=np.float32)[work.labels]
    done = iter(np.split(right, range(work.batch_size, 100, work.batch_size)))
    assert work.accuracy(lambda x: next(done)) == (1.0, 1.0)
    flat = work.accuracy(lambda x: np.zeros((len(x), 10), np.float32))
    assert flat == (0.0, 0.0)


def test_finished_settings_are_skipped_and_a_failure_loses_no_other(results, arrays, tmp_path):
    def quantize(work, setting, folder):
        if setting.scheme == "bad":
            raise RuntimeError("no\nsuch width")
        return lambda x: np.zeros((len(x), 10), np.float32)

    settings = tuple(Setting(scheme=name, weights_per="tensor", widths="8/8") for name in ("bad", "good"))
    tool = Tool(name="fake", package="numpy", settings=settings, quantize=quantize)
    from experiments.peers.measure import measure

    work = open_work("digits", 100, arrays)
    found = dict(measure(tool, work, settings, 100, tmp_path))
    assert found[settings[0]] == "RuntimeError: no such width"
    assert left_to_do(tool, "digits", None, 100, tmp_path) == [settings[0]]
    assert left_to_do(tool, "digits", ["4/4"], 100, tmp_path) == []
    assert len(left_to_do(tool, "digits", None, None, tmp_path)) == 2


def test_the_table_has_a_row_per_tool_scheme_and_granularity(results, arrays, capsys):
    run(results, arrays, "--table")
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith("### digits: top-1 / top-5, %, on 100 images")
    assert [line.split(" | ")[1:3] for line in lines[4:]] == [["MinMax", "tensor"], ["MinMax", "channel"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["aimet"], "aimet is not installed: "), (["nothing"], "known: "), (["--images", "0"], "at least 1")],
)
def test_one_line_for_what_a_user_can_mend(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(peers.TOOLS, "aimet", Tool(**{**vars(peers.TOOLS["aimet"]), "package": "no-such-package"}))
    with pytest.raises(SystemExit, match="2"):
        peers.main([*arguments, "--out", str(tmp_path)])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_an_environment_that_cannot_decode_says_what_to_do(tmp_path, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "experiments.networks", None)
    monkeypatch.delattr("experiments.networks", raising=False)
    with pytest.raises(SystemExit, match="2"):
        peers.main(["onnxruntime", "--network", "digits", "--arrays", str(tmp_path), "--out", str(tmp_path)])
    assert "python -m experiments.peers ggdjax --network digits" in capsys.readouterr().err


def test_every_setting_has_its_own_key():
    for tool in peers.TOOLS.values():
        assert len(set(tool.settings)) == len(tool.settings)
