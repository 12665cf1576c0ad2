"""What `run NAME --dry-run` states of cost and memory, and that it does nothing."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import ggdjax as gd
from experiments.__main__ import main
from experiments.dry_run import live_bytes


def stated(capsys, *words: str) -> dict[str, list[str]]:
    """Return the columns of every network, as printed."""
    main(["run", *words, "--dry-run"])
    said = capsys.readouterr().out
    assert "cells to do; nothing is run" in said
    return {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.startswith(" ")}


def test_images_and_macs_of_every_network_are_stated(tmp_path, capsys):
    out = tmp_path / "out"
    digits = stated(capsys, "schemes-tiny", "--out", str(out))["digits"]
    # 100 calibrate, 500 are held out; five accuracies on 100 of these.
    assert digits[:3] == ["9", "1,100", f"{1100 * 380_400 / 1e12:.3g}"]
    main(["run", "schemes-tiny", "--bits", "8", "--out", str(out)])
    capsys.readouterr()
    assert stated(capsys, "schemes-tiny", "--out", str(out))["digits"][:2] == ["4", "800"]  # 600 to prepare, two cells
    assert stated(capsys, "weights-tiny", "--out", str(tmp_path / "no"))["digits"][:3] == ["2", "0", "0"]
    assert stated(capsys, "timings-tiny", "--out", str(tmp_path / "no"))["any"][1:3] == ["not", "stated"]
    assert not (tmp_path / "no").exists()


def test_gradients_count_three_times(capsys, tmp_path):
    cells = ["gradient-tiny", "--methods", "gradient", "--steps", "10", "--out", str(tmp_path / "no")]
    # 512 calibrate, two networks are evaluated on 100, ten steps on 32 images.
    assert stated(capsys, *cells)["digits"][:2] == ["2", f"{512 + 2 * 100 + 3 * 10 * 32:,}"]


def test_the_papers_networks_without_data_or_weights(tmp_path, capsys):
    words = ["paper", "--networks", "mobilenet_v1_025", "--widths", "8/8", "--held-out-images", "1000"]
    found = stated(capsys, *words, "--out", str(tmp_path / "no"))["mobilenet_v1_025"]
    assert found[:2] == ["2", "6,512"]  # 512 calibrate; 1,000 twice, and twice more where the recipe tunes
    assert found[2] == f"{6512 * gd.zoo.entry('mobilenet_v1_025').macs.value / 1e12:.3g}"
    assert found[3] == "4"  # 470,072 parameters, twice
    assert found[4] == f"{4 * 224 * 224 * 3 * 1012 / 2**20:.0f}"  # 512 calibrate, 500 tune


def test_an_unknown_network_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["run", "schemes", "--networks", "resnet21", "--dry-run"])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no network is called `resnet21`" in line


def test_feature_maps_live_until_their_last_use():
    kernel = np.ones((16, 16), np.float32)

    def chain(x):
        for _ in range(4):
            x = jax.nn.relu(x @ kernel)
        return x

    x = np.zeros((1, 16), np.float32)
    short, long = gd.trace(chain, x), gd.trace(lambda x: chain(x) + x, x)
    assert live_bytes(short) == 2 * 64  # what a node reads and what it writes
    assert live_bytes(long) == 3 * 64  # the sum needs the input
