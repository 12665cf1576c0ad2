"""Backward-forward tuning with a gradient finish: accuracy stage by stage on images never used for tuning.

    python -m experiments run tuning                                    everything; the real networks need their data
    python -m experiments run tuning --networks digits --widths 4/4     a minute, needs nothing
    python -m experiments run tuning --networks resnet20 --tuning-images 500 --gradient-steps 120 --gradient-batch 32
    python -m experiments run tuning --networks resnet20 --rounding output --widths 4/4

The start is the default scheme, its weights rounded to nearest or, with ``--rounding output``, for the output of their
layer on the calibration images. Tuning images are disjoint from those of calibration and evaluation (where the images
have no further part, some of the held-out ones, so that the others evaluate). Intervals are Wilson's, 95 %; p is
McNemar's exact test against the untuned network. Expected: no stage loses on the tuning images. A cell that was killed
resumes from its checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from rich.progress import Progress

from experiments import accuracy
from experiments.bench import Bench
from experiments.experiment import Cell, Experiment, check_numbers, widths_of
from ggdjax import quantization, tune

#: Network -> tuning images by default.
IMAGES = {"resnet20": 1000}


@dataclass(frozen=True, kw_only=True)
class Tuning(Experiment):
    """Top-1 and top-5 before, after each sweep and after gradient steps, of networks × widths × seeds.

    For example:
        python -m experiments run tuning --networks digits --widths 4/4
    """

    NAME: ClassVar[str] = "tuning"
    AXES: ClassVar[tuple[str, ...]] = ("widths",)
    HOLDS: ClassVar[tuple[str, ...]] = ("tuning", "accuracy")
    BESIDES: ClassVar[str] = "the search (`float_passes` of `gd.tune.plan`)"

    widths: tuple[str, ...] = ("8/8", "6/6", "5/5", "4/4", "8/4")
    """Bits of weights/feature maps."""
    objective: Literal["top1", "top5", "cross_entropy", "agreement", "kl", "sqnr"] = "top1"
    """What the sweeps maximise."""
    rounding: Literal["nearest", "output"] = "nearest"
    """How weights are rounded at the start."""
    tuning_images: int | None = None
    """Images to tune on; none: 1000 for resnet20, 200 for the others."""
    held_out_images: int | None = None
    """Evaluate on up to N held-out images; none: on all of them."""
    gradient_steps: int = 400
    """Gradient steps after the sweeps; 0 leaves them out."""
    gradient_batch: int = 16
    """Images per gradient step."""
    calibration_images: int | None = None
    """Images to calibrate on; none: 512, and the 100 conventional ones of the ImageNet sample."""

    def check(self) -> None:
        """Refuse unknown names, missing data and numbers out of range."""
        check_numbers(self, "gradient_batch")
        check_numbers(self, "gradient_steps", least=0)
        super().check()

    def tuning_count(self, network: str) -> int:
        """Return how many images tune a network."""
        return self.tuning_images or IMAGES.get(network, 200)

    def passes(self, cell: Cell | None) -> dict[str, float]:
        """Return one pass to calibrate; each cell evaluates every stage, and takes gradients."""
        if cell is None:
            return {"calibration": 1}
        return {"accuracy": 3 + bool(self.gradient_steps), "": 3 * self.gradient_steps * self.gradient_batch}

    def measure(self, prepared: Bench, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return the accuracies of every stage and what the search cost."""
        mark = "-".join([*(str(v).replace("/", "-") for v in cell.values()), self.config_hash(cell["network"])])
        checkpoint = folder / "checkpoints" / f"{mark}.safetensors"
        # The ImageNet sample has fewer tuning images than classes.
        config = tune.TuneConfig(objective=self.objective, seed=cell["seed"], allow_few_images=True)
        q = prepared.quantized(widths_of(cell["widths"]))
        if self.rounding == "output":
            q = tune.round_weights(q, prepared.calibration_inputs)
        images, labels = prepared.decoded("tuning")
        stages, what, tuned, seconds = {"before": prepared.ranks(q)}, f"{cell['network']} {cell['widths']}", q, 0.0
        for sweeps, name in ((1, "backward"), (2, "forward")):
            settings, start = replace(config, sweeps=sweeps), time.perf_counter()
            with progress_of(f"{what} {name}") as progress:
                tuned = tune.backward_forward(q, images, labels, settings, checkpoint=checkpoint, progress=progress)
            seconds += time.perf_counter() - start
            stages[name] = prepared.ranks(tuned)
        history = tuned.history
        figures = {
            "tuning_images": len(images),
            "objective": self.objective,
            "rounding": self.rounding,
            "search_seconds": round(seconds, 2),
            "float_passes": history.float_passes,
            "naive_float_passes": history.naive_float_passes,
            "tuning_score": [history.start_score, history.score],
            "changes": [f"{d.sweep}: {d.tensor}: {d.change}" for d in history.decisions if d.change],
        }
        if self.gradient_steps:
            start = time.perf_counter()
            size = min(self.gradient_batch, len(images))
            settings = tune.GradientConfig(steps=self.gradient_steps, batch_size=size, held_back=0.0, seed=cell["seed"])
            tuned = finished(tuned, images, settings, f"{what} gradient")
            stages["gradient"] = prepared.ranks(tuned)
            history = tuned.history
            # Of the network that is kept.
            figures["gradient_loss"] = [history.before, min(history.before, history.after)]
            figures["gradient_seconds"] = round(time.perf_counter() - start, 2)
        figures["stages"] = {
            name: accuracy.figures(ranks) | {"p_value": accuracy.p_value(stages["before"], ranks)}
            for name, ranks in stages.items()
        }
        checkpoint.unlink(missing_ok=True)
        return figures

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return top-1 / top-5 in % of every stage."""
        return {name: f"{100 * s['top1']:.2f} / {100 * s['top5']:.2f}" for name, s in row["stages"].items()}


@contextmanager
def progress_of(what: str) -> Iterator[Callable[[int, int, float], None]]:
    """Show a bar with the best score so far."""
    with Progress() as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total, score: bar.update(
            task, completed=done, total=total, description=f"{what}: {score:.4f}"
        )


def finished(
    q: quantization.QuantizedNetwork, images: np.ndarray, config: tune.GradientConfig, what: str
) -> quantization.QuantizedNetwork:
    """Return the network tuned by gradients, behind a bar."""
    with progress_of(what) as progress:
        return tune.gradient(q, images, config=config, progress=lambda step, loss: progress(step, config.steps, loss))


CONFIGS = {
    "tuning": Tuning(networks=("digits", "resnet20", "squeezenet")),
    "tuning-tiny": Tuning(widths=("4/4",), tuning_images=32, held_out_images=100, gradient_steps=2),
}
