"""Where the commands have JAX keep compiled programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ggdjax.cli._cache import enable_cache
from ggdjax.data import default_cache_dir

_OURS = ("GGDJAX_CACHE", "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME")


@pytest.fixture
def before_jax(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return an empty home folder, in a process that has not imported jax, as far as it can be seen."""
    for name in (*_OURS, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"):
        monkeypatch.setenv(name, "")  # put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "jax")
    return tmp_path


def test_the_users_cache_folder(before_jax: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert enable_cache() == before_jax / ".cache" / "ggdjax" / "jax"
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(before_jax / ".cache" / "ggdjax" / "jax")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(before_jax / "xdg"))
    assert enable_cache() == before_jax / "xdg" / "ggdjax" / "jax"


def test_the_variable_moves_it_or_turns_it_off(before_jax: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGDJAX_CACHE", "off")
    assert enable_cache() is None
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    assert default_cache_dir() == before_jax / ".cache" / "ggdjax"
    monkeypatch.setenv("GGDJAX_CACHE", str(before_jax / "own"))
    assert enable_cache() == before_jax / "own" / "jax"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    assert enable_cache() == Path("elsewhere")


def test_a_folder_that_cannot_be_made_keeps_nothing(before_jax: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (before_jax / "file").touch()
    monkeypatch.setenv("GGDJAX_CACHE", str(before_jax / "file"))
    assert enable_cache() is None


def test_the_command_calls_it_before_jax_is_imported(tmp_path: Path) -> None:
    code = "import ggdjax.cli, sys; assert 'jax' not in sys.modules; from ggdjax.cli import main; main(['--help'])"
    env = {name: value for name, value in os.environ.items() if name not in _OURS} | {"GGDJAX_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "jax").is_dir()
