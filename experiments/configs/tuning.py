"""Backward-forward tuning with a gradient finish: accuracy stage by stage on images never used for tuning.

    python -m experiments tuning                                        everything; the real networks need their data
    python -m experiments tuning --networks digits --widths 4/4         a minute, needs nothing
    python -m experiments tuning --networks resnet20 --widths 4/4 --tuning-images 500 --gradient-steps 0

The search of `experiments/benchmarks/backward_forward.py`, from the default scheme and with the same images, and then
gradient steps on the same tuning images. Expected: no stage loses on the tuning images; stages `before`, `backward`
and `forward` of ResNet-20 and SqueezeNet as in `experiments/results/backward_forward.jsonl`, on the same device and
versions. A cell that was killed resumes from its checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from experiments.experiment import Cell, Experiment, check_numbers
from ggdjax import GgdjaxError


@dataclass(frozen=True, kw_only=True)
class Tuning(Experiment):
    """Top-1 and top-5 before, after each sweep and after gradient steps, of networks × widths × seeds.

    For example:
        python -m experiments tuning --networks digits --widths 4/4
    """

    NAME: ClassVar[str] = "tuning"
    AXES: ClassVar[tuple[str, ...]] = ("networks", "widths", "seeds")

    networks: tuple[str, ...] = ("digits", "resnet20", "squeezenet")
    """Names in experiments/networks.py."""
    widths: tuple[str, ...] = ("8/8", "6/6", "5/5", "4/4", "8/4")
    """Bits of weights/feature maps."""
    seeds: tuple[int, ...] = (0,)
    """Each chooses other tuning images and another order of them."""
    objective: Literal["top1", "top5", "cross_entropy", "agreement", "kl", "sqnr"] = "top1"
    """What the sweeps maximise."""
    tuning_images: int | None = None
    """Images to tune on; none: 1000 for resnet20, 200 for the others."""
    held_out_images: int | None = None
    """Evaluate on up to N held-out images; none: on all of them."""
    gradient_steps: int = 400
    """Gradient steps after the sweeps; 0 leaves them out."""
    gradient_batch: int = 16
    """Images per gradient step."""

    def check(self) -> None:
        """Refuse unknown names, missing data and numbers out of range."""
        from experiments import networks
        from ggdjax import QuantConfig

        check_numbers(self, "networks", "widths", "tuning_images", "held_out_images", "gradient_batch")
        check_numbers(self, "seeds", "gradient_steps", least=0)
        for widths in self.widths:
            parts = widths.split("/")
            if len(parts) != 2 or not all(part.isdecimal() for part in parts):
                raise GgdjaxError(f"`widths` are bits of weights/feature maps, such as 4/8; got `{widths}`")
            QuantConfig(weight_bits=int(parts[0]), activation_bits=int(parts[1]))
        networks.check(self.networks)

    def cells(self) -> list[Cell]:
        """Return the cells, those of a network together."""
        return [
            {"network": network, "widths": widths, "seed": seed}
            for network in self.networks
            for seed in self.seeds
            for widths in self.widths
        ]

    def prepare(self, network: str, seed: int) -> Any:
        """Return the network calibrated, its tuning and held-out images decoded."""
        from experiments.benchmarks.backward_forward import IMAGES, Bench
        from experiments.networks import ALL

        return Bench(ALL[network], self.tuning_images or IMAGES.get(network, 200), self.held_out_images, seed)

    def image_ids(self, prepared: Any) -> dict[str, Sequence[str]]:
        """Return the images of the three parts."""
        return prepared.ids

    def measure(self, prepared: Any, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return the accuracies of every stage and what the search cost."""
        from experiments.benchmarks.backward_forward import finish, search, stage_record
        from ggdjax import tune

        mark = "-".join([*(str(value).replace("/", "-") for value in cell.values()), self.config_hash])
        checkpoint = folder / "checkpoints" / f"{mark}.safetensors"
        # The ImageNet sample has fewer tuning images than classes.
        config = tune.TuneConfig(objective=self.objective, seed=cell["seed"], allow_few_images=True)
        q = prepared.quantized(cell["widths"])
        stages = {"before": prepared.evaluate(q)}
        what = f"{cell['network']} {cell['widths']}"
        tuned, seconds, after = search(prepared, q, what, config, checkpoint)
        stages |= after
        history = tuned.history
        figures = {
            "tuning_images": len(prepared.images),
            "objective": self.objective,
            "search_seconds": round(seconds, 2),
            "float_passes": history.float_passes,
            "naive_float_passes": history.naive_float_passes,
            "tuning_score": [history.start_score, history.score],
            "changes": [f"{d.sweep}: {d.tensor}: {d.change}" for d in history.decisions if d.change],
        }
        if self.gradient_steps:
            start = time.perf_counter()
            size = min(self.gradient_batch, len(prepared.images))
            settings = tune.GradientConfig(steps=self.gradient_steps, batch_size=size, held_back=0.0, seed=cell["seed"])
            tuned = finish(prepared, tuned, what, settings)
            stages["gradient"] = prepared.evaluate(tuned)
            history = tuned.history
            # Of the network that is kept.
            figures["gradient_loss"] = [history.before, min(history.before, history.after)]
            figures["gradient_seconds"] = round(time.perf_counter() - start, 2)
        figures["stages"] = {name: stage_record(stages["before"], result) for name, result in stages.items()}
        checkpoint.unlink(missing_ok=True)
        return figures

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return top-1 / top-5 in % of every stage."""
        return {name: f"{100 * s['top1']:.2f} / {100 * s['top5']:.2f}" for name, s in row["stages"].items()}


CONFIGS = {
    "tuning": Tuning(),
    "tuning-tiny": Tuning(
        networks=("digits",), widths=("4/4",), tuning_images=32, held_out_images=100, gradient_steps=2
    ),
}
