"""`ggdjax tune`: go on from a saved run, on images of its own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ggdjax._errors import GgdjaxError
from ggdjax.cli._options import TuningOptions, naming_options
from ggdjax.cli._runs import finish, opened, run_folder


@dataclass(frozen=True, kw_only=True)
class Tune(TuningOptions):
    """Tune the network of a run on images that neither calibrated nor evaluate it, and write a new run.

    A search backward and forward over the layers, then gradient steps; each gets about a minute on this machine unless
    the options say otherwise. RUN knows its network, images and preprocessing.

    For example:
        ggdjax tune runs/r20 --out runs/r20-tuned
        ggdjax tune runs/r20 --out runs/r20-tuned --tune-images 2000 --tune-sweeps 0 --gradient-steps 500
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder that `ggdjax quantize --out` or `ggdjax tune --out` wrote."""
    out: Path
    """Run folder to write."""
    held_out_images: int | None = None
    """Evaluate on up to this many of the held-out images; as many as RUN by default."""

    def run(self) -> None:
        """Do the job.

        Raises:
            GgdjaxError: a user error, before anything is written.
        """
        from ggdjax import recipe as pipeline
        from ggdjax import report
        from ggdjax.cli._console import console, stages
        from ggdjax.report._run_folder import check_space

        if self.out.resolve() == self.run_folder.resolve():
            raise GgdjaxError(f"`--out` {self.out} is RUN itself, which stays: choose another folder")
        saved, screen = report.load_run(self.run_folder), console()
        recipe = self._recipe(saved)
        quantized = saved.network
        with run_folder(self.out) as (folder, unfinished):
            check_space(self.out, quantized.float_network)
            images = opened(saved.data, quantized, recipe, screen, saved.targets)
            with stages(screen) as progress:
                outcome = pipeline.run(quantized, images, recipe, folder=unfinished, progress=progress)
            where = {"data": saved.data, "targets": saved.targets}
            finish(outcome, images, screen, self.out, folder, model=saved.result["model"], **where)

    def _recipe(self, saved):
        before = saved.recipe
        images = before.tune_images if self.tune_images is None else self.tune_images
        if before.tune_images > images:
            raise GgdjaxError(
                f"`--tune-images` is {images}, but RUN was tuned on {before.tune_images}: give at least as many, or "
                "some of those would evaluate"
            )
        fresh = dataclasses.replace(before, search=None, gradient=None, tune_images=0, tune_seconds=60.0)
        changes = {} if self.held_out_images is None else {"held_out_images": self.held_out_images}
        options = dataclasses.replace(
            self,
            tune_images=images or 512,
            gradient_steps="auto" if self.gradient_steps is None else self.gradient_steps,
        )
        with naming_options(("tune_images", "tune_seconds", "held_out_images", "metric", "tune_objective")):
            return options.tuned(fresh, changes)
