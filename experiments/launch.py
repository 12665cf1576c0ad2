"""What `run` and `status` do with an experiment, as their options say."""

from __future__ import annotations

import dataclasses
import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from experiments import devices, display, dry_run, files, runner, spread
from experiments.configs import CONFIGS
from experiments.experiment import Experiment
from experiments.networks import ALL
from experiments.plan import plan
from experiments.store import read_rows
from ggdjax import GgdjaxError, zoo
from ggdjax._errors import near_matches
from ggdjax.cli import parse_words

#: Where results go without `--out`.
RUNS = Path("runs") / "experiments"


@dataclass(frozen=True, kw_only=True)
class Own:
    """Networks and images of the user's."""

    onnx: tuple[Path, ...] = ()
    """ONNX files, called by their names."""
    data: str | None = None
    """Images of `--onnx` and of all `--networks` that are of the zoo or module:function: a folder of class folders or
    with labels.csv, an .npz, a tar archive, or tfds:NAME."""
    preset: str | None = None
    """How images become inputs: cifar10, mnist, imagenet, imagenet-caffe, imagenet-tf; single fields go into a file."""
    weights: Path | None = None
    """Weights of the networks of the zoo: a file, or a folder with a file of each network's name, such as
    resnet50.safetensors."""

    def add_to(self, experiment: Experiment, usual: tuple[str, ...], *, dry_run: bool = False) -> Experiment:
        """Return the experiment with these networks; with `--onnx` in place of the ``usual`` ones.

        Raises:
            GgdjaxError: images without a network, or a network without images.
        """
        given = [f"`--{f.name}`" for f in dataclasses.fields(self) if getattr(self, f.name)]
        if not experiment.TAKES_OWN:
            if given:
                raise GgdjaxError(f"{' and '.join(given)}: this experiment opens its networks itself")
            return experiment
        known = {*ALL, *(one.name for one in experiment.own)}
        asked = experiment.networks if experiment.networks != usual or not self.onnx else ()
        named = [name for name in asked if name not in known and (":" in name or name in zoo.names())]
        if twice := [name for name, count in Counter(path.stem for path in self.onnx).items() if count > 1]:
            raise GgdjaxError(
                f"`--onnx` has two files of the name {twice[0]}, by which results call them: rename one, or name both "
                "networks in a TOML file"
            )
        models = {path.stem: str(path) for path in self.onnx} | {name: name for name in named}
        if not models:
            if given and known.issuperset(asked):
                raise GgdjaxError(f"{' and '.join(given)} go with `--onnx` or a network of the zoo in `--networks`")
            return experiment
        if experiment.NEEDS_IMAGES and not dry_run and not (self.data and self.preset):
            raise GgdjaxError(
                "`--data` and `--preset` are needed: the images of the networks, and how they become inputs"
            )
        images = {key: getattr(self, key) for key in ("data", "preset") if getattr(self, key)}
        own = []
        for name, model in models.items():
            fields = {"model": model, **images}
            if self.weights and name == model and ":" not in name:  # of the zoo
                fields["weights"] = self._weights_of(name)
            own.append(files.own_network(name, fields, f"network `{name}`", Path()))
        networks = tuple(dict.fromkeys((*asked, *models))) if named else tuple(models)
        return dataclasses.replace(experiment, networks=networks, own=(*experiment.own, *own))

    def _weights_of(self, name: str) -> str:
        if not self.weights.is_dir():
            return str(self.weights)
        found = sorted(self.weights.glob(f"{name}.*"))
        if len(found) != 1:
            said = "several files" if found else "no file"
            raise GgdjaxError(
                f"`--weights`: {self.weights} has {said} of the name {name}: give one, as {name}.safetensors"
            )
        return str(found[0])


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where results go, and who computes them."""

    out: Path | None = None
    """Results folder; none: runs/experiments/NAME."""
    workers: int = 1
    """Processes on this machine, or tasks to submit."""
    shard: str | None = None
    """Only every n-th cell from the i-th on, such as 2/8: one of n runs in the same folder, on any host."""
    device: str | None = None
    """Where JAX computes: cpu, gpu, tpu, or the index of a device; none: on what JAX finds. A search spreads over all
    devices that the process sees."""
    dry_run: bool = False
    """Print cells, cost and memory; do nothing."""
    submit: Literal["slurm", "local"] | None = None
    """Submit `--workers` tasks by submitit: to SLURM, or to processes of this machine to try it out."""
    slurm: spread.Slurm = dataclasses.field(default_factory=spread.Slurm)


def read_words(words: Sequence[str], program: str, what: str) -> tuple[list[Experiment], Path, Run]:
    """Return the experiments that the words name, checked, with the results folder and how they run.

    Raises:
        GgdjaxError: a user error.
    """
    if not words:
        raise GgdjaxError("name an experiment or a TOML file; `python -m experiments list` says which there are")
    name = words[0]
    if not (name.startswith("-") or name.endswith(".toml") or name in CONFIGS):
        raise GgdjaxError(f"no experiment is called `{name}`: {near_matches(name, CONFIGS)}")
    if name.endswith(".toml"):
        found, out = files.read(Path(name))
        run = parse_words({name: _options(what, run=Run())}, program, what, list(words)).run
        folder = run.out or out or RUNS / Path(name).stem
        experiments = list(found.values())
    else:
        commands = {known: _command(known, experiment) for known, experiment in CONFIGS.items()}
        command = parse_words(commands, program, what, list(words))
        run, folder = command.run, command.run.out or RUNS / name
        experiments = [command.own.add_to(command.experiment, CONFIGS[name].networks, dry_run=run.dry_run)]
    if run.workers < 1:
        raise GgdjaxError(f"`--workers` must be at least 1, got {run.workers}")
    if _shard(run.shard) and (run.workers > 1 or run.submit):
        raise GgdjaxError("`--shard` is one process: leave `--workers` and `--submit` out")
    if run.device is not None and run.device.isdecimal() and (run.workers > 1 or run.submit):
        raise GgdjaxError("`--device` is one device, `--workers` are several: name a platform, or one process")
    for experiment in experiments:
        if not run.dry_run:
            experiment.check()
    return experiments, folder, run


def start(experiments: Sequence[Experiment], folder: Path, options: Run) -> None:
    """Run what is not finished of each experiment.

    Raises:
        GgdjaxError: a user error.
    """
    console, shard = display.make_console(), _shard(options.shard)
    if options.dry_run:
        for experiment in experiments:
            dry_run.print_cost(experiment, folder, shard or (1, 1), console)
        return
    if options.workers == 1 and not options.submit:
        devices.choose(options.device)
    for experiment in experiments:
        if options.submit:
            jobs = spread.submit(experiment, folder, options.workers, options.submit, options.slurm, options.device)
            ids = ", ".join(job.job_id for job in jobs)
            console.print(f"Submitted {ids}; logs in {folder}/submitit", soft_wrap=True)
            if options.submit == "local":
                spread.wait(jobs)
                display.print_table(experiment, plan(experiment, folder), console)
        elif options.workers > 1:
            spread.run_workers(experiment, folder, options.workers, console, options.device)
        else:
            runner.run(experiment, folder, shard, console)


def status(words: Sequence[str], program: str, what: str) -> None:
    """Print what is finished, what is to do and how long it takes: of an experiment, a folder, or all folders.

    Raises:
        GgdjaxError: a user error.
    """
    console = display.make_console()
    if words and (words[0] in CONFIGS or words[0].startswith("-") or words[0].endswith(".toml")):
        experiments, folder, run = read_words(words, program, what)
        for experiment in experiments:
            display.print_plan(plan(experiment, folder, _shard(run.shard) or (1, 1)), folder, run.workers, console)
        return
    folders = [Path(word) for word in words] or sorted(path for path in RUNS.glob("*") if path.is_dir())
    for folder in folders:
        if not folder.is_dir():
            raise GgdjaxError(f"no experiment and no folder is called {folder}: {near_matches(folder, CONFIGS)}")
        try:
            print_folder(folder, console)
        except GgdjaxError as error:
            if words:
                raise
            console.print(str(error), soft_wrap=True, highlight=False, markup=False)  # the others are told of, too
    if not folders:
        console.print(f"nothing in {RUNS} yet: python -m experiments list")


def print_folder(folder: Path, console: Any) -> None:
    """Print what is finished and to do of each experiment of a results folder."""
    kept = files.kept(folder)
    for experiment in kept.values():
        display.print_plan(plan(experiment, folder), folder, 1, console)
    others = [row["experiment"] for row in read_rows(folder) if row["experiment"] not in kept]
    for name in dict.fromkeys(others):
        console.print(f"{folder}: {name}: {others.count(name)} finished cells", soft_wrap=True, highlight=False)
    if not kept and not others:
        console.print(f"{folder}: no results", soft_wrap=True, highlight=False)


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise GgdjaxError(f"`--shard` is i/n with i from 1 to n, such as 2/8; got `{text}`")
    return int(index), int(count)


def _command(name: str, experiment: Experiment) -> type[Any]:
    """Return the options of one experiment: its fields, with its own values as defaults, and those of the run."""
    what = first_line(experiment) + (" A few cells, seconds, no data needed." if name.endswith("-tiny") else "")
    return _options(what, experiment=experiment, own=Own(), run=Run())


def _options(what: str, **parts: Any) -> type[Any]:
    fields = [(key, tyro.conf.OmitArgPrefixes[type(v)], dataclasses.field(default=v)) for key, v in parts.items()]
    return dataclasses.make_dataclass("Command", fields, namespace={"__doc__": what})


def first_line(experiment: Experiment) -> str:
    """Return what an experiment measures, in a line."""
    return " ".join(inspect.getdoc(type(experiment)).split("\n\n")[0].split())
