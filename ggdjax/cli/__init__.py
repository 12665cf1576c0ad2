"""The command line: `ggdjax quantize …`, `tune`, `evaluate`, `export`, `report`, `inspect` and `train`."""

from __future__ import annotations

import io
import re
import sys
import warnings
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any

from ggdjax._errors import GgdjaxError
from ggdjax.cli import _process
from ggdjax.cli._cache import enable_cache

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION = """Post-training quantization of convolutional networks with the generalized gamma distribution.

Start with `ggdjax quantize`: it quantizes a small digits network that comes with the package.
Then your own: `ggdjax quantize net.onnx --data images/ --preset imagenet --out runs/net`.
`ggdjax tune runs/net --out runs/tuned` tunes it; `ggdjax evaluate runs/tuned --integers` evaluates it in integers.
`ggdjax export runs/tuned --to qdq --out net.onnx` writes it for other tools; `ggdjax inspect runs/tuned` shows it.
`ggdjax report runs/net runs/tuned` compares runs on one page that opens in a browser; of one run it shows all.
`ggdjax train resnet20 --data images/ --out runs/resnet20` trains a network of the zoo from scratch.
Completion of words: `ggdjax --tyro-print-completion bash` (or zsh, tcsh) prints a script to source.
Compiled programs are kept in the cache folder; GGDJAX_CACHE moves it, GGDJAX_CACHE=off keeps nothing.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; exit with status 2 and one line on standard error for every user error.

    Compiled programs are kept on disk. With ``argv`` None this is the whole process: its words are read, and interrupts
    end it within two seconds.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    enable_cache()
    if argv is None:
        warnings.showwarning = lambda message, *_, **__: _process.say("ggdjax", f"warning: {message}")
    with _process.ending("ggdjax", _process.left, whole=argv is None):
        if words == ["--version"]:
            from ggdjax import __version__

            print(f"ggdjax {__version__}")
        else:
            _parse(words).run()


def _parse(words: list[str]) -> Any:
    from ggdjax.cli._evaluate import Evaluate
    from ggdjax.cli._export import Export
    from ggdjax.cli._inspect import Inspect
    from ggdjax.cli._quantize import Quantize
    from ggdjax.cli._report import Report
    from ggdjax.cli._train import Train
    from ggdjax.cli._tune import Tune

    commands = (Quantize, Tune, Evaluate, Export, Report, Inspect, Train)
    command = parse_words({command.__name__.lower(): command for command in commands}, "ggdjax", _DESCRIPTION, words)
    given = {word.partition("=")[0].replace("_", "-") for word in words}
    for name, value in vars(command).items():
        option = f"--{name.replace('_', '-')}"
        if value == () and option in given:  # tyro takes a list without values
            raise GgdjaxError(f"`{option}` is empty: give at least one value")
    return command


def parse_words(commands: dict[str, Any], program: str, description: str, words: list[str]) -> Any:
    """Return the command that the words are.

    Raises:
        GgdjaxError: the words are no command; tyro's box about them in one line.
    """
    import tyro

    box = io.StringIO()
    try:
        with redirect_stderr(box):
            return tyro.extras.subcommand_cli_from_dict(commands, prog=program, description=description, args=words)
    except SystemExit as stop:
        if not stop.code:
            sys.stdout.flush()
            raise
        # Borders are drawn in Unicode or left out, and rules in either, by the encoding of the output.
        lines = (line.strip("│ ") for line in box.getvalue().splitlines() if line[:1] not in "╭╰")
        parts = [part.strip(" .") for part in re.split("[─-]{8,}", " ".join(lines))]
        line = "; ".join(part for part in parts if part)
        # Of a value of another type: what is wanted, without the errors of every type that was tried.
        line = re.sub(
            r"^(?:[^;]*; )?Error parsing (\S+): no type matching (?:{None}\|)?(.+?) could be instantiated "
            r"from \[(.*?)\]\.\s+Got errors: .*?; Argument helptext: \S+ \S+ ",
            r"`\1` takes \2, got \3: ",
            line,
        )
        # Of the options that tyro thinks of, the names: each comes with all of its help.
        line, _, meant = line.partition("; Perhaps you meant: ")
        if names := re.findall(r"(?:^|--help )(--[\w-]+)", meant):
            line = f"{line}; perhaps {' or '.join(dict.fromkeys(names))}"
        if words and words[0] in commands:
            line = line.replace(f"{program} --help", f"{program} {words[0]} --help")
            line = line if "--help" in line else f"{line}; see {program} {words[0]} --help"
        raise GgdjaxError(line) from None
