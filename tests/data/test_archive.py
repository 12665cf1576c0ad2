from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest

from ggdjax._errors import DataError
from ggdjax.data import Preprocessing, default_cache_dir, open_images
from ggdjax.data._archive import extract

RAW = Preprocessing(scale=1.0)


def pack(folder, archive, mode="w:gz", arcname=""):
    with tarfile.open(archive, mode) as tar:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                tar.add(file, arcname + file.relative_to(folder).as_posix())
    return archive


@pytest.mark.parametrize(("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz")])
@pytest.mark.parametrize("arcname", ["", "wrapped/"])
def test_an_archive_opens_as_its_folder(tmp_path, parts_tree, suffix, mode, arcname):
    archive = pack(parts_tree, tmp_path / f"set{suffix}", mode, arcname)
    images = open_images(archive, RAW, cache_dir=tmp_path / "cache")
    assert images.ids == open_images(parts_tree, RAW).ids
    assert set(images.parts) == {"train", "test"}
    assert sum(len(y) for _, y in images.batches()) == 12


def test_a_hidden_file_beside_the_wrapping_folder_does_not_count(tmp_path, parts_tree):
    (parts_tree / "._wrapped").write_bytes(b"x")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(parts_tree / "._wrapped", "._wrapped")
        tar.add(parts_tree, "wrapped")
    images = open_images(tmp_path / "set.tar", RAW, cache_dir=tmp_path / "cache")
    assert set(images.parts) == {"train", "test"}


def test_extraction_happens_once_and_again_for_a_changed_archive(tmp_path, class_tree):
    archive, cache = pack(class_tree, tmp_path / "set.tar.gz"), tmp_path / "cache"
    calls = []
    folder = extract(archive, cache, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (archive.stat().st_size,) * 2
    calls.clear()
    assert extract(archive, cache, lambda done, total: calls.append((done, total))) == folder
    assert not calls
    (class_tree / "ant" / "0.png").unlink()
    assert extract(pack(class_tree, archive), cache) != folder


def test_a_damaged_archive_leaves_nothing(tmp_path, class_tree):
    archive, cache = pack(class_tree, tmp_path / "set.tar.gz"), tmp_path / "cache"
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"set\.tar\.gz` cannot be unpacked") as error:
        extract(archive, cache)
    assert "\n" not in str(error.value)
    assert not list(cache.iterdir())


@pytest.mark.parametrize("kind", ["bz2", "xz"])
def test_an_archive_with_damage_inside(tmp_path, kind):
    source, archive = tmp_path / "noise.png", tmp_path / f"set.tar.{kind}"
    source.write_bytes(np.random.default_rng(0).bytes(60_000))
    with tarfile.open(archive, f"w:{kind}") as tar:
        tar.add(source, "a/noise.png")
    content = bytearray(archive.read_bytes())
    content[30_000:30_050] = bytes(50)
    archive.write_bytes(content)
    with pytest.raises(DataError, match="it is damaged or no tar archive") as error:
        extract(archive, tmp_path / "cache")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no archive at all"])
def test_a_file_that_is_no_archive(tmp_path, content):
    archive = tmp_path / "set.tar.gz"
    archive.write_bytes(content)
    with pytest.raises(DataError, match="cannot be unpacked"):
        extract(archive, tmp_path / "cache")


def test_a_missing_archive(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        extract(tmp_path / "none.tar", tmp_path / "cache")


@pytest.mark.parametrize("kind", ["outside", "link"])
def test_members_that_lead_out_are_refused(tmp_path, kind):
    archive = tmp_path / "set.tar"
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo("../evil.png" if kind == "outside" else "link.png")
        if kind == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member, io.BytesIO(b""))
    with pytest.raises(DataError):
        extract(archive, tmp_path / "cache")
    assert not (tmp_path / "evil.png").exists()
    assert not list((tmp_path / "cache").iterdir())


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("GGDJAX_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "own"
    monkeypatch.delenv("GGDJAX_CACHE")
    assert default_cache_dir() == tmp_path / "ggdjax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "ggdjax"
