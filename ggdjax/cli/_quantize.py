"""`ggdjax quantize`: a recipe from options, run on a network and images, and the folder it leaves."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ggdjax._errors import GgdjaxError
from ggdjax.cli._models import load_network
from ggdjax.cli._options import PREPROCESSING, WIDTHS_OF, RecipeOptions, naming_options
from ggdjax.cli._runs import finish, opened, run_folder
from ggdjax.recipe import Recipe

if TYPE_CHECKING:
    from ggdjax.data import ImageSet
    from ggdjax.network import Network


@dataclass(frozen=True, kw_only=True)
class Quantize(RecipeOptions):
    """Quantize a network after training, and measure what it costs in accuracy.

    One pass over calibration images fills a histogram per feature map; a generalized gamma distribution is fitted to
    each; the steps follow in closed form; weights are rounded for the output of their layer, in closed form too; the
    quantized network is evaluated on held-out images. A command that was stopped resumes where it was, if it had
    `--out`.

    For example:
        ggdjax quantize
        ggdjax quantize resnet20.onnx --data cifar10.tar.gz --preset cifar10 --activation-bits 6 --out runs/r20
        ggdjax quantize squeezenet.onnx --data imagenet/ --preset imagenet-caffe --calibration-ids ids.txt
        ggdjax quantize resnet50 --weights resnet50.safetensors --data imagenet/ --preset imagenet
        ggdjax quantize my_nets:build --data images/ --preset imagenet
        ggdjax quantize resnet20.onnx --data cifar10.tar.gz --preset cifar10 --recipe paper
        ggdjax quantize resnet20.onnx --data cifar10.tar.gz --preset cifar10 --weight-bits 4 --max-drop 1
        ggdjax quantize resnet20.onnx --data cifar10.tar.gz --preset cifar10 --target esp32-p4 --max-drop 0.5
        ggdjax quantize resnet20.onnx --data cifar10.tar.gz --preset cifar10 --pareto 3 4 5 6 8 --out runs/r20
        ggdjax quantize resnet20.onnx --data cifar10.tar.gz --preset cifar10 --calibration-images 0
        ggdjax quantize resnet20.onnx --data cifar10.tar.gz --preset cifar10 --distilled-images 32
        ggdjax quantize mobilenet.onnx --data imagenet/ --preset imagenet-tf --mean-bits 8
        ggdjax quantize unet.onnx --data images/ --targets masks/ --size 256 --metric mean-iou
        ggdjax quantize resnet20.onnx --data cifar10.tar.gz --preset cifar10 --weight-bits 4 --activation-bits 4
            --tune-images 2000 --gradient-steps auto
    """

    model: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = None
    """ONNX file; what `save` of a network wrote; the name of a network of the zoo, with `--weights`;
    or module:function, a Python function of yours that returns a network; none: the embedded digits network, with its
    own images."""
    weights: Path | None = None
    """Weights of a network of the zoo: a safetensors file of `ggdjax train`, or a PyTorch state dict in one. Those of
    digits and resnet20 come with the package."""
    data: Path | None = None
    """Images: a folder of class folders, a flat folder with labels.csv, an .npz (image, label), a tar archive,
    or tfds:NAME for a set that TensorFlow Datasets has prepared."""
    targets: Path | None = None
    """Folder of the images' targets where `--metric` compares with masks or images: a file per image of `--data`
    of the same relative name; masks as PNG with a class per pixel (255 does not count). An .npz holds its own."""
    out: Path | None = None
    """Run folder to write: network.safetensors, recipe.toml, result.json. `ggdjax tune`, `evaluate`, `export`, `report`
    (which draws a plot per feature map) and `inspect` read it."""
    recipe: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE")] = None
    """paper (the paper's method and nothing else), default or best (a fractional length per channel, gradient tuning);
    or a TOML or JSON file of a recipe, such as the recipe.toml of a run. The other options change single fields,
    `--no-…` turns off what it has on."""
    max_drop: Annotated[float | None, tyro.conf.arg(metavar="POINTS")] = None
    """Climb until top-1, or the metric, falls by up to this many percentage points (or dB): nearest rounding, rounding
    for the output, a fractional length per channel, widths per layer, gradient tuning. 500 images that do nothing else
    choose; every rung is printed with its time and what hardware it needs."""
    pareto: Annotated[tuple[float, ...], tyro.conf.arg(metavar="[BITS …]")] = ()
    """Beside the run, a sweep over mean widths, such as 3 4 5 6 8: the Pareto front of top-1, or the metric, against
    weight bytes, traffic and energy, on images that do nothing else. It is printed, and with `--out` written to
    pareto.json and pareto.png."""
    output: str | None = None
    """Tensor of the ONNX file to compute, of a model with several outputs or up to a layer inside."""
    input_shape: Annotated[tuple[int, ...], tyro.conf.arg(metavar="[INT ...]")] = ()
    """Full shape of the input, batch first (1 3 224 224), of an ONNX file that leaves its image size open."""
    constant: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME=NUMBER ...]")] = ()
    """Values of the inputs of an ONNX file that take no images: rate=16000 state=0."""
    preset: str | None = None  # pyrefly: ignore[bad-override] (every field is frozen)
    """Preprocessing: cifar10, mnist, imagenet, imagenet-caffe or imagenet-tf; options below change single fields."""
    calibration_ids: Path | None = None  # pyrefly: ignore[bad-override]
    """File that names the calibration images, one id a line, instead of a choice by seed."""

    def run(self) -> None:
        """Do the job.

        Raises:
            GgdjaxError: a user error, before anything is written.
        """
        from ggdjax import recipe as pipeline
        from ggdjax.cli._console import console, stages
        from ggdjax.recipe._ladder import measured_by
        from ggdjax.recipe._named import recipe_of
        from ggdjax.recipe._pareto import recipes_of
        from ggdjax.report import plot_front
        from ggdjax.report._plots import png
        from ggdjax.report._run_folder import to_json

        if self.max_drop is not None and not 0 <= self.max_drop < 100:
            raise GgdjaxError(f"`--max-drop` must be from 0 to 100 percentage points, got {self.max_drop:g}")
        recipe = self.changed(Recipe() if self.recipe is None else recipe_of(self.recipe))
        if self.pareto:  # before the work
            try:
                recipes_of(recipe, self.pareto)
            except GgdjaxError as error:
                raise GgdjaxError(str(error).replace("`budgets`", "`--pareto`")) from None
        screen = console()
        with run_folder(self.out) as (folder, unfinished):
            net, images = self._open(recipe, screen, folder)
            if recipe.distilled_images:
                screen.print(f"No calibration images: {recipe.distilled_images} distilled from batch normalization.")
            elif recipe.without_images:
                screen.print("No calibration images: steps from batch normalization, weights rounded to nearest.")
            beside = climbed = None
            with naming_options(WIDTHS_OF), stages(screen) as progress:
                if self.max_drop is None:
                    outcome = pipeline.run(net, images, recipe, folder=unfinished, progress=progress)
                else:
                    limit = self.max_drop / (100 if measured_by(recipe).unit == "%" else 1)
                    climbed = pipeline.ladder(net, images, recipe, max_drop=limit, folder=unfinished, progress=progress)
                    outcome = climbed.outcome
                swept = None
                if self.pareto:
                    swept = pipeline.pareto(
                        net, images, recipe, budgets=self.pareto, folder=unfinished, progress=progress
                    )
                if recipe.quantization.activations_per == "channel":
                    per_tensor = dataclasses.replace(recipe.quantization, activations_per="tensor")
                    again = dataclasses.replace(recipe, quantization=per_tensor)
                    # That of rounded weights is not the calibration that quantization begins with.
                    counted = outcome.network.record.calibration
                    counted = None if recipe.weights_first else dataclasses.replace(counted, channels=None)
                    beside = pipeline.run(net, images, again, calibration=counted, folder=unfinished, progress=progress)
            model = str(self.model) if self.model else "digits (embedded)"
            where = {"data": self.data, "targets": self.targets}
            finish(outcome, images, screen, self.out, folder, model=model, **where, beside=beside)
            if climbed is not None:
                screen.print(str(climbed), markup=False, soft_wrap=True)
                if folder is not None:
                    rungs = [dataclasses.asdict(rung) | {"recipe": rung.recipe.to_dict()} for rung in climbed.rungs]
                    record = {
                        "max_drop": climbed.max_drop,
                        "reached": climbed.reached,
                        "left_out": climbed.left_out,
                        "rungs": rungs,
                    }
                    (folder / "ladder.json").write_text(to_json(record), encoding="utf-8")

            if swept is not None:
                screen.print(str(swept), markup=False, soft_wrap=True)
                if folder is not None:
                    (folder / "pareto.json").write_text(to_json(swept.to_dict()), encoding="utf-8")
                    (folder / "pareto.png").write_bytes(png(plot_front(swept)))

    def _open(self, recipe: Recipe, screen, folder: Path | None) -> tuple[Network, ImageSet]:
        from ggdjax.report._run_folder import check_space

        if self.model is None:
            for name in ("data", "targets", "preset", *PREPROCESSING):
                if getattr(self, name) is not None:
                    raise GgdjaxError(
                        f"`--{name.replace('_', '-')}` needs a MODEL: the embedded network comes with its own images"
                    )
        net = load_network(self.model, self.output, self.input_shape, self.weights, self.constant)
        if self.model is not None and self.data is None:
            raise GgdjaxError("`--data` is missing: name the images to calibrate and evaluate on")
        if self.model is not None and recipe.preprocessing is None:
            from ggdjax import data

            presets = ", ".join(data.PRESETS)
            raise GgdjaxError(f"say how images become inputs: `--preset` ({presets}) or --size, --mean, --std, …")
        if self.out is not None:
            check_space(self.out, net)
        return net, opened(self.data, net, recipe, screen, self.targets)
