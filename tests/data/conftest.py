"""Small image folders, written by the tests themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _write_image(path: Path, value: int = 0, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    Image.fromarray(np.full(shape, value, np.uint8), mode).save(path)


@pytest.fixture
def write_image():
    """Return the function that writes one image of one value."""
    return _write_image


@pytest.fixture
def class_tree(tmp_path: Path) -> Path:
    """Three classes of four images; pixel value = 10 · class + number."""
    root = tmp_path / "set"
    for label, name in enumerate(["ant", "bee", "cat"]):
        for number in range(4):
            _write_image(root / name / f"{number}.png", 10 * label + number)
    return root


@pytest.fixture
def parts_tree(tmp_path: Path) -> Path:
    """Train (4 a class) and test (2 a class) parts of two classes."""
    root = tmp_path / "parts"
    for part, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(["ant", "bee"]):
            for number in range(count):
                _write_image(root / part / name / f"{number}.png", 10 * label + number)
    return root
