"""`python -m experiments NAME [--field value …]`: run an experiment, go on with one, or spread it."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from experiments import display, runner, spread
from experiments.configs import CONFIGS
from experiments.experiment import Experiment
from experiments.plan import plan
from ggdjax import GgdjaxError
from ggdjax.cli import parse_words

_DESCRIPTION = """Run an experiment of experiments/configs; every field of it is an option.

Start with `python -m experiments schemes-tiny`: seconds, and no data needed.
The same command resumes a run that was stopped or killed: finished cells are skipped.
`python -m experiments schemes --networks digits resnet20 --bits 8 4 --schemes ggd kl --plan` says what it would do.
`python -m experiments schemes --workers 4` spreads the cells; `python -m experiments NAME --help` has every option.
`python -m experiments tables` makes the tables.
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where results go, and who computes them."""

    out: Path | None = None
    """Results folder; none: runs/experiments/NAME."""
    plan: bool = False
    """Say what is to do, and how long it takes by what is finished; do nothing."""
    workers: int = 1
    """Processes on this machine, or tasks to submit."""
    shard: str | None = None
    """Only every n-th cell from the i-th on, such as 2/8: one of n runs in the same folder, on any host."""
    submit: Literal["slurm", "local"] | None = None
    """Submit `--workers` tasks by submitit: to SLURM, or to processes of this machine to try it out."""
    slurm: spread.Slurm = dataclasses.field(default_factory=spread.Slurm)


def start(name: str, experiment: Experiment, options: Run) -> None:
    """Check everything, then do what the options say.

    Raises:
        GgdjaxError: a user error.
    """
    shard = _shard(options.shard)
    if options.workers < 1:
        raise GgdjaxError(f"`--workers` must be at least 1, got {options.workers}")
    if shard and (options.workers > 1 or options.submit):
        raise GgdjaxError("`--shard` is one process: leave `--workers` and `--submit` out")
    experiment.check()
    folder = options.out or Path("runs") / "experiments" / name
    console = display.make_console()
    if options.plan:
        display.print_plan(plan(experiment, folder, shard or (1, 1)), folder, options.workers, console)
    elif options.submit:
        jobs = spread.submit(experiment, folder, options.workers, options.submit, options.slurm)
        console.print(f"Submitted {', '.join(job.job_id for job in jobs)}; logs in {folder}/submitit", soft_wrap=True)
        if options.submit == "local":
            spread.wait(jobs)
            display.print_table(experiment, plan(experiment, folder), console)
    elif options.workers > 1:
        spread.run_workers(experiment, folder, options.workers, console)
    else:
        runner.run(experiment, folder, shard, console)


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise GgdjaxError(f"`--shard` is i/n with i from 1 to n, such as 2/8; got `{text}`")
    return int(index), int(count)


def _command(name: str, experiment: Experiment) -> type[Any]:
    """Return the options of one experiment: its fields, with its own values as defaults, and those of the run."""
    fields = (
        ("experiment", tyro.conf.OmitArgPrefixes[type(experiment)], dataclasses.field(default=experiment)),
        ("run", tyro.conf.OmitArgPrefixes[Run], dataclasses.field(default_factory=Run)),
    )
    what = inspect.getdoc(type(experiment)).split("\n\n")[0]
    what += " A few cells, seconds, no data needed." if name.endswith("-tiny") else ""
    return dataclasses.make_dataclass("Command", fields, namespace={"__doc__": what})


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; exit with status 2 and one line on standard error for a user error."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        if arguments[0] == "tables":
            from experiments.tables import main as tables

            tables(arguments[1:])
            return
        command = parse_words(
            {name: _command(name, experiment) for name, experiment in CONFIGS.items()},
            "python -m experiments",
            _DESCRIPTION,
            arguments,
        )
        start(arguments[0], command.experiment, command.run)
    except GgdjaxError as error:
        print(f"experiments: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("experiments: interrupted; what is finished is kept, the same command resumes", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
