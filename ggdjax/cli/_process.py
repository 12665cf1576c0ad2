"""How a command ends: with one line for an error, and at once, whatever its threads are doing, when interrupted."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from ggdjax._errors import GgdjaxError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

#: Seconds that an interrupt leaves to Python; then the process ends, wherever it is.
_PATIENCE = 1.0
_ENDING = threading.Lock()
#: The line of an interrupted process.
_LINE: list[Callable[[], str]] = []
#: What an interrupted process does before it ends, such as to end those that it started.
LAST: list[Callable[[], object]] = []


@contextmanager
def ending(program: str, interrupted: Callable[[], str], *, whole: bool, at_once: bool = False) -> Generator[None]:
    """Let a command end with one line on standard error, and status 2, for every user error.

    Args:
        program: how lines begin.
        interrupted: returns what an interrupted command says.
        whole: this is the whole process, which interrupts end.
        at_once: see `watch_interrupts`.
    """
    if whole:
        watch_interrupts(lambda: f"{program}: {interrupted()}", at_once=at_once)
    try:
        yield
        sys.stdout.flush()
        if whole:
            ignore_interrupts()
    except GgdjaxError as error:
        say(program, str(error))
        raise SystemExit(2) from None
    except BrokenPipeError:
        _drop_output()
        raise SystemExit(141) from None  # as a shell says of a program that a closed pipe ended
    except OSError as error:
        _drop_output()
        say(program, f"the output cannot be written or a file cannot be read ({error}): choose a place with space")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        if whole:
            end_interrupted()
        say(program, interrupted())
        raise SystemExit(130) from None


def say(program: str, line: str) -> None:
    """Print one line on standard error."""
    with suppress(OSError):
        print(f"{program}: {' '.join(line.split())}", file=sys.stderr, flush=True)


def _drop_output() -> None:
    """Let what could not be written go: Python would try again when it ends, and complain."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def watch_interrupts(line: Callable[[], str], *, at_once: bool = False) -> None:
    """Let an interrupt end the process within two seconds, with a line on standard error.

    ``at_once``: where nothing has to be tidied up. An exception would meet compiled code, which aborts on some.
    """
    _LINE[:] = [line]
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGINT, (lambda *_: end_interrupted()) if at_once else signal.default_int_handler)
    # Raised inside a callback of compiled code an interrupt goes no further: the thread below ends the process.
    sys.unraisablehook = _unraisable
    # Python's handler waits for the end of compiled code. The number of a signal is written here at once.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, writer), daemon=True, name="ggdjax-interrupts").start()


def ignore_interrupts() -> None:
    """Let what is done end well: while Python shuts down an interrupt would kill the process without a word."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _unraisable(lost: Any) -> None:
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(lost)


def _watch(reader: socket.socket, _writer: socket.socket) -> None:
    while received := reader.recv(1):
        if received[0] == signal.SIGINT:
            time.sleep(_PATIENCE)
            end_interrupted()


def end_interrupted() -> NoReturn:
    """Say what is kept and end the process with status 130, at once.

    An orderly end would wait for threads that are inside compiled code, or tear them down.
    """
    if not _ENDING.acquire(blocking=False):
        time.sleep(60)  # the other thread ends the process
    for action in LAST:
        with suppress(Exception):
            action()
    with suppress(OSError):
        shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # a bar hides the cursor
        print(shown + _LINE[0](), file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(130)


def left() -> str:
    """Return what an interrupt leaves, and how to resume."""
    from ggdjax.cli._runs import KEPT

    kept = [folder for folder in KEPT if folder.is_dir() and any(folder.iterdir())]
    if kept:
        return f"interrupted; what is finished is kept in {kept[0]}: the same command resumes from it"
    return "interrupted; nothing is left half written: give the same command to start anew"
