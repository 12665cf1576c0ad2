"""What commands share: networks and images opened, run folders written and read."""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggdjax._errors import GgdjaxError
from ggdjax.cli._options import naming_options
from ggdjax.cli._suspicions import print_suspicions

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.console import Console

    from ggdjax.data import ImageSet
    from ggdjax.network import Network
    from ggdjax.quantization import QuantizedNetwork
    from ggdjax.recipe import Outcome, Recipe


def opened(
    path: Path | str | None,
    net: Network | QuantizedNetwork,
    recipe: Recipe,
    screen: Console,
    targets: Path | str | None = None,
) -> ImageSet:
    """Return images for a network as the recipe preprocesses them; None: those of the embedded network."""
    from ggdjax import data
    from ggdjax import recipe as pipeline
    from ggdjax.cli._console import progress_bar
    from ggdjax.data._tfds import PREFIX

    if path is None:
        return data.digits()
    if str(path).startswith(PREFIX):
        # While it is imported it replaces `__import__`, which would raise in the thread that draws the bar.
        import_module("tensorflow_datasets.core.read_only_builder")
    with naming_options(("targets",)), progress_bar(screen, f"Opening {Path(path).name}", 1) as advance:
        images = pipeline.open_images(path, net, recipe, targets=targets)
        advance(1)
    return images


@contextmanager
def run_folder(out: Path | None) -> Generator[tuple[Path | None, Path | None]]:
    """Yield the folder that becomes ``out`` and the one that keeps finished stages; both None without ``out``.

    The second lies beside ``out``, and goes when the block ends well: a command that was stopped resumes from it.
    """
    from ggdjax.report._run_folder import new_run_folder

    if out is None:
        yield None, None
        return
    unfinished = Path(f"{out.resolve()}.unfinished")
    KEPT[:] = [unfinished]
    try:
        with new_run_folder(out) as folder:
            yield folder, unfinished
    except OSError as error:
        raise GgdjaxError(f"`--out` {out} cannot be written ({error}): choose another place") from None
    except GgdjaxError as error:
        if str(unfinished) in str(error) or "partial/new" in str(error):
            raise GgdjaxError(f"`--out` {out}: {error}") from None
        raise
    finally:
        with suppress(OSError):
            unfinished.rmdir()  # only where no stage was finished
    shutil.rmtree(unfinished, ignore_errors=True)


#: Folders that keep the finished stages of the command that runs: an interrupt says so.
KEPT: list[Path] = []


def finish(
    outcome: Outcome,
    images: ImageSet,
    screen: Console,
    out: Path | None,
    folder: Path | None,
    *,
    model: str,
    data: Path | str | None,
    targets: Path | str | None = None,
    beside: Outcome | None = None,
) -> None:
    """Print what a run did and write its folder."""
    from ggdjax import report

    screen.print(report.layer_table(outcome.network, outcome.evaluation, width=screen.width))
    screen.print()
    if outcome.sensitivity is not None:
        screen.print(report.sensitivity_table(outcome.sensitivity, width=screen.width))
        screen.print()
    if beside is not None:
        screen.print("steps per tensor", report.accuracy_lines(beside.evaluation), "steps per channel", sep="\n")
    if outcome.untuned_evaluation is not None:
        screen.print("untuned", report.accuracy_lines(outcome.untuned_evaluation), "tuned", sep="\n")
    screen.print(report.accuracy_lines(outcome.evaluation))
    if data is not None:
        real = outcome.network.float_network
        print_suspicions(outcome.evaluation, real, images, outcome.recipe, screen)
    _print_advice(outcome, screen)
    if folder is None or out is None:
        return
    where = data if data is None or str(data).startswith("tfds:") else Path(data).resolve()
    where = None if where is None else str(where)
    beyond = None if targets is None else str(Path(targets).resolve())
    report.write_run(folder, outcome, images, model=model, data=where, targets=beyond, beside=beside)
    screen.print(
        f"Written to {out}: network.safetensors, recipe.toml, result.json; `ggdjax report {out}` draws it",
        markup=False,
        soft_wrap=True,
    )


def _print_advice(outcome: Outcome, screen: Console) -> None:
    """Say which two options help most, by what was measured, where much accuracy is lost."""
    from ggdjax.report._advice import ENOUGH, advise

    before, after = outcome.evaluation.float_score, outcome.evaluation.quantized_score
    # A share of what the float network does says something of shares alone.
    if before.metric.unit != "%" or after.value >= ENOUGH * before.value:
        return
    best = advise(outcome.network, outcome.evaluation)[:2]
    options = " and ".join(f"`{advice.option}` (+{advice.gain_db:.1f} dB)" for advice in best)
    line = f"Below {100 * ENOUGH:.0f} % of the float network."
    if options:
        line += f" By the noise measured here {options} help most."
    if outcome.recipe.gradient is None and outcome.recipe.quantization.activations_per == "tensor":
        line += " `ggdjax tune RUN` fits steps and weights to the network's own outputs."
    screen.print(line, markup=False)


def integer_program(
    q: QuantizedNetwork, recipe: Recipe, specification: Path | None = None
) -> tuple[QuantizedNetwork, Any]:
    """Return the network with biases on its accumulators' grids, and the integer program of it.

    The accelerator is the one that a file specifies, or that of the recipe's target, or has the widths of the network.
    """
    from ggdjax import datapath
    from ggdjax.recipe import TARGETS

    if specification is not None:
        accelerator = datapath.Accelerator.load(specification)
    elif recipe.target is not None:
        accelerator = TARGETS[recipe.target].accelerator(q)
    else:
        accelerator = datapath.Accelerator().widened(q)
    aligned = datapath.align(q)
    return aligned, datapath.compile(aligned, accelerator)
