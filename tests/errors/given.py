"""What prepares the wrong inputs of several lists."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.errors.world import World
from tests.small_onnx import CLASSES


def file(name: str, content: bytes | str = b"") -> Callable[[World], None]:
    """Return what writes a file among the given ones."""

    def write(w: World) -> None:
        path = w.given / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def folder(name: str) -> Callable[[World], None]:
    return lambda w: (w.given / name).mkdir(parents=True)


def in_place(name: str, text: str = "x") -> Callable[[World], Any]:
    def write(w: World) -> None:
        (w.place / name).parent.mkdir(parents=True, exist_ok=True)
        (w.place / name).write_text(text)

    return write


def npz(**arrays) -> Callable[[World], None]:
    return lambda w: np.savez(w.given / "set.npz", **arrays)


def pixels(count=30, chan=3, dtype=np.uint8) -> np.ndarray:
    return np.zeros((count, 8, 8, chan), dtype)


def labels(count=30) -> np.ndarray:
    return np.arange(count) % CLASSES


TRAINING = npz(image=pixels(chan=1), label=labels())


def member(name: str, size: int = 1, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def tar_of(*members: tarfile.TarInfo) -> Callable[[World], None]:
    def write(w: World) -> None:
        with tarfile.open(w.given / "set.tar.gz", "w:gz") as tar:
            for member in members:
                tar.addfile(member, io.BytesIO(b"x" * member.size))

    return write


def foreign(w: World) -> None:
    from safetensors.numpy import save_file

    save_file({"conv/kernel": np.zeros(3, np.float32)}, w.given / "w")
