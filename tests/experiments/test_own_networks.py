"""Networks and images of the user's, by a TOML file or by options: run, resumed, read by the tables."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import ggdjax as gd
from experiments import files
from experiments.__main__ import main
from experiments.store import read_rows

pytest.importorskip("onnx", reason="onnx is not installed")

FILE = """
out = "out"
[networks.mine]
model = "net.onnx"
data = "images.npz"
scale = 0.0625
colour_order = "GRAY"
layout = "NHWC"
[schemes]
schemes = ["max-abs"]
bits = [8]
measures = ["sqnr"]
calibration_images = 20
"""


def write_network(path: Path, factor: float = 1.0) -> None:
    kernel = factor * np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    net = gd.trace(lambda x: x.reshape(len(x), 64) @ kernel, np.zeros((1, 8, 8, 1), np.float32))
    gd.network.export_onnx(net, path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with a network, images and a file of experiments, and stand in it."""
    monkeypatch.chdir(tmp_path)
    write_network(tmp_path / "net.onnx")
    digits = gd.data.digits()
    np.savez("images.npz", image=np.stack([digits.load(i) for i in range(60)]), label=digits.labels[:60])
    (tmp_path / "mine.toml").write_text(FILE)
    return tmp_path


def test_a_file_runs_resumes_and_measures_a_changed_network_again(folder, capsys, monkeypatch):
    main(["status", "mine.toml"])
    assert "out: schemes: 1 cells, 0 finished, 1 to do (mine 1)" in capsys.readouterr().out
    assert not (folder / "out").exists()
    main(["run", "mine.toml"])
    (row,) = read_rows("out")
    assert (row["network"], row["images"]["calibration"]["count"], row["images"]["held_out"]["count"]) == (
        "mine",
        20,
        40,
    )
    assert row["settings"]["own"]["preprocessing"]["scale"] == 0.0625
    (again,) = files.kept(folder / "out").values()
    assert again.config_hash("mine") == row["config_hash"]
    monkeypatch.chdir(folder.parent)  # what a folder keeps says where its files are
    main(["status", str(folder / "out")])
    assert "schemes: 1 cells, 1 finished, 0 to do" in capsys.readouterr().out
    monkeypatch.chdir(folder)
    main(["tables", "T2", "--results", "out"])
    table = (folder / "out" / "tables" / "T2.md").read_text()
    assert f"| max-abs | model | **{row['mean_sqnr_db']:.2f} ({row['min_sqnr_db']:.2f})** |" in re.sub(
        r"\[([^\[\]]*)\]\([^()]*\)", r"\1", table
    )
    assert f"python -m experiments run out/{files.KEPT}" in table
    capsys.readouterr()
    main(["tables", "T3", "--missing", "--dry-run", "--results", "out"])
    said = capsys.readouterr().out
    assert "rounding: nothing in out: add it to the file of your experiments" in said
    assert "resnet20" not in said
    write_network(folder / "net.onnx", factor=2.0)
    main(["status", "mine.toml"])
    assert "1 cells, 0 finished, 1 to do" in capsys.readouterr().out


def test_options_name_networks_too(folder):
    options = "--scheme max-abs --bits 8 --measures sqnr --calibration-images 20".replace("--scheme ", "--schemes ")
    with pytest.raises(SystemExit, match="2"):
        main(["run", "schemes", "--onnx", "net.onnx", *options.split()])
    (folder / "nets_of_mine_too.py").write_text(
        "import ggdjax as gd\n"
        "def build():\n"
        "    return gd.trace(lambda x: x.mean((2, 3)) @ __import__('numpy').ones((1, 10), 'float32'),"
        " __import__('numpy').zeros((1, 1, 32, 32), 'float32'))\n"
    )
    digits = gd.data.digits()
    np.savez("large.npz", image=np.repeat([digits.load(i) for i in range(60)], 4, 1), label=digits.labels[:60])
    where = ["--data", "large.npz", "--preset", "mnist", "--out", "two"]
    main(["run", "schemes", "--network", "nets_of_mine_too:build", *where, *options.split()])
    (row,) = read_rows("two")
    assert row["network"] == "nets_of_mine_too:build"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[schemes]", "[scheme]"), "no experiment is called `scheme`: "),
        (("bits = [8]", "bitz = [8]"), "[schemes]: unknown field `bitz`"),
        (("bits = [8]", 'bits = ["8"]'), "`bits`"),
        (("bits = [8]", "bits = [1]"), "from 2 to 16"),
        (('model = "net.onnx"', 'model = "nett.onnx"'), "network `mine`: there is no file nett.onnx"),
        (('data = "images.npz"', 'data = "nowhere"'), "network `mine`: there is no file nowhere"),
        (('data = "images.npz"\n', ""), "[networks.mine]: `data` is missing"),
        (("scale = 0.0625", "scale = -1.0"), "[networks.mine]: `scale`"),
        (("scale = 0.0625", 'preset = "imagenett"'), "[networks.mine]: unknown preprocessing preset"),
        (("scale = 0.0625", "scales = 0.0625"), "[networks.mine]: unknown field `scales`"),
        (("scale = 0.0625", 'name = "other"'), "[networks.mine]: unknown field `name`"),
        (("scale = 0.0625", 'preprocessing = {preset = "mnist"}'), "[networks.mine]: unknown field `preprocessing`"),
        (("[schemes]", "[schemes]\nown = []"), "[schemes]: unknown field `own`"),
        (("[schemes]", "[[schemes]]"), "`schemes` must be a table of fields: begin it with [schemes]"),
        (('out = "out"', "out = 3"), "`out` must be the name of a folder, got 3"),
        (("[schemes]", '[schemes]\nnetworks = ["other"]'), "no network is called `other`"),
        (("[networks.mine]", "[networks.mine"), "is not valid TOML"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_before_anything_is_computed(folder, capsys, change, message):
    assert change[0] in FILE
    (folder / "mine.toml").write_text(FILE.replace(*change))
    with pytest.raises(SystemExit, match="2"):
        main(["run", "mine.toml"])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (folder / "out").exists()


def test_two_files_of_one_name_are_not_mixed_up(folder, capsys):
    """Results call networks by the names of their files: the second took the place of the first, without a word."""
    (folder / "other").mkdir()
    write_network(folder / "other" / "net.onnx", factor=2.0)
    with pytest.raises(SystemExit, match="2"):
        main(["run", "weights", "--onnx", "net.onnx", "other/net.onnx", "--bits", "8", "--out", "two"])
    assert "`--onnx` has two files of the name net" in capsys.readouterr().err
    assert not (folder / "two").exists()


def test_a_folder_of_another_version_hides_no_other(folder, capsys):
    """Without a folder `status` goes over all of them."""
    first, second = (folder / "runs" / "experiments" / name for name in ("first", "second"))
    for path, field in ((first, "gone = 1"), (second, "bits = [8]")):
        path.mkdir(parents=True)
        (path / files.KEPT).write_text(f"[weights]\n{field}\n")
    main(["status"])
    out = capsys.readouterr().out
    assert "[weights]: unknown field `gone`" in out
    assert "second: weights: " in out
    with pytest.raises(SystemExit, match="2"):
        main(["status", str(first)])


def test_experiments_without_images_ask_for_none(folder, capsys):
    main(["run", "weights", "--onnx", "net.onnx", "--bits", "8", "--out", "one"])
    (row,) = read_rows("one")
    assert (row["network"], row["settings"]["own"]["data"]) == ("net", None)
    main(["run", "cost", "--network", "lenet5", "--weights", "w", "--dataflows", "row-stationary", "--dry-run"])
    assert capsys.readouterr().out.splitlines()[-2].split()[:3] == ["lenet5", "5", "0"]
    (folder / "mine.toml").write_text('[networks.mine]\nmodel = "net.onnx"\n[weights]\nbits = [8]\n[schemes]\n')
    with pytest.raises(SystemExit, match="2"):
        main(["run", "mine.toml"])
    assert "[networks.mine]: `data` is missing" in capsys.readouterr().err


def test_a_folder_of_weights_has_a_file_for_each_network(folder, capsys):
    (folder / "weights").mkdir()
    gd.zoo.save_weights(gd.zoo.create("lenet5"), folder / "weights" / "lenet5.safetensors")
    options = ["--networks", "lenet5", "digits", "--weights", "weights", "--bits", "8", "--out", "two"]
    main(["run", "weights", *options])
    own = {row["network"]: row["settings"].get("own") for row in read_rows("two")}
    assert own["digits"] is None  # a network of the project
    assert re.fullmatch(r"[0-9a-f]{12}", own["lenet5"]["weights"])
    digits = gd.data.digits()
    pixels = np.stack([digits.load(i) for i in range(40)]).repeat(4, 1).repeat(4, 2)
    np.savez("large.npz", image=(15 * pixels).astype(np.uint8), label=digits.labels[:40])
    paper = [
        "--networks",
        "lenet5",
        "--weights",
        "weights",
        "--data",
        "large.npz",
        "--preset",
        "mnist",
        "--out",
        "three",
    ]
    sizes = ["--calibration-images", "16", "--tuning-images", "8", "--tune-seconds", "0.01", "--widths", "8/8"]
    main(["run", "paper", *paper, *sizes, "--recipes", "paper"])
    (row,) = read_rows("three")  # the preset has channels first, the network last
    assert row["stages"]["tuned"]["held_out_images"] == 16
    for name, message in (("alexnet", "weights has no file of the name alexnet"), ("lenet6", "no network is called")):
        with pytest.raises(SystemExit, match="2"):
            main(["run", "weights", "--networks", name, "--weights", "weights"])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["run", "weights", "--networks", "alexnet"])
    assert "network `alexnet`: no weights of it come with the package" in capsys.readouterr().err


def test_two_experiments_share_a_folder_and_what_it_keeps(folder, capsys):
    (folder / "mine.toml").write_text(FILE + '[weights]\nnetworks = ["mine", "digits"]\nbits = [8]\n')
    main(["run", "mine.toml"])
    assert {(row["experiment"], row["network"]) for row in read_rows("out")} == {
        ("schemes", "mine"),
        ("weights", "mine"),
        ("weights", "digits"),
    }
    capsys.readouterr()
    main(["status", "out"])
    said = capsys.readouterr().out
    assert "schemes: 1 cells, 1 finished" in said
    assert "weights: 2 cells, 2 finished" in said
