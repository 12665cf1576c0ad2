"""Run a script of the tests with other devices, processes or compiler flags: SCRIPT OUT RANK RANKS PORT."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Literal


def run_elsewhere(script: Path, out: Path, how: Literal["devices", "processes", "fused"]) -> None:
    """Run it, and wait: on eight simulated devices, in two processes, or fused as programs of users are."""
    folders = [str(script.parent), str(Path(__file__).parent / "tune"), *sys.path]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(folders)}
    if how == "devices":
        env["XLA_FLAGS"] = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    if how == "fused":
        env["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    ranks = 2 if how == "processes" else 1
    runs = [
        subprocess.Popen(
            [sys.executable, str(script), str(out), str(rank), str(ranks), port],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    for run in runs:
        text, _ = run.communicate(timeout=600)
        assert run.returncode == 0, text
