from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from counting import Counting
from rich.console import Console

import ggdjax
from experiments import provenance, runner, spread, store
from experiments.__main__ import main
from experiments.plan import seconds_left
from ggdjax import GgdjaxError

ROOT = Path(__file__).resolve().parents[2]
#: 60 cells of milliseconds each.
SWEEP = ["schemes-tiny", "--measures", "sqnr", "--bits", *map(str, range(2, 17))]
SWEEP += ["--schemes", "max-abs", "affine-min-max", "percentile-99.9", "percentile-99.99"]


def run(experiment, folder, shard=None) -> str:
    """Run and return what was printed."""
    console = Console(width=160, file=io.StringIO())
    runner.run(experiment, folder, shard, console)
    return console.file.getvalue()


def test_finished_cells_are_skipped_and_axes_grow(tmp_path):
    first = run(Counting(numbers=(1, 2)), tmp_path)
    assert "2 cells, 0 finished, 2 to do (net0 1, net1 1)" in first
    assert "By the first cell, 0 cells like it" in first
    before = store.read_rows(tmp_path)
    more = run(Counting(numbers=(1, 2, 3)), tmp_path)
    assert "3 cells, 2 finished, 1 to do (net1 1); about 0 s" in more
    assert store.read_rows(tmp_path)[:2] == before
    assert "3 cells, 3 finished, 0 to do\n" in run(Counting(numbers=(1, 2, 3)), tmp_path)
    assert len(store.read_rows(tmp_path)) == 3
    other = run(Counting(numbers=(1, 2), unlucky=9), tmp_path)
    assert "2 cells, 0 finished" in other


def test_an_axis_called_images_stays_beside_the_ids(tmp_path):
    main(["run", "few-images-tiny", "--images", "1", "--bits", "8", "--schemes", "max-abs", "--out", str(tmp_path)])
    (row,) = store.read_rows(tmp_path)
    assert row["images"] == 1
    (said,) = row["image_ids"].values()
    assert len(store.image_ids(tmp_path, said["hash"])) == said["count"]


def test_failing_cell_keeps_those_before_it(tmp_path):
    with pytest.raises(GgdjaxError, match="network=net1 number=3 seed=0: bad luck"):
        run(Counting(unlucky=3), tmp_path)
    assert [row["number"] for row in store.read_rows(tmp_path)] == [2, 4, 1]


def test_shards_share_a_folder_and_add_up(tmp_path):
    for index, count in ((2, 2), (1, 3), (3, 2)):
        assert f"{count} cells, 0 finished" in run(Counting(numbers=tuple(range(7))), tmp_path, (index, 3))
    assert sorted(row["number"] for row in store.read_rows(tmp_path)) == list(range(7))
    assert len(list(tmp_path.glob("cells-*-of-3.jsonl"))) == 3
    assert "7 finished, 0 to do" in run(Counting(numbers=tuple(range(7))), tmp_path)


def test_time_left_is_by_finished_cells_of_the_same_network_and_kind():
    rows = [
        {"network": "a", "kind": "sqnr", "seed": 0, "seconds": 1.0, "setup_seconds": 10.0},
        {"network": "a", "kind": "sqnr", "seed": 0, "seconds": 3.0, "setup_seconds": 10.0},
    ]
    like = {"network": "a", "kind": "sqnr", "seed": 1}
    todo = [like, like, {**like, "kind": "accuracy"}, {**like, "network": "b"}]
    assert seconds_left(todo, rows) == (2 * 2.0 + 10.0, 2)
    assert seconds_left(todo, rows, ready=("a", 1)) == (2 * 2.0, 2)


def test_more_shards_than_cells(tmp_path):
    assert "0 cells, 0 finished, 0 to do" in run(Counting(numbers=(1, 2)), tmp_path, (3, 3))


def test_code_version_without_git_is_that_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    assert provenance.code_version() == {"version": ggdjax.__version__}


def test_code_version_tells_changed_files(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    (tmp_path / "file").write_text("1")
    for what in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *what], check=True)
    clean = provenance.code_version()
    (tmp_path / "file").write_text("2")
    assert clean == {**provenance.code_version(), "dirty": False}
    assert provenance.code_version()["dirty"]
    assert len(clean["commit"]) == 40


def test_two_runs_at_once_are_refused(tmp_path, capsys):
    with store.exclusive_folder(tmp_path), pytest.raises(SystemExit, match="2"):
        main(["run", *SWEEP, "--out", str(tmp_path)])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "held by another run" in line


def test_workers_share_the_cells(tmp_path, capsys):
    main(["run", *SWEEP, "--bits", "8", "4", "--workers", "2", "--out", str(tmp_path)])
    assert "not run" not in capsys.readouterr().out
    counts = [len(path.read_text().splitlines()) for path in sorted(tmp_path.glob("cells-*-of-2.jsonl"))]
    assert counts == [4, 4]


def test_worker_that_fails_says_why(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["run", *SWEEP, "--bits", "8", "--workers", "2", "--calibration-images", "9999", "--out", str(tmp_path)])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "process 1 of 2: network=digits seed=0" in line
    assert "9999" in line


def test_cells_of_a_worker_that_dies_are_taken_by_a_new_one(tmp_path):
    console = Console(width=160, file=io.StringIO())
    spread.run_workers(Counting(deadly=3), tmp_path, 2, console)
    assert "of 2 ended with status -9: started again" in console.file.getvalue()
    assert sorted(row["number"] for row in store.read_rows(tmp_path)) == [1, 2, 3, 4, 5]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems leave it to a thread of the worker")
def test_workers_end_with_the_process_that_started_them_whatever_they_do(tmp_path):
    code = (
        "from pathlib import Path\nfrom counting import Counting\nfrom rich.console import Console\n"
        f"from experiments import spread\nspread.run_workers(Counting(stuck=1), Path({str(tmp_path)!r}), 2, Console())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(Path(__file__).parent)))}
    started = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    while not (tmp_path / "stuck").exists():
        assert started.poll() is None
        time.sleep(0.01)
    started.kill()
    started.communicate(timeout=20)  # the workers have its pipe
    (rest,) = run(Counting(), tmp_path).splitlines()[:1]
    assert "5 cells" in rest


def test_more_workers_than_devices_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(GgdjaxError, match="there are 2 devices"):
        spread.run_workers(Counting(), tmp_path, 3, Console())


def test_submitted_tasks_share_the_cells(tmp_path):
    jobs = spread.submit(Counting(), tmp_path, 2, "debug", spread.Slurm())
    spread.wait(jobs)
    assert sorted(row["number"] for row in store.read_rows(tmp_path)) == [1, 2, 3, 4, 5]
    assert len(list(tmp_path.glob("cells-*-of-2.jsonl"))) == 2


def test_preempted_task_is_submitted_again():
    again = spread._Task().checkpoint(Counting(), Path("folder"), (1, 2))
    assert isinstance(again.function, spread._Task)
    assert again.args == (Counting(), Path("folder"), (1, 2))


def test_submit_to_slurm_without_slurm_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GgdjaxError, match="`--submit slurm` is not possible here"):
        spread.submit(Counting(), tmp_path, 2, "slurm", spread.Slurm())


def lines(folder: Path) -> list[bytes]:
    path = folder / "cells-1-of-1.jsonl"
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def test_killed_at_ten_random_moments_ends_with_the_same_table(tmp_path, capsys):
    """SIGKILL while it starts, while it calibrates, and between cells; what was finished before stays, bit for bit."""
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    main(["run", *SWEEP, "--out", str(undisturbed)])
    expected = capsys.readouterr().out
    command = [sys.executable, "-m", "experiments", "run", *SWEEP, "--out", str(killed)]
    random_ = random.Random(8)
    # Moments: seconds after the start, or cells after those that were there, and milliseconds after them.
    moments = [("seconds", random_.uniform(0.05, 2.0)) for _ in range(3)]
    moments += [("cells", random_.randint(1, 8)) for _ in range(7)]
    random_.shuffle(moments)
    progress = 0
    for unit, amount in moments:
        before = lines(killed)
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started = time.monotonic()
        while time.monotonic() - started < (amount if unit == "seconds" else 60):
            assert process.poll() is None, "it ended before it could be killed"
            if unit == "cells" and len(lines(killed)) >= len(before) + amount:
                time.sleep(random_.uniform(0, 0.01))
                break
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        after = lines(killed)
        assert after[: len(before)] == before
        assert unit == "seconds" or len(after) > len(before)
        progress += len(after) > len(before)
    assert progress >= 7
    assert len(lines(killed)) < len(lines(undisturbed))
    main(["run", *SWEEP, "--out", str(killed)])
    table = capsys.readouterr().out
    assert table[table.index("┏") :] == expected[expected.index("┏") :]
    varying = {"seconds", "setup_seconds", "finished", "code"}
    one, other = (
        [{k: v for k, v in row.items() if k not in varying} for row in store.read_rows(folder)]
        for folder in (undisturbed, killed)
    )
    assert json.dumps(one) == json.dumps(other)
    assert len(one) == 60


def test_interrupt_while_packages_are_imported_is_one_line(tmp_path):
    slow = tmp_path / "ggdjax" / "__init__.py"
    slow.parent.mkdir()
    slow.write_text(f"import time\nopen({str(tmp_path / 'importing')!r}, 'w').close()\ntime.sleep(60)\n")
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    command = [sys.executable, "-m", "experiments", "list"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "importing").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert said == "experiments: interrupted; what is finished is kept, the same command resumes\n"


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
@pytest.mark.parametrize("moment", [0.0, 2.0])
def test_interrupt_ends_a_run_within_seconds(tmp_path, moment, workers):
    command = [sys.executable, "-m", "experiments", "run", *SWEEP, "--out", str(tmp_path), *workers]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen(command, cwd=ROOT, **pipes)
    while not (tmp_path / ".lock").exists():
        time.sleep(0.001)
    time.sleep(moment)
    interrupted = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to workers, too
    said = process.communicate(timeout=60)[1]
    assert time.monotonic() - interrupted < 4
    assert process.returncode == 130, said
    assert said.splitlines()[-1].startswith("experiments: interrupted; what is finished is kept")
    with store.exclusive_folder(tmp_path):
        pass
