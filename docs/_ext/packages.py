"""The directive `package`: one package of ggdjax, every name of its `__all__`. No name is listed by hand.

A name that lies in `__all__` and is not documented, because no page has its package, is a warning.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from typing import TYPE_CHECKING, Any

from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

ROOT = "ggdjax"
logger = logging.getLogger(__name__)


class Package(SphinxDirective):
    """``.. package:: ggdjax.steps`` documents a package and its names; ``.. package:: ggdjax`` points to them."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the entries of all names, in the order of ``__all__``."""
        package = self.arguments[0]
        public = importlib.import_module(package).__all__
        lines = [f".. automodule:: {package}", "   :no-members:", ""]
        for name in public:
            value = getattr(importlib.import_module(package), name)
            lines += _pointer(name, value) if package == ROOT else _entry(package, name, value)
        return self.parse_text_to_nodes("\n".join(lines))


def _pointer(name: str, value: Any) -> list[str]:
    """Return a line that leads from a name of the package itself to the package that documents it."""
    summary = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
    if inspect.ismodule(value):
        return [f"* :py:mod:`{ROOT}.{name}`: {summary}"]
    home = ".".join(value.__module__.split(".")[:2])
    if home.removeprefix(f"{ROOT}.").startswith("_"):  # of no package: documented here
        return ["", *_entry(ROOT, name, value)]
    return [f"* :py:obj:`{ROOT}.{name} <{home}.{name}>`: {summary}"]


def _entry(package: str, name: str, value: Any) -> list[str]:
    if inspect.ismodule(value):
        return [f".. automodule:: {value.__name__}", ""]
    if inspect.isclass(value):
        return [f".. autoclass:: {package}.{name}", "   :members:", "   :undoc-members:", ""]
    if inspect.isroutine(value):
        return [f".. autofunction:: {package}.{name}", ""]
    return [f".. py:data:: {name}", f"   :module: {package}", "", f"   {_comment(package, name)}", ""]


def _comment(package: str, name: str) -> str:
    """Return the `#:` comment of a constant, where its module has it."""
    for module in [m for m in sys.modules if m.startswith(f"{package}.") or m == package]:
        comments = ModuleAnalyzer.for_module(module).find_attr_docs()
        if ("", name) in comments:
            return " ".join(comments["", name])
    logger.warning("the constant %s.%s has no comment `#:` where it is defined", package, name)
    return ""


def _complain(_: Sphinx, env: BuildEnvironment) -> None:
    """Warn of every public name that no page documents."""
    domain = env.domains.python_domain
    known = {*domain.objects, *domain.modules}
    package = importlib.import_module(ROOT)
    for module in filter(inspect.ismodule, (getattr(package, name) for name in package.__all__)):
        for name in module.__all__:
            value = getattr(module, name)
            full = value.__name__ if inspect.ismodule(value) else f"{module.__name__}.{name}"
            if full not in known:
                logger.warning("the public name %s is in no page of the reference", full)


def _no_type(_: Sphinx, what: str, __: str, ___: object, ____: object, lines: list[str]) -> None:
    """Keep napoleon from taking what stands before the first colon of a field's docstring for its type."""
    if what in {"attribute", "data", "property"}:
        lines[:0] = ["..", ""]  # an empty comment: napoleon skips blank lines


def _alias(_: Sphinx, __: str, ___: str, ____: Any, _____: Any, *signature: str | None) -> tuple[str | None, ...]:
    """Write an alias inside a union by its name; autodoc leaves the name of its own class around it."""
    return tuple(part and re.sub(r"TypeAliasForwardRef\('([\w.]+)'\)", r"\1", part) for part in signature)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive and the check."""
    app.add_directive("package", Package)
    app.connect("autodoc-process-docstring", _no_type, priority=400)  # before napoleon's own, at 500
    app.connect("autodoc-process-signature", _alias)
    app.connect("env-check-consistency", _complain)
    return {"parallel_read_safe": True}
