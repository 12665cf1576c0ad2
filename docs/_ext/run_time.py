"""Under the title of every page with code: how long it ran when these pages were built, and on how many cores."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def _tell(app: Sphinx, doctree: nodes.document) -> None:
    """Insert the line; what ran, and for how long, is kept by myst-nb."""
    ran = app.env.nb_metadata[app.env.docname].get("exec_data")
    if not ran or ran["runtime"] is None:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"The code on this page ran for {ran['runtime']:.0f} seconds when “make docs” built it, on {cores} cores."
    next(doctree.findall(nodes.title)).parent.insert(1, nodes.paragraph("", "", nodes.emphasis("", text)))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the line."""
    app.connect("doctree-read", _tell)
    return {"parallel_read_safe": True}
