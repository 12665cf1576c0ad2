"""Interrupts of a command: it ends at once, whatever its threads are doing, and says what is kept."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

#: Seconds that an interrupt leaves to Python; then the process ends, wherever it is.
_PATIENCE = 1.0
_SAID = threading.Lock()


def watch_interrupts() -> None:
    """Let an interrupt end the process within two seconds."""
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Python's handler waits for the end of compiled code. The number of a signal is written here at once.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, writer), daemon=True, name="ggdjax-interrupts").start()


def _watch(reader: socket.socket, _writer: socket.socket) -> None:
    while received := reader.recv(1):
        if received[0] == signal.SIGINT:
            time.sleep(_PATIENCE)
            say_interrupted()
            end(130)


def say_interrupted() -> None:
    """Say, once, what an interrupt leaves and how to resume."""
    if not _SAID.acquire(blocking=False):
        return
    with suppress(OSError):
        print(f"ggdjax: {_left()}", file=sys.stderr, flush=True)


def _left() -> str:
    from ggdjax.cli._runs import KEPT

    kept = [folder for folder in KEPT if folder.is_dir() and any(folder.iterdir())]
    if kept:
        return f"interrupted; finished stages are kept in {kept[0]}: the same command resumes from them"
    return "interrupted; nothing is left half written: give the same command to start anew"


def end(status: int) -> NoReturn:
    """End the process at once: an orderly end would wait for, or tear down, threads that are inside compiled code."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)
