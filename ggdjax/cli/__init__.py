"""The command line: `ggdjax quantize …`, `ggdjax report …`, `ggdjax train …`."""

from __future__ import annotations

import io
import re
import sys
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any

from ggdjax._errors import GgdjaxError
from ggdjax.cli._cache import enable_cache

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION = """Post-training quantization of convolutional networks with the generalized gamma distribution.

Start with `ggdjax quantize`: it quantizes a small digits network that comes with the package.
Then your own: `ggdjax quantize net.onnx --data images/ --preset imagenet --out runs/net`.
`ggdjax report runs/net` makes one page of it that opens in a browser.
`ggdjax train resnet20 --data images/ --out runs/resnet20` makes a network of the zoo learn from scratch.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; exit with status 2 and one line on standard error for whatever a user can mend."""
    enable_cache()
    try:
        _parse(sys.argv[1:] if argv is None else list(argv)).run()
    except GgdjaxError as error:
        print(f"ggdjax: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("ggdjax: interrupted; nothing is left half written", file=sys.stderr)
        raise SystemExit(130) from None


def _parse(words: list[str]) -> Any:
    from ggdjax.cli.quantize import Quantize
    from ggdjax.cli.report import Report
    from ggdjax.cli.train import Train

    return parse_words({"quantize": Quantize, "report": Report, "train": Train}, "ggdjax", _DESCRIPTION, words)


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
            raise
        # Borders are drawn in Unicode or left out, and rules in either, by the encoding of the output.
        lines = (line.strip("│ ") for line in box.getvalue().splitlines() if line[:1] not in "╭╰")
        parts = (part.strip(" .") for part in re.split("[─-]{8,}", " ".join(lines)))
        raise GgdjaxError("; ".join(part for part in parts if part)) from None
