"""Benchmarks and experiments, by the public names of ggdjax (the naive search also asks it for its candidates)."""

import os
import signal
import sys

INTERRUPTED = "interrupted; what is finished is kept, the same command resumes"


def _end(*_: object) -> None:
    os.write(2, f"experiments: {INTERRUPTED}\n".encode())
    os._exit(130)


if sys.argv[:1] == ["-m"]:
    # Python imports this package before what it runs (`python -m experiments`): until that watches interrupts itself,
    # its imports would end with a traceback.
    signal.signal(signal.SIGINT, _end)
