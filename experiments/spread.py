"""Spread the cells of an experiment over processes of this machine, or over the tasks of a SLURM array.

Every process takes every n-th cell, has its own results file and its own mesh, that of the devices it sees.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from typing import TYPE_CHECKING, Any, Literal

import rich
from rich.console import Console

from experiments import devices, display, files, runner, store
from experiments.experiment import Experiment
from experiments.plan import plan, seconds_left
from ggdjax import GgdjaxError
from ggdjax.cli import _process

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """What each task of a SLURM array asks for (`--submit slurm`)."""

    partition: str | None = None
    """Partition; none: the cluster's default."""
    minutes: int = 240
    """Time limit; a task that reaches it is queued again and resumes."""
    cpus: int = 4
    """Processors."""
    gpus: int = 0
    """Accelerators."""
    memory_gb: int = 16
    """Memory."""


#: How often the cells of one process that died are taken by a new one.
_RESTARTS = 3
#: Exit status of a process that says why it failed: another would fail, too.
_FAILED = 2
_PR_SET_PDEATHSIG = 1


def run_workers(
    experiment: Experiment, folder: Path, workers: int, console: Console, device: str | None = None
) -> None:
    """Run the cells in this many processes, which end with this one, and print the table of the cells.

    GPUs are dealt to the processes: those that CUDA_VISIBLE_DEVICES names, or all. A process that dies, as by a lack of
    memory, is told of, and a new one takes its cells, a few times.

    Raises:
        GgdjaxError: more processes than devices, another run holds the folder, or a process failed.
    """
    visible = [] if device == "cpu" else _devices()
    if visible and workers > len(visible):
        raise GgdjaxError(f"`--workers` is {workers}, but there are {len(visible)} devices: ask for fewer")
    context = multiprocessing.get_context("spawn")
    with store.exclusive_folder(folder):
        files.keep(folder, experiment)
        planned = plan(experiment, folder)
        display.print_plan(planned, folder, workers, console)
        todo = planned.todo
        left = dict.fromkeys(range(workers if todo else 0), _RESTARTS)

        def started(index: int) -> Any:
            # A queue would have semaphores, of which Python complains when an interrupt ends this process at once.
            messages[index], writer = context.Pipe(duplex=False)
            share = (experiment, folder, (index + 1, workers), ",".join(visible[index::workers]), device, writer)
            process = context.Process(target=_work, args=share, daemon=True)
            # The parent is interrupted, and ends the others, which inherit the mask.
            resource_tracker.ensure_running()  # it changes the mask when it starts
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            process.start()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            writer.close()
            return process

        messages: dict[int, Any] = {}
        processes: dict[int, Any] = {}
        # While they import their packages nothing else ends them.
        _process.LAST[:] = [lambda: [process.kill() for process in processes.values()]]
        for index in left:
            processes[index] = started(index)
        with display.progress_bar(console, len(todo)) as update:
            pending = set(processes)
            while pending:
                connection.wait([processes[index].sentinel for index in pending], timeout=1.0)
                now = plan(experiment, folder)
                update(len(todo) - len(now.todo), seconds_left(now.todo, list(now.rows.values()))[0] / workers)
                for index in sorted(pending):
                    if (status := processes[index].exitcode) in (0, _FAILED) or (status and not left[index]):
                        pending.discard(index)
                    elif status is not None:
                        left[index] -= 1
                        console.print(f"process {index + 1} of {workers} ended with status {status}: started again")
                        processes[index] = started(index)
        for index, process in processes.items():
            if status := process.exitcode:
                why = messages[index].recv() if status == _FAILED else f"ended with status {status}"
                raise GgdjaxError(f"process {index + 1} of {workers}: {why}; what is finished is kept")
    display.print_table(experiment, plan(experiment, folder), console)


def _devices() -> list[str]:
    """Return the GPUs that processes may use; none without NVIDIA's driver."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None and (tool := shutil.which("nvidia-smi")):
        query = [tool, "--query-gpu=index", "--format=csv,noheader"]
        found = subprocess.run(query, check=False, capture_output=True, text=True)
        named = ",".join(found.stdout.split()) if found.returncode == 0 else ""
    return [name for name in (named or "").split(",") if name]


def _work(
    experiment: Experiment, folder: Path, shard: tuple[int, int], visible: str, device: str | None, messages: Any
) -> None:
    """Run one shard inside a process of its own, under the parent's lock, and end with the parent."""
    _end_with_parent()
    rich.get_console().quiet = True  # the parent shows the bar
    if visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    try:
        devices.choose(device)
        for _ in runner.finish(experiment, folder, shard):
            pass
    except GgdjaxError as error:
        messages.send(str(error))
        raise SystemExit(_FAILED) from None


def _end_with_parent() -> None:
    if sys.platform == "linux":  # by the kernel: compiled code can keep the thread below from running for long
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class _Task:
    """One task of an array; one that ran out of time or was preempted is queued again."""

    def __call__(self, experiment: Experiment, folder: Path, shard: tuple[int, int], device: str | None) -> None:
        devices.choose(device)
        runner.run(experiment, folder, shard, Console(width=160))

    def checkpoint(self, *args: Any) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self, *args)


def submit(
    experiment: Experiment,
    folder: Path,
    tasks: int,
    cluster: Literal["slurm", "local", "debug"],
    options: Slurm,
    device: str | None = None,
) -> list[Any]:
    """Submit one shard per task by submitit and return its jobs.

    Raises:
        GgdjaxError: submitit is not installed, or there is no such cluster here.
    """
    try:
        import submitit
    except ImportError:
        raise GgdjaxError("`--submit` needs submitit: pip install -c constraints.txt -e '.[slurm]'") from None
    with store.shared_folder(folder):
        pass  # a whole run in this folder is told of before anything is submitted
    try:
        executor = submitit.AutoExecutor(folder=folder.resolve() / "submitit", cluster=cluster)
    except RuntimeError as error:
        raise GgdjaxError(f"`--submit {cluster}` is not possible here: {error}") from None
    executor.update_parameters(
        name=experiment.NAME,
        timeout_min=options.minutes,
        cpus_per_task=options.cpus,
        gpus_per_node=options.gpus,
        mem_gb=options.memory_gb,
        **({"slurm_partition": options.partition} if options.partition else {}),
    )
    shards = [(index + 1, tasks) for index in range(tasks)]
    return executor.map_array(_Task(), [experiment] * tasks, [folder.resolve()] * tasks, shards, [device] * tasks)


def wait(jobs: list[Any]) -> None:
    """Wait for submitted jobs.

    Raises:
        GgdjaxError: one of them failed; names its log.
    """
    for job in jobs:
        if job.exception() is not None:
            raise GgdjaxError(f"task {job.job_id} failed; its log: {job.paths.stderr}")
