"""The words of code, messages and pages are those of the field: each of these has a usual one (CONTRIBUTING.md)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("ggdjax", "experiments", "docs", "notebooks", "tests")
#: A word that is not used -> the usual one.
WORDS = {
    r"artefacts?": "bundle, file",
    r"(?<!power )(?<!power-)laws?": "distribution",
    r"judg(e|ed|es|ing)": "evaluate",
    r"whole numbers?": "integer",
    r"goes on with|gone on with": "resume",
    r"rivals?": "baseline, other tool",
    r"front door|one door": "importer, tracer",
    r"the room": "package, module",
    r"(?<!no )pictures?(?!,label)(?!, label)": "plot, figure",
    r"at most so (many|much)": "at most n, up to n",
    r"reckoned": "computed",
    r"in the mean(?! of)": "on average",
    r"from cheap to dear": "from cheapest to most expensive",
    r"can mend": "user error",
    r"for good(?! )": "immutable, never changed",
    r"makes? it learn": "train",
    r"filled_up|whole_file|whole_folder": "padded, atomic_write, atomic_directory",
}


def _pages() -> list[Path]:
    own = Path(__file__).resolve()
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml")]
    for folder in FOLDERS:
        found += [p for end in ("py", "pyi", "md", "html") for p in (ROOT / folder).rglob(f"*.{end}")]
    return [p for p in found if p != own and "results" not in p.parts and "_build" not in p.parts]


@pytest.mark.parametrize(("word", "instead"), WORDS.items(), ids=[w[:20] for w in WORDS])
def test_the_usual_word_is_used(word: str, instead: str) -> None:
    pattern = re.compile(rf"(?<![\w-])({word})(?![\w-])", re.IGNORECASE)
    hits = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in _pages()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not hits, f"write {instead}:\n" + "\n".join(hits)
