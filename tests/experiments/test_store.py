from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from experiments import files, store
from experiments.configs import CONFIGS
from ggdjax import GgdjaxError


def row(key: str, **more) -> dict:
    return {"experiment": "e", "config_hash": "h", "key": key, **more}


def test_rows_of_all_files_come_back_each_cell_once(tmp_path):
    for shard, keys in (((1, 2), "ab"), ((2, 2), "bc")):
        with store.appending(tmp_path, shard) as append:
            for key in keys:
                append(row(key, shard=shard[0]))
    assert [(r["key"], r["shard"]) for r in store.read_rows(tmp_path)] == [("a", 1), ("b", 1), ("c", 2)]
    assert store.read_rows(tmp_path / "nowhere") == []


def test_torn_last_line_is_dropped_wherever_it_was_torn(tmp_path):
    with store.appending(tmp_path, (1, 1)) as append:
        append(row("a"))
        append(row("b"))
    path = tmp_path / "cells-1-of-1.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):
        path.write_bytes(whole[:end])
        assert [r["key"] for r in store.read_rows(tmp_path)] == ["a"]
    with store.appending(tmp_path, (1, 1)) as append:
        assert path.read_bytes() == whole[:first]
        append(row("c"))
    assert [r["key"] for r in store.read_rows(tmp_path)] == ["a", "c"]


def test_damage_inside_a_file_is_named(tmp_path):
    path = tmp_path / "cells-1-of-1.jsonl"
    path.write_text(json.dumps(row("a")) + "\n{half\n" + json.dumps(row("b")) + "\n")
    with pytest.raises(GgdjaxError, match="line 2"):
        store.read_rows(tmp_path)


def test_one_whole_run_or_many_shards(tmp_path):
    with store.exclusive_folder(tmp_path):
        for other in (store.exclusive_folder, store.shared_folder):
            with pytest.raises(GgdjaxError, match="held by another run"), other(tmp_path):
                pass
    with store.shared_folder(tmp_path), store.shared_folder(tmp_path), store.appending(tmp_path, (1, 2)):
        with store.appending(tmp_path, (2, 2)):
            pass
        with pytest.raises(GgdjaxError, match="held by another run"), store.appending(tmp_path, (1, 2)):
            pass
        with pytest.raises(GgdjaxError, match="held by another run"), store.exclusive_folder(tmp_path):
            pass


def _hold(folder, ready) -> None:
    with store.exclusive_folder(folder):
        ready.set()
        signal.pause()


def test_lock_goes_with_a_killed_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(GgdjaxError, match="held by another run"), store.exclusive_folder(tmp_path):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with store.exclusive_folder(tmp_path):
        pass


def test_image_ids_are_kept_once(tmp_path):
    ids = [f"digits/{i}" for i in range(5)]
    said = store.keep_image_ids(tmp_path, ids)
    assert said == store.keep_image_ids(tmp_path, ids)
    assert said["count"] == 5
    assert store.image_ids(tmp_path, said["hash"]) == ids
    assert len(list((tmp_path / "images").iterdir())) == 1


def test_experiments_that_start_at_once_in_one_folder_are_all_kept(tmp_path, monkeypatch):
    to_toml = files.to_toml
    monkeypatch.setattr(files, "to_toml", lambda tables: [time.sleep(0.1), to_toml(tables)][1])
    names = ("schemes", "weights", "orders")
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: files.keep(tmp_path, CONFIGS[f"{name}-tiny"]), names))
    assert set(files.kept(tmp_path)) == set(names)
    assert [path.name for path in tmp_path.iterdir()] == [files.KEPT]


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(GgdjaxError, match="cannot be written"), store.exclusive_folder(tmp_path / "file"):
        pass
