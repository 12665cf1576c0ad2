"""The comparison with other tools, on the digits network: resumed, recorded, and told in one line what is missing."""

from __future__ import annotations

import re

import numpy as np
import pytest

from experiments.peers import __main__ as peers
from experiments.peers.measure import left_to_do, measure
from experiments.peers.table import markdown
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
    work = open_work("digits", 100, arrays)
    found = dict(measure(tool, work, settings, 100, tmp_path))
    assert found[settings[0]] == "RuntimeError: no such width"
    assert left_to_do(tool, "digits", None, 100, tmp_path) == [settings[0]]
    assert left_to_do(tool, "digits", ["4/4"], 100, tmp_path) == []
    assert len(left_to_do(tool, "digits", None, None, tmp_path)) == 2
    assert left_to_do(tool, "digits", None, 100, tmp_path, schemes=["good"]) == []


def test_a_named_run_measures_anew_and_has_its_own_table(results, arrays, tmp_path):
    tool = peers.TOOLS["onnxruntime"]
    setting = Setting(scheme="MinMax", weights_per="tensor", widths="8/8")
    arguments = (tool, "digits", ["8/8"], 100, results)
    assert setting in left_to_do(*arguments, run="today")
    assert setting not in left_to_do(*arguments)
    ((_, row),) = measure(tool, open_work("digits", 100, arrays), [setting], 100, tmp_path, "today")
    assert row["run"] == "today"
    assert row["calibration_cpu_seconds"] > 0
    assert row["float_pass_cpu_seconds"] > 0
    assert "| MinMax | tensor |" in markdown(tmp_path, 100, "today")
    assert markdown(tmp_path, 100) == "no results yet"


@pytest.mark.parametrize("name", ["aimet", "brevitas", "ppq"])
def test_other_tools_where_they_are_installed(name, arrays, tmp_path, capsys, monkeypatch):
    tool = peers.TOOLS[name]
    pytest.importorskip({"aimet": "aimet_onnx"}.get(name, name), reason=f"{tool.name} is not installed")
    few = tuple(s for s in tool.settings if s.widths == "6/6" and not re.search("AdaRound|LSQ", s.scheme))
    monkeypatch.setitem(peers.TOOLS, name, Tool(**{**vars(tool), "settings": few}))
    run(tmp_path, arrays, name)
    rows = read_rows(tmp_path)
    assert len(rows) == len(few), capsys.readouterr().out
    assert all(row["top1"] > 0.95 for row in rows)


def test_the_float_file_as_pytorch_modules(arrays, results):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    onnx = pytest.importorskip("onnx")
    from experiments.onnx_runtime import predictor
    from experiments.peers.onnx_to_torch import to_torch

    work = open_work("digits", 100, arrays)
    x = np.array(work.held_out[:7])
    with torch.no_grad():
        ours = to_torch(onnx.load(work.model))(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours, predictor(work.model)(x), atol=1e-4)


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_a_rounded_layer_of_brevitas_computes_what_brevitas_computes(per, arrays, results):
    pytest.importorskip("brevitas", reason="Brevitas is not installed")
    torch = pytest.importorskip("torch")
    from experiments.peers import brevitas_layerwise

    work = open_work("digits", 100, arrays)
    setting = Setting(scheme=brevitas_layerwise.PLAIN, weights_per=per, widths="4/4")
    x = np.array(work.held_out[:7])
    with torch.no_grad():
        own = brevitas_layerwise._quantized(work, setting)(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(brevitas_layerwise.quantize(work, setting, arrays)(x), own)


def test_the_table_has_a_row_per_tool_scheme_and_granularity(results, arrays, capsys):
    run(results, arrays, "--table")
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith("### digits: top-1 / top-5, %, on 100 images")
    assert [line.split(" | ")[1:3] for line in lines[4:]] == [["MinMax", "tensor"], ["MinMax", "channel"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["aimet"], "aimet is not installed: "),
        (["brevitas"], "brevitas is not installed: "),
        (["ppq"], "ppq is not installed: "),
        (["nothing"], "known: "),
        (["--images", "0"], "at least 1"),
        (["onnxruntime", "--scheme", "minmax"], "`--scheme` minmax is measured by none of the tools; known: Entropy, "),
    ],
)
def test_one_line_for_what_a_user_can_mend(arguments, message, tmp_path, capsys, monkeypatch):
    for name in ("aimet", "brevitas", "ppq"):
        monkeypatch.setitem(peers.TOOLS, name, Tool(**{**vars(peers.TOOLS[name]), "package": "no-such-package"}))
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
