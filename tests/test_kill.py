"""SIGKILL at any moment: the next run ends as an undisturbed one would; two processes never share an output."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file

from ggdjax._atomic import atomic_directory, atomic_write
from ggdjax._errors import GgdjaxError
from ggdjax._lock import exclusive
from ggdjax.cli import main
from tests.small_onnx import write_images, write_network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Chooses the moments of the kills.
SEED = 20181030


class Stop(Exception):
    """What ends a block early."""


HOLD = """
import sys, time
from ggdjax._atomic import atomic_directory
with atomic_directory(sys.argv[1], "--out") as folder:
    (folder / "half").write_text("x")
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Return a process that holds `tmp_path / "a" / "run"`, half written."""
    started = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "a" / "run")], stdout=subprocess.PIPE, text=True
    )
    with started:
        assert started.stdout.readline() == "held\n"
        yield started
        started.kill()


def test_a_place_that_another_process_writes_is_refused(tmp_path, holder, capsys):
    place = tmp_path / "a" / "run"
    with (
        pytest.raises(GgdjaxError, match=r"`--out` \S+/a/run is being written by another process: wait"),
        exclusive(place, "--out"),
    ):
        pass
    with pytest.raises(SystemExit, match="2"):
        main(["quantize", "--out", str(place)])
    assert capsys.readouterr().err.endswith(
        "is being written by another process: wait until that ends, or choose another\n"
    )
    # The refused ones left the holder's things alone.
    assert holder.poll() is None
    assert len(list(place.parent.iterdir())) == 2


def test_a_killed_holder_leaves_no_lock_and_its_leftovers_go(tmp_path, holder):
    place = tmp_path / "a" / "run"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not place.exists()
    with atomic_directory(place, "--out") as folder:
        (folder / "whole").write_text("x")
    assert sorted(p.name for p in place.parent.rglob("*")) == ["run", "whole"]


def test_killed_between_the_two_renames(tmp_path):
    """The old folder was set aside and the new one never came: the old one is put back."""
    aside = tmp_path / ".run.abc.partial"
    (aside / "old").mkdir(parents=True)
    (aside / "old" / "earlier").write_text("x")
    (aside / "new").mkdir()
    with suppress(Stop), atomic_directory(tmp_path / "run", "--out"):
        assert (tmp_path / "run" / "earlier").read_text() == "x"
        raise Stop
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_nothing_stays_of_what_failed(tmp_path):
    with suppress(Stop), atomic_directory(tmp_path / "x" / "y" / "run", "--out"):
        raise Stop
    (tmp_path / "file").write_text("before")
    with suppress(Stop), atomic_write(tmp_path / "file", "path") as part:
        part.write_text("half")
        raise Stop
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "before")]


def kill(words: list[str], moment: Callable[[], bool], delay: float, by: int = signal.SIGKILL) -> tuple[int, str]:
    """Start the command line in a process of its own and end it ``delay`` seconds after ``moment``.

    Returns:
        Its status, and what it wrote to standard error.
    """
    command = [sys.executable, "-c", "from ggdjax.cli import main; main()", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as started:
        while not moment():
            assert started.poll() is None, started.stderr.read()
            time.sleep(0.002)
        time.sleep(delay)
        started.send_signal(by)
        said = started.stderr.read()
    return started.returncode, said


def comparable(run: Path) -> dict:
    """Return what a run says, but for times and places."""
    result = json.loads((run / "result.json").read_text())
    for name in ("seconds", "options", "device", "machine", "versions"):
        result.pop(name, None)
    return result


def test_quantize_and_tune_end_the_same_after_kills(tmp_path):
    """Killed while it opens and calibrates, rounds, tunes, and writes; each time it is started again."""
    model, images = write_network(tmp_path / "net.onnx"), write_images(tmp_path / "images")
    place = tmp_path / "place"

    def words(out: Path) -> list[str]:
        bits = "--weight-bits 3 --activation-bits 3 --scheme max-abs --size 8 --calibration-images 12 --batch-size 4"
        tuning = "--tune-images 4 --tune-seconds inf --gradient-steps 3"
        return [*f"quantize {model} --data {images} {bits} {tuning} --out".split(), str(out)]

    main(words(tmp_path / "whole"))
    kept = place / "run.unfinished"
    moments = [
        lambda: any(place.glob(".run.*.partial/new")),
        lambda: any(kept.glob("02_quantize_*.safetensors")),
        lambda: any(kept.glob("*round_weights_*.safetensors")),
        lambda: any(kept.glob("*search_*.safetensors")),
        lambda: any(place.glob(".run.*.partial/new/network.safetensors")),
    ]
    chance = random.Random(SEED)
    for moment, longest in zip(moments, (2.0, 0.5, 0.1, 0.1, 0.05), strict=True):
        assert kill(words(place / "run"), moment, chance.uniform(0, longest))[0] == -signal.SIGKILL
        assert not (place / "run").exists()
    main(words(place / "run"))
    assert [p.name for p in place.iterdir()] == ["run"]
    ended, whole = (
        {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in {".safetensors", ".toml"}}
        for folder in (place / "run", tmp_path / "whole")
    )
    assert ended == whole
    assert {"network.safetensors", "recipe.toml"} <= whole.keys()
    assert comparable(place / "run") == comparable(tmp_path / "whole")


def test_an_interrupt_ends_within_two_seconds_and_says_how_to_resume(tmp_path):
    out = tmp_path / "run"
    kept = tmp_path / "run.unfinished"
    words = [
        "quantize",
        "--scheme",
        "max-abs",
        "--calibration-images",
        "64",
        "--tune-images",
        "64",
        "--gradient-steps",
        "1000",
    ]
    for moment in (
        lambda: any(tmp_path.glob(".run.*.partial/new")),
        lambda: any(kept.glob("02_quantize_*.safetensors")),
        lambda: any(kept.glob("*search_*.safetensors")),
    ):
        moments: list[float] = []

        def reached(moment: Callable[[], bool] = moment, moments: list[float] = moments) -> bool:
            moments.append(time.monotonic())
            return moment()

        status, said = kill([*words, "--out", str(out)], reached, 0.2, signal.SIGINT)
        assert time.monotonic() - moments[-1] < 0.2 + 2.0
        assert status == 130
        assert said.startswith("ggdjax: interrupted; ")
        assert said.count("\n") == 1
    assert "run.unfinished: the same command resumes" in said


def test_training_ends_the_same_after_kills(tmp_path):
    data, place = tmp_path / "set.npz", tmp_path / "place"
    rng = np.random.default_rng(0)
    np.savez(data, image=rng.integers(0, 256, (40, 28, 28), np.uint8), label=np.arange(40) % 4)

    def words(out: Path) -> list[str]:
        sizes = "--preset mnist --epochs 5 --batch-size 8"
        return ["train", "lenet5", "--data", str(data), *sizes.split(), "--out", str(out)]

    main(words(tmp_path / "whole"))
    chance = random.Random(SEED)
    for step in (4, 12):
        moment = (place / "run" / "checkpoints" / str(step)).is_dir
        assert kill(words(place / "run"), moment, chance.uniform(0, 0.05))[0] == -signal.SIGKILL
        assert not (place / "run" / "metrics.json").exists()
    main(words(place / "run"))
    assert [p.name for p in place.iterdir()] == ["run"]
    names = sorted(p.name for p in (place / "run").iterdir())
    assert names == ["checkpoints", "log.jsonl", "metrics.json", "weights.safetensors"]
    assert (place / "run" / "log.jsonl").read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()
    # Of a safetensors file only the order of its header may differ.
    ended, whole = (load_file(folder / "weights.safetensors") for folder in (place / "run", tmp_path / "whole"))
    assert ended.keys() == whole.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(ended[name], array)
