"""`python -m experiments list | run | status | compare | tables`: experiments, their results, and what is made of them.

python -m experiments list                      every experiment, and the tables that it feeds
python -m experiments run schemes-tiny          seconds, and no data needed; `run NAME --help` has every option
python -m experiments run schemes --workers 4   the same command resumes what was stopped: finished cells are skipped
python -m experiments run mine.toml             experiments, networks and images of your own
python -m experiments status schemes            cells finished and to do, and how long it takes
python -m experiments status runs/mine          the same of a results folder; nothing: of all
python -m experiments compare before after      what changed beyond noise between two results folders
python -m experiments tables                    the tables
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments import INTERRUPTED
from ggdjax import GgdjaxError
from ggdjax.cli import _process

_RUN = """Run an experiment; every field of it is an option, and a file of TOML holds several.

The same command resumes a run that was stopped or killed: finished cells are skipped.
"""


def _list(words: Sequence[str]) -> None:
    from experiments.display import make_console, print_experiments

    if words:
        raise GgdjaxError("`list` takes no options")
    print_experiments(make_console())


def _run(words: Sequence[str]) -> None:
    from experiments import launch

    launch.start(*launch.read_words(words, "python -m experiments run", _RUN))


def _status(words: Sequence[str]) -> None:
    from experiments import launch

    launch.status(words, "python -m experiments status", "Say what is finished, what is to do, and how long it takes.")


def _compare(words: Sequence[str]) -> None:
    from experiments.compare import main as compare

    compare(words)


def _tables(words: Sequence[str]) -> None:
    from experiments.tables.command import main as tables

    tables(words)


_COMMANDS = {"list": _list, "run": _run, "status": _status, "compare": _compare, "tables": _tables}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; exit with status 2 and one line on standard error for a user error.

    With ``argv`` None this is the whole process: an interrupt ends it within two seconds, with status 130.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with _process.ending("experiments", lambda: INTERRUPTED, whole=argv is None, at_once=True):
        if not words or words[0] in ("-h", "--help"):
            print(__doc__.strip())
        elif words[0] in _COMMANDS:
            _COMMANDS[words[0]](words[1:])
        else:
            raise GgdjaxError(f"no command is called `{words[0]}`; known: {', '.join(_COMMANDS)}")


if __name__ == "__main__":
    main()
