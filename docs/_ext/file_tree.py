"""The directive `tree`: every Python file of a folder with the first line of its docstring."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]


class Tree(SphinxDirective):
    """``.. tree:: ggdjax/steps`` lists the files of that folder; with ``:deep:`` those of the folders below too."""

    required_arguments = 1
    option_spec = {"deep": lambda _: True}  # noqa: RUF012 - the form that docutils asks for

    def run(self) -> list[nodes.Node]:
        """Return one definition list per folder."""
        top = ROOT / self.arguments[0]
        lines = []
        for folder in [top, *sorted(p for p in top.rglob("*") if p.is_dir())] if "deep" in self.options else [top]:
            files = sorted(folder.glob("*.py"))
            if not files:
                continue
            lines += [f".. rubric:: ``{folder.relative_to(ROOT)}/``", ""]
            for path in files:
                self.env.note_dependency(str(path))
                text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
                lines += [f"``{path.name}``", f"   {text.split(chr(10))[0]}"]
            lines.append("")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("tree", Tree)
    return {"parallel_read_safe": True}
