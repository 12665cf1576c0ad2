"""The paper's kind of networks by the paper's recipe, and by others: top-1 and top-5 before and after tuning.

    python -m experiments run paper-tiny                                       drawn weights, drawn images: seconds
    python -m experiments run paper --dry-run                                  what it costs, without any data
    python -m experiments run paper --data imagenet/ --preset imagenet --weights weights/
    python -m experiments run paper --onnx vgg16.onnx --data imagenet/ --preset imagenet --recipes paper

``weights/`` holds a file for each network, called after it (alexnet.safetensors, vgg16.safetensors, …: of torchvision,
of timm, or of `ggdjax.zoo.save_weights`); networks that read their images in different ways go into a TOML file.
Recipes are names of `gd.recipe.named`, or files. All recipes calibrate and are evaluated on the same images: those that
tune are held out by none. A cell that was killed resumes after its last finished stage.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from rich.progress import Progress

from experiments import accuracy
from experiments.bench import choose_parts
from experiments.experiment import Cell, Experiment, Names, widths_of
from experiments.images import calibrate
from ggdjax import Recipe
from ggdjax.recipe import Parts
from ggdjax.recipe._named import recipe_of
from ggdjax.recipe._run import _Run

#: AlexNet, VGG-16, GoogLeNet, ResNet-50, SqueezeNet, MobileNet.
KINDS = ("alexnet", "vgg16", "googlenet", "resnet50", "squeezenet1_0", "mobilenet_v1")


@dataclass(frozen=True, kw_only=True)
class Paper(Experiment):
    """Top-1 and top-5 of the paper's kind of networks, of networks × recipes × widths."""

    NAME: ClassVar[str] = "paper"
    AXES: ClassVar[tuple[str, ...]] = ("recipes", "widths")
    HOLDS: ClassVar[tuple[str, ...]] = ("calibration", "tuning")
    BESIDES: ClassVar[str] = "rounding for the output of layers, and searches and gradients, up to `tune_seconds` each"

    networks: Names = KINDS
    """Networks of the zoo, which need `--data`, `--preset` and `--weights`; or any others."""
    recipes: tuple[str, ...] = ("paper", "default")
    """Names (paper, default, best) or files of recipes; their widths are those of the cell."""
    widths: tuple[str, ...] = ("8/8", "6/6", "5/5", "4/4")
    """Bits of weights/feature maps."""
    calibration_images: int | None = None
    """Images to calibrate on; none: 512, and the 100 conventional ones of the ImageNet sample."""
    tuning_images: int | None = None
    """Images that no recipe is evaluated on, and on which those that tune do; none: the most that a recipe asks for."""
    held_out_images: int | None = None
    """Evaluate on up to N held-out images; none: on all of them."""
    tune_seconds: float | None = None
    """Budget of each search and of gradients, without compiling; none: that of the recipe."""

    def check(self) -> None:
        """Refuse unknown names, missing data and numbers out of range."""
        for name in self.recipes:
            recipe_of(name)
        super().check()

    def cells(self) -> list[Cell]:
        """Return the cells; a recipe in a file is called by its contents, too."""
        labels = dict(zip(dict.fromkeys(self.recipes), self._recipes, strict=True))
        return [{**cell, "recipe": labels[cell["recipe"]]} for cell in super().cells()]

    @cached_property
    def _recipes(self) -> dict[str, Recipe]:
        """The recipes, by what cells call them."""
        files = {name: Path(name) for name in self.recipes if Path(name).is_file()}
        marks = {name: f" {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}" for name, path in files.items()}
        return {name + marks.get(name, ""): recipe_of(name) for name in dict.fromkeys(self.recipes)}

    def tuning_count(self, network: str) -> int:
        """Return how many images tune a network."""
        return self.tuning_images or max(recipe.tune_images for recipe in self._recipes.values())

    def passes(self, cell: Cell | None) -> dict[str, float]:
        """Return one pass to calibrate; each cell evaluates the float and the quantized network, and the untuned."""
        if cell is None:
            return {"calibration": 1}
        return {"accuracy": 2.0 * (1 + self._recipes[cell["recipe"]].tunes)}

    def prepare(self, network: str, seed: int) -> dict[str, Any]:
        """Return the network with its images, and the calibration of what is not equalized."""
        real = self.network(network)
        net = real.load()
        images = real.open_images(net)
        tuning = self.tuning_count(network)
        parts = choose_parts(real, images, self.calibration_images, self.held_out_images, tuning, seed)
        size = real.batch_size
        calibration = calibrate(net, images, parts["calibration"], size, f"{network}: calibrate")
        return {"net": net, "images": images, "parts": parts, "calibration": calibration, "size": size}

    def image_ids(self, prepared: dict[str, Any]) -> dict[str, list[str]]:
        """Return the images of every part."""
        return {name: [prepared["images"].ids[i] for i in part] for name, part in prepared["parts"].items()}

    def recipe(self, cell: Cell, prepared: dict[str, Any]) -> Recipe:
        """Return the recipe of a cell."""
        recipe, parts = self._recipes[cell["recipe"]], prepared["parts"]
        weights, maps = widths_of(cell["widths"])
        changes: dict[str, Any] = {"seed": cell["seed"], "batch_size": prepared["size"], "mean_bits": None}
        changes["quantization"] = dataclasses.replace(recipe.quantization, weight_bits=weights, activation_bits=maps)
        if recipe.tunes:
            count = len(parts["tuning"])
            changes |= {"tune_images": count, "tune_seconds": self.tune_seconds or recipe.tune_seconds}
            if recipe.gradient is not None:
                size = min(recipe.gradient.batch_size, count)
                changes["gradient"] = dataclasses.replace(recipe.gradient, batch_size=size)
        return dataclasses.replace(recipe, **changes)

    def measure(self, prepared: dict[str, Any], cell: Cell, folder: Path) -> dict[str, Any]:
        """Return accuracies before and after tuning and in float, seconds by stage, and the recipe with its budgets."""
        recipe, parts = self.recipe(cell, prepared), prepared["parts"]
        mark = "-".join([*(re.sub(r"[^\w.-]", "-", str(v)) for v in cell.values()), self.config_hash(cell["network"])])
        kept = folder / "checkpoints" / mark
        chosen = Parts(
            calibration=parts["calibration"],
            tune=parts["tuning"] if recipe.tunes else parts["tuning"][:0],
            held_out=parts["accuracy"],
        )
        other = recipe.equalize or recipe.without_images or recipe.quantization.activations_per == "channel"
        calibration = None if other else prepared["calibration"]
        with Progress() as bar:
            task = bar.add_task(f"{cell['network']} {cell['recipe']} {cell['widths']}", total=None)

            def progress(stage: str, done: int, total: int, note: str) -> None:
                bar.update(task, completed=done, total=total, description=f"{cell['network']}: {stage} {note}")

            outcome = _Run(prepared["net"], prepared["images"], recipe, chosen, calibration, kept, progress).outcome()
        shutil.rmtree(kept, ignore_errors=True)
        tuned, before = outcome.evaluation, outcome.untuned_evaluation
        stages = {"before": before, "tuned": tuned} if before is not None else {"quantized": tuned}
        return {
            "float_top1": tuned.float_accuracy.top1,
            "float_top5": tuned.float_accuracy.top5,
            "mean_sqnr_db": tuned.mean_sqnr_db if math.isfinite(tuned.mean_sqnr_db) else None,
            "stages": {name: accuracy.of_evaluation(one) for name, one in stages.items()},
            "stage_seconds": {stage: round(seconds, 2) for stage, seconds in outcome.seconds.items()},
            "recipe_of_run": outcome.recipe.to_dict(),
        }

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return top-1 / top-5 in % of float, and of every stage."""
        said = {"float": f"{100 * row['float_top1']:.2f} / {100 * row['float_top5']:.2f}"}
        return said | {n: f"{100 * s['top1']:.2f} / {100 * s['top5']:.2f}" for n, s in row["stages"].items()}


CONFIGS = {
    "paper": Paper(),
    "paper-tiny": Paper(networks=("drawn-alexnet",), widths=("8/8",), tuning_images=16, tune_seconds=0.1),
}
