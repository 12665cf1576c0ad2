"""A table of text, as Markdown and LaTeX.

By hand, because neither pandas nor tabulate writes one table as Markdown with links and as LaTeX without them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BOLD = re.compile(r"\*\*(.+?)\*\*")
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^()]*)\)")
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "×": r"$\times$",
    "−": r"$-$",
    "±": r"$\pm$",
    "µ": r"\textmu{}",
    "–": "--",
} | {character: f"\\{character}" for character in "&%$#_{}"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """``len(row) == len(columns)`` for every row; bold text and links are Markdown's."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1
    """Columns from the left that hold text; the others hold figures and stand right."""

    def to_markdown(self, base: str = "..") -> str:
        """Return the table under a heading of its title; links start in ``base``."""
        rule = ["---"] * self.left + ["---:"] * (len(self.columns) - self.left)
        rows = [_LINK.sub(rf"[\1]({base}/\2)", _line(row)) for row in self.rows]
        lines = [_line(self.columns), "|" + "|".join(rule) + "|", *rows]
        return f"## {self.title}\n\n" + "\n".join(lines) + "\n"

    def to_latex(self) -> str:
        """Return a `longtable` with rules of `booktabs`."""
        form = "l" * self.left + "r" * (len(self.columns) - self.left)
        head = " & ".join(map(escape_latex, self.columns)) + r" \\"
        lines = [
            rf"\begin{{longtable}}{{{form}}}",
            rf"\caption{{{escape_latex(self.title)}}} \\",
            rf"\toprule {head} \midrule \endfirsthead",
            rf"\toprule {head} \midrule \endhead",
            r"\bottomrule \endlastfoot",
        ]
        lines += [" & ".join(map(escape_latex, row)) + r" \\" for row in self.rows]
        return "\n".join([*lines, r"\end{longtable}"]) + "\n"


def escape_latex(text: str) -> str:
    """Return Markdown text (plain, bold, code) for LaTeX."""
    plain = "".join(_SPECIAL.get(character, character) for character in _LINK.sub(r"\1", text).replace("`", ""))
    return _BOLD.sub(r"\\textbf{\1}", plain)


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
