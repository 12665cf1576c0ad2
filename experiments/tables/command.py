"""`python -m experiments tables`: the tables and their plots from the results.

    python -m experiments tables                        all, into experiments/results/tables
    python -m experiments tables T2 T3 --pdf            some; plots as PDF too
    python -m experiments tables --paper printed.csv    the paper's own figures beside ours; none are shipped
    python -m experiments tables --check                exit 1 if what is there is not what the results give
    python -m experiments tables T2 --missing           measure the cells of T2 that say `not run`, then make it

Each table is a Markdown page, whose figures link to their rows of the results, a LaTeX file (packages `booktabs` and
`longtable`), a CSV file with one figure per line, and a plot. Figures come from `experiments/results`, or with
`--results` from any folder that runs were written to; a cell without one says `not run`. The CSV of `--paper` has the
columns table, network, scheme, bits, metric, value, named as in the CSV files of the tables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import tyro

from experiments.display import make_console
from experiments.tables import plots
from experiments.tables.commands import commands_of, run_missing
from experiments.tables.content import Content
from experiments.tables.entries import Entry, to_csv
from experiments.tables.paper import Paper, read_paper, with_paper
from experiments.tables.results import FOLDER, Results
from ggdjax import GgdjaxError
from ggdjax._atomic import atomic_write
from ggdjax.cli import parse_words

MODULES = tuple(
    import_module(f"experiments.tables.{name}")
    for name in (
        "t1_weights",
        "t2_feature_maps",
        "t3_accuracy",
        "t4_tuning",
        "t5_families",
        "t6_cost",
        "t7_overhead",
        "t8_architectures",
        "t9_few_images",
        "t10_integers",
        "t11_accelerators",
    )
)
CONTENTS: dict[str, Content] = {module.CONTENT.name: module.CONTENT for module in MODULES}
COMMAND = "python -m experiments tables"


def pages(content: Content, entries: Sequence[Entry], commands: Sequence[str] = (), base: str = "..") -> dict[str, str]:
    """Return file name -> text of one table: Markdown, LaTeX, CSV.

    Args:
        content: the table.
        entries: its figures.
        commands: that measure them.
        base: the folder of the results, from that of the page.
    """
    title, made = f"{content.name}. {content.title}", content.tables(entries)
    metrics = "\n".join(f"- `{metric}`: {text}" for metric, text in content.metrics.items())
    markdown = [
        f"# {title}\n\n{content.about}\n\n![{content.caption}]({content.name}.svg)\n\n{content.caption}\n",
        *(table.to_markdown(base) for table in made),
        f"## Files\n\nMade by `{COMMAND}` from {', '.join(f'`{name}`' for name in content.sources)}. The same figures: "
        f"[CSV]({content.name}.csv), [LaTeX]({content.name}.tex). Metrics in the CSV file:\n\n{metrics}\n\n"
        "A figure links to its row of the results, a figure of several rows to the first of them.\n",
        "## Commands\n\n```\n" + "\n".join(commands) + "\n```\n",
    ]
    latex = [f"% {title}: {COMMAND}\n% needs booktabs and longtable\n", *(table.to_latex() for table in made)]
    return {
        f"{content.name}.md": "\n".join(markdown),
        f"{content.name}.tex": "\n".join(latex),
        f"{content.name}.csv": to_csv(entries),
    }


def index(results: Results) -> str:
    """Return the page that names all tables and where their figures were measured."""
    sources = results.sources()
    used = {source.name: [c.name for c in CONTENTS.values() if source.feeds in c.sources] for source in sources}
    lines = [
        "# Tables",
        "",
        f"`{COMMAND}` makes all of this from the results files, in a minute; `--check` says whether it is up to date.",
        "",
        "| table | | files |",
        "|---|---|---|",
    ]
    for name, content in CONTENTS.items():
        files = ", ".join(f"[{kind}]({name}.{suffix})" for kind, suffix in (("LaTeX", "tex"), ("CSV", "csv")))
        lines.append(f"| [{name}]({name}.md) | {content.title} | {files}, plot: [SVG]({name}.svg), [PNG]({name}.png) |")
    lines += [
        "",
        "Where the figures come from:",
        "",
        "| results | tables | made by | device | day |",
        "|---|---|---|---|---|",
    ]
    for source in sources:
        if used[source.name]:
            cells = f"`{source.command}` | {source.device} | {source.day}"
            lines.append(f"| [`{source.name}`](../{source.name}) | {', '.join(used[source.name])} | {cells} |")
    missing = [name for content in CONTENTS.values() for name in content.sources if not results.holds(name)]
    if missing:
        lines += ["", f"Not there: {', '.join(f'`{name}`' for name in dict.fromkeys(missing))}."]
    return "\n".join(lines) + "\n"


def stale(folder: Path, *versions: dict[str, str]) -> list[str]:
    """Return one line per file that is none of some versions. The day of a commit changes nothing."""
    found = []
    for name in versions[0]:
        path = folder / name
        if not path.is_file():
            found.append(f"{path} is missing: run {COMMAND}")
        elif _without_days(path.read_text(encoding="utf-8")) not in [_without_days(texts[name]) for texts in versions]:
            found.append(f"{path} is not what the results give: run {COMMAND}")
    return found


def _without_days(text: str) -> str:
    return re.sub(r"committed \d{4}-\d{2}-\d{2}|not recorded", "", text)


@dataclass(frozen=True, kw_only=True)
class Tables:  # noqa: D101
    __doc__ = __doc__

    tables: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[TABLE ...]")] = ()
    """Only these, T1 to T11; none: all."""
    paper: Path | None = None
    """CSV of figures that the paper prints."""
    results: Path = FOLDER
    """Folder of the results."""
    out: Path | None = None
    """Where the tables go; none: tables in that folder."""
    pdf: bool = False
    """Plots as PDF too."""
    missing: bool = False
    """First measure the cells that no row has."""
    dry_run: bool = False
    """With `--missing`: say what would be measured, and stop."""
    check: bool = False
    """Write nothing; exit 1 if a text differs (plots apart)."""


def main(argv: Sequence[str]) -> None:
    """Read the command line; write the tables, or check them.

    Raises:
        GgdjaxError: a mistake of the user.
        SystemExit: 1 where `--check` finds a difference.
    """
    args = parse_words({"tables": Tables}, "python -m experiments", __doc__, ["tables", *argv])
    if (args.dry_run and not args.missing) or (args.missing and args.check):
        raise GgdjaxError("`--dry-run` goes with `--missing`, and `--check` with neither")
    if unknown := [name for name in args.tables if name not in CONTENTS]:
        raise GgdjaxError(f"no table is called `{unknown[0]}`; known: {', '.join(CONTENTS)}")
    results, out = Results(args.results), args.out or args.results / "tables"
    base = os.path.relpath(args.results, out)
    if not args.results.is_dir():
        raise GgdjaxError(f"`--results`: no folder {args.results}")
    metrics = {name: content.metrics for name, content in CONTENTS.items()}
    paper: dict[str, Paper] = read_paper(args.paper, metrics) if args.paper else {}
    chosen = {name: CONTENTS[name] for name in args.tables or CONTENTS}

    if args.missing:
        run_missing(list(chosen.values()), results, make_console(), dry_run=args.dry_run)
        if args.dry_run:
            return
        results = Results(args.results)

    def made(results: Results) -> tuple[dict[str, list[Entry]], dict[str, str]]:
        entries = {n: with_paper(content.entries(results), paper.get(n, {})) for n, content in chosen.items()}
        texts = {} if args.tables else {"README.md": index(results)}
        for name, content in chosen.items():
            texts |= pages(content, entries[name], commands_of(content, results), base)
        return entries, texts

    entries, texts = made(results)
    if args.check:
        # A network that someone adds beside the project's makes no table of the project's wrong.
        lines = stale(out, texts) and stale(out, texts, made(Results(args.results, known=True))[1])
        print("\n".join(lines) or f"{len(texts)} files in {out} are what the results give")
        raise SystemExit(1 if lines else 0)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with atomic_write(out / name, "--out") as part:
            part.write_text(text, encoding="utf-8")
    import matplotlib as mpl

    for name, content in chosen.items():
        with mpl.rc_context(plots.STYLE):
            plots.save(content.draw(entries[name]), out / name, pdf=args.pdf)
        print(f"{out / name}.md: {content.title}", flush=True)
