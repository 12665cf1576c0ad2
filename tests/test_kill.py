"""SIGKILL at any moment: the next run ends as an undisturbed one would; two processes never share an output."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from ggdjax._errors import GgdjaxError
from ggdjax._lock import exclusive
from ggdjax._whole import whole_file, whole_folder


class Stop(Exception):
    """What ends a block early."""


HOLD = """
import sys, time
from ggdjax._whole import whole_folder
with whole_folder(sys.argv[1], "--out") as folder:
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


def test_a_place_that_another_process_writes_is_refused(tmp_path, holder):
    place = tmp_path / "a" / "run"
    with (
        pytest.raises(GgdjaxError, match=r"`--out` \S+/a/run is being written by another process: wait"),
        exclusive(place, "--out"),
    ):
        pass
    # The refused one left the holder's things alone.
    assert holder.poll() is None
    assert len(list(place.parent.iterdir())) == 2


def test_a_killed_holder_leaves_no_lock_and_its_leftovers_go(tmp_path, holder):
    place = tmp_path / "a" / "run"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not place.exists()
    with whole_folder(place, "--out") as folder:
        (folder / "whole").write_text("x")
    assert sorted(p.name for p in place.parent.rglob("*")) == ["run", "whole"]


def test_killed_between_the_two_renames(tmp_path):
    """The old folder was set aside and the new one never came: the old one is put back."""
    aside = tmp_path / ".run.abc.partial"
    (aside / "old").mkdir(parents=True)
    (aside / "old" / "earlier").write_text("x")
    (aside / "new").mkdir()
    with suppress(Stop), whole_folder(tmp_path / "run", "--out"):
        assert (tmp_path / "run" / "earlier").read_text() == "x"
        raise Stop
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_nothing_stays_of_what_failed(tmp_path):
    with suppress(Stop), whole_folder(tmp_path / "x" / "y" / "run", "--out"):
        raise Stop
    (tmp_path / "file").write_text("before")
    with suppress(Stop), whole_file(tmp_path / "file", "path") as part:
        part.write_text("half")
        raise Stop
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "before")]
