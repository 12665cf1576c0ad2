"""The file format: whole and exact, or one line."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import ggdjax as gd
from ggdjax import _files
from ggdjax._errors import GgdjaxError

#: Chooses what is damaged, and the moments of the kills.
SEED = 20181030

ARRAYS = {
    "a/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "zero-dimensional": np.float64(0.1),
    "empty": np.zeros((0, 3), np.int16),
    "Δ": np.array([True, False, True]),
    "int8": np.array([-128, 127], np.int8),
    "large endian": np.array([1, 256], ">i4"),
    "every second": np.arange(6, dtype=np.uint16)[::2],
    "jax": jnp.float32(3),
}
RECORD = {"Δ\n": [1, 1.0, True, None, -0.0, 0.1, "x"], "inf": [math.inf, -math.inf], "deep": {"a": {"b": (1, ())}}}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "x.safetensors"
    _files.write(file, "network", RECORD, ARRAYS)
    return file


def refused(path: object, match: str, kinds: tuple[str, ...] = ("network",)) -> None:
    with pytest.raises(GgdjaxError, match=match) as caught:
        _files.read(path, kinds)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_what_is_read_is_what_was_written(path, tmp_path):
    kind, record, arrays = _files.read(str(path), ("program", "network"))
    assert kind == "network"
    assert repr(record) == repr(json.loads(json.dumps(RECORD)))
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == np.asarray(array).dtype.newbyteorder("=")
        assert arrays[name].shape == np.shape(array)
        np.testing.assert_array_equal(arrays[name], array)
    _files.write(tmp_path / "again", "network", RECORD, dict(reversed(ARRAYS.items())))
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "x.safetensors"]
    assert path.stat().st_mode & 0o077 == 0o666 & ~_umask() & 0o077


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_safetensors_reads_it(path):
    found = load_file(path)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["version"], metadata["kind"]) == ("ggdjax", "1", "network")
    content, digest = path.read_bytes(), metadata["sha256"]
    assert hashlib.sha256(content.replace(digest.encode(), b"0" * 64, 1)).hexdigest() == digest
    assert _files.loads(metadata["record"])["inf"] == [math.inf, -math.inf]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_records_are_exact(value):
    assert repr(_files.loads(_files.dumps(value))) == repr(value)


def test_two_hundred_damaged_files(path, tmp_path):
    chance = random.Random(SEED)
    whole, damaged = path.read_bytes(), tmp_path / "damaged"
    header = 8 + int.from_bytes(whole[:8], "little")
    for number in range(250):
        content = bytearray(whole)
        if number < 100:
            content[chance.randrange(header)] ^= 1 << chance.randrange(8)
        elif number < 150:
            content[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        elif number < 200:
            del content[chance.randrange(len(whole)) :]
        elif number < 225:
            content += chance.randbytes(chance.randrange(1, 20))
        else:
            start = chance.randrange(len(whole) - 4)
            content[start : start + 4] = chance.randbytes(4)
        damaged.write_bytes(content)
        refused(damaged, r"^`path` \S+damaged ")


def test_every_bit_of_the_header_counts(path, tmp_path):
    whole, damaged = path.read_bytes(), tmp_path / "damaged"
    for position in range(8 + int.from_bytes(whole[:8], "little")):
        content = bytearray(whole)
        content[position] ^= 1
        damaged.write_bytes(content)
        refused(damaged, "`path`")


def foreign() -> dict[str, bytes]:
    """Return the beginnings of other programs' files."""
    nested = b"[" * 200_000
    return {
        "empty": b"",
        "short": b"\x01\x00",
        "text": b"name,label\n" * 30,
        "JSON": b'{"format": "ggdjax"}',
        "png": b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
        "zip": b"PK\x03\x04" + b"\0" * 40,
        "onnx": b"\x08\x08\x12\x07pytorch\x1a\x051.12.0:\xd3\x02" + b"x" * 99,
        "pickle": b"\x80\x04\x95" + b"\0" * 40,
        "huge header": (1 << 62).to_bytes(8, "little") + b"{" + b" " * 40,
        "largest header": b"\xff" * 8 + b"{" + b" " * 40,
        "nested header": len(nested).to_bytes(8, "little") + b"{" + nested,
        "deep header": (5 * 200_001).to_bytes(8, "little") + b'{"a":' * 200_001,
        "header of a list": (2).to_bytes(8, "little") + b"{]",
        "no metadata": (2).to_bytes(8, "little") + b"{}",
        "metadata of a list": (19).to_bytes(8, "little") + b'{"__metadata__":[]}',
    }


@pytest.mark.parametrize("name", foreign())
def test_foreign_files(tmp_path, name):
    (tmp_path / "x").write_bytes(foreign()[name])
    refused(tmp_path / "x", r"is no file of ggdjax, or cut off: name|is a safetensors file of another program: name")


def test_safetensors_of_another_program(tmp_path):
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "x", {"format": "pt"})
    refused(tmp_path / "x", "is a safetensors file of another program: name a file that `save` wrote")


def rewritten(path: Path, changes: dict[str, str], tensors: dict | None = None) -> Path:
    """Change the metadata or the entries of arrays, checksum and all: not damage, but another writer."""
    content = path.read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:size])
    header["__metadata__"] |= {"sha256": "0" * 64, **changes}
    header |= tensors or {}
    text = json.dumps(header).encode()
    whole = len(text).to_bytes(8, "little") + text + content[size:]
    path.write_bytes(whole.replace(b"0" * 64, hashlib.sha256(whole).hexdigest().encode(), 1))
    return path


def test_newer_version_and_other_kind(path):
    refused(path, "holds a network, expected a program or a calibration: name another", ("program", "calibration"))
    refused(rewritten(path, {"kind": "poem"}), "holds a poem, expected a network")
    newer = r"written by a newer version \(format 2; this one reads 1\): upgrade ggdjax"
    refused(rewritten(path, {"kind": "network", "version": "2"}), newer)
    for version in ("0", "", "two", "²", "9" * 5000):
        refused(rewritten(path, {"version": version}), "is damaged or cut off")


@pytest.mark.parametrize(
    ("changes", "tensors"),
    [
        ({"record": "{"}, None),
        ({"record": "[" * 100_000}, None),
        ({"record": "1" * 5000}, None),
        ({}, {"int8": {"dtype": "I8", "shape": [3], "data_offsets": [0, 2]}}),
        ({}, {"int8": {"dtype": "C64", "shape": [2], "data_offsets": [0, 2]}}),
        ({}, {"int8": {"dtype": "I8", "shape": [2], "data_offsets": [0]}}),
        ({}, {"int8": {"dtype": "I8", "shape": [2], "data_offsets": [10**9, 10**9 + 2]}}),
        ({}, {"int8": {"dtype": "I8", "shape": "2", "data_offsets": [0, 2]}}),
        ({}, {"int8": {"dtype": "F32", "shape": [-1], "data_offsets": [1, 4]}}),
        ({}, {"int8": {"dtype": "I8", "shape": [2], "data_offsets": [0, 2], "more": 1}}),
        ({}, {"int8": None}),
    ],
)
def test_another_writer_of_other_content(path, changes, tensors):
    refused(rewritten(path, changes, tensors), r"does not hold what it should \(\w+: .*\): save it again")


def test_places_that_cannot_be_read(tmp_path, path, monkeypatch):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "gone", "gone cannot be read .No such file or directory.: name a file")
    refused(tmp_path, "is a folder: name a file")
    refused(tmp_path / "loop", "loop cannot be read")
    refused(tmp_path / "pipe", "pipe is no regular file")
    refused(path / "below", "cannot be read .Not a directory.")
    refused(tmp_path / "a\nb", r"'\S+a\\nb' cannot be read")
    refused(tmp_path / ("x" * 300), "cannot be read .File name too long.")
    for wrong in (None, 3, b"x", "x\0y", "\ud800"):
        refused(wrong, "`path` is .*; expected the name of a file")
    refused("~/gone", "~/gone cannot be read")

    def denied(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", denied)
    refused(path, "cannot be read .Permission denied.")


@pytest.mark.parametrize(
    ("place", "match"),
    [
        ("no/x", "its folder does not exist; make it first"),
        ("folder", "is a folder: name a file in it"),
        ("loop", "cannot be written"),
        ("file/below", "its folder does not exist"),
        ("x" * 300, "cannot be written: File name too long"),
        ("x" * 255, "cannot be written: File name too long"),
        ("a\0b", "expected the name of a file"),
    ],
)
def test_places_that_cannot_be_written(tmp_path, place, match):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(GgdjaxError, match=match) as caught:
        _files.write(tmp_path / place, "network", {}, {})
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_the_old_file(path, monkeypatch):
    class Full:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.stream.close()

        def write(self, content):
            if len(content) > 100:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.stream.write(content)

    before, opened = path.read_bytes(), Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, *args: Full(opened(self, *args)))
        with pytest.raises(GgdjaxError, match=r"cannot be written: No space left on device; choose a place") as caught:
            _files.write(path, "network", {}, {"x": np.zeros(1000)})
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_read_only_folder(path, monkeypatch):
    def denied(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(GgdjaxError, match="cannot be written: Read-only file system; choose a place"):
        _files.write(path, "network", {}, {})


def test_links_are_followed(path, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(path)
    _files.write(link, "program", {}, {})
    assert link.is_symlink()
    assert _files.read(path, ("program",)) == _files.read(link, ("program",)) == ("program", {}, {})


@pytest.mark.parametrize(
    ("record", "arrays", "match"),
    [
        ({1: 2}, {}, "`record` cannot be written as JSON: the key 1 is no string"),
        ({"x": object()}, {}, "`record` cannot be written as JSON"),
        ({}, {"x": np.zeros(2, complex)}, "the array `x` of type complex128 cannot be saved"),
        ({}, {"x": jnp.zeros(2, jnp.bfloat16)}, "the array `x` of type bfloat16 cannot be saved"),
        ({}, {"x": np.array(["text"])}, "the array `x` of type <U4 cannot be saved"),
        ({}, {"__metadata__": np.zeros(2)}, "the array `__metadata__`"),
    ],
)
def test_what_the_format_cannot_hold(path, record, arrays, match):
    before = path.read_bytes()
    with pytest.raises(GgdjaxError, match=match):
        _files.write(path, "network", record, arrays)
    assert path.read_bytes() == before


SAVE = """
import sys
import numpy as np
from ggdjax import _files
print("ready", flush=True)
for number in range(10**6):
    _files.write(sys.argv[1], "network", {"number": number}, {"x": np.full(1 << 19, number)})
"""


def test_killed_at_any_moment(path):
    chance = random.Random(SEED)
    _files.write(path, "network", {"number": -1}, {"x": np.full(5, -1)})
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", SAVE, str(path)], stdout=subprocess.PIPE, text=True) as started:
            assert started.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0, 0.2))
            started.kill()
        assert started.returncode == -signal.SIGKILL
        _, record, arrays = _files.read(path, ("network",))
        np.testing.assert_array_equal(arrays["x"], record["number"])
    _files.write(path, "network", {}, {})
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_several_writers_of_one_file(path):
    _files.write(path, "network", {"number": -1}, {"x": np.full(5, -1)})
    command = [sys.executable, "-c", SAVE.replace("10**6", "20"), str(path)]
    started = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    while any(process.poll() is None for process in started):
        _, record, arrays = _files.read(path, ("network",))
        np.testing.assert_array_equal(arrays["x"], record["number"])
    assert [process.returncode for process in started] == [0, 0]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_decoding_gives_one_line(path):
    for error in (KeyError("nodes"), TypeError("a\nb"), IndexError(), AttributeError("x"), ZeroDivisionError("x")):
        with pytest.raises(GgdjaxError, match=r"x\.safetensors does not hold what it should") as caught:  # noqa: SIM117
            with _files.decoding(path):
                raise error
        assert "\n" not in str(caught.value)
    with (
        pytest.raises(GgdjaxError, match=r"x\.safetensors does not hold what it should \(no such"),
        _files.decoding(path),
    ):
        raise GgdjaxError("no such node")


# What `load` gives --------------------------------------------------------------------------------------------------


def same_leaves(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("per_channel", [False, True])
def test_calibration(tmp_path, per_channel):
    rng = np.random.default_rng(0)
    kernels = [jnp.asarray(rng.normal(size=(4, 4)), jnp.float32) for _ in range(2)]
    net = gd.trace(lambda x: jax.nn.relu(x @ kernels[0]) @ kernels[1], jnp.zeros((1, 4)))
    batches = [rng.normal(size=(8, 4)).astype(np.float32) for _ in range(3)]
    calibration = gd.calibrate(net, batches, per_channel=per_channel)
    calibration.save(tmp_path / "c")
    loaded = gd.load(tmp_path / "c")
    assert (loaded.names, loaded.images) == (calibration.names, calibration.images)
    same_leaves(loaded.histograms, calibration.histograms)
    same_leaves(loaded.channels, calibration.channels)
    assert (loaded.channels is not None) == per_channel
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "c").read_bytes()
    assert (tmp_path / "c").stat().st_size < 20_000


def test_histogram_by_load(tmp_path):
    histogram = gd.Histogram.from_samples(jnp.arange(9.0))
    histogram.save(tmp_path / "h")
    same_leaves(gd.load(tmp_path / "h"), histogram)
    _files.write(tmp_path / "n", "network", {}, {})
    with pytest.raises(GgdjaxError, match="holds a network, expected a histogram"):
        gd.Histogram.load(tmp_path / "n")


@pytest.mark.parametrize("kind", ["network", "calibration", "histogram", "program"])
@pytest.mark.parametrize("record", [None, [], {}, 3, {"graph": [], "names": 3}, {"graph": {"nodes": 3}, "names": []}])
def test_records_of_another_structure(tmp_path, kind, record):
    _files.write(tmp_path / "x", kind, record, {"index": np.zeros(2, np.uint16)})
    with pytest.raises(GgdjaxError, match=r"`path` \S+x does not hold what it should") as caught:
        gd.load(tmp_path / "x")
    assert not re.search(r"\n", str(caught.value))
