"""`ggdjax evaluate`: the accuracy of a saved run, by fake quantization or by integers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from ggdjax._errors import GgdjaxError
from ggdjax.cli._options import naming_options
from ggdjax.cli._runs import integer_program, opened
from ggdjax.cli._suspicions import print_suspicions

if TYPE_CHECKING:
    from ggdjax.data import ImageSet
    from ggdjax.datapath import Program


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Evaluate the network of a run on its held-out images, or on others.

    For example:
        ggdjax evaluate runs/r20
        ggdjax evaluate runs/r20 --integers
        ggdjax evaluate runs/r20 --data other/
        ggdjax evaluate runs/r20 --metric output-sqnr
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder that `ggdjax quantize --out` or `ggdjax tune --out` wrote."""
    integers: bool = False
    """Compute as the accelerator does, in integers, beside fake quantization with the accelerator's biases."""
    data: Path | None = None
    """Other images, preprocessed as RUN's; those that calibrated or tuned RUN are left out."""
    targets: Path | None = None
    """Folder of the targets of `--data`, as that of `ggdjax quantize`."""
    metric: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Another metric than RUN's: top-1, top-5, pixel-accuracy, mean-iou, psnr, ssim or output-sqnr."""
    held_out_images: int | None = None
    """Evaluate on up to this many, chosen by the seed of RUN; all of them by default."""

    def run(self) -> None:
        """Do the job.

        Raises:
            GgdjaxError: a user error.
        """
        from ggdjax import report
        from ggdjax.cli._console import console, counted, progress_bar
        from ggdjax.data._sizes import check_sizes
        from ggdjax.quantization import accuracy, evaluate, metric, score
        from ggdjax.recipe._parts import some

        if self.held_out_images is not None and self.held_out_images < 1:
            raise GgdjaxError(f"`--held-out-images` must be at least 1, got {self.held_out_images}")
        saved, screen = report.load_run(self.run_folder), console()
        recipe, quantized = saved.recipe, saved.network
        if self.metric is not None:
            with naming_options(("metric",)):
                recipe = dataclasses.replace(recipe, metric=self.metric)
        if self.targets is not None and self.data is None:
            raise GgdjaxError("`--targets` belong to the images of `--data`: give both, or neither for RUN's own")
        if self.data is not None and saved.data is None:
            raise GgdjaxError("`--data` needs a RUN of your own network: this one is of the embedded network")
        quantized, program = integer_program(quantized, recipe) if self.integers else (quantized, None)
        path = saved.data if self.data is None else self.data
        targets = saved.targets if self.data is None else self.targets
        if recipe.metric is not None and metric(recipe.metric).compares in ("class", "float output"):
            targets = None  # of another metric of RUN
        images = opened(path, quantized, recipe, screen, targets)
        part = self._part(images, saved.result["images"])
        if self.held_out_images is not None:
            part = some(images, part, self.held_out_images, recipe.seed)
        check_sizes(images, part, quantized.float_network.input_shape)
        with progress_bar(screen, "Evaluating", len(part)) as advance:
            batches = counted(images.batches(part, recipe.batch_size), advance)
            evaluation = evaluate(quantized, batches, recipe.metric)
        after: list[str] = []
        if program is not None:
            with progress_bar(screen, "Evaluating in integers", len(part)) as advance:
                counting, real = _Counting(program), quantized.float_network
                batches = counted(images.batches(part, recipe.batch_size), advance)
                if recipe.metric is None or metric(recipe.metric).compares == "class":
                    in_integers = {"quantized_accuracy": accuracy(counting, batches)}
                else:
                    found = score(counting, batches, recipe.metric, reference=real)
                    in_integers = {"quantized_accuracy": None, "metric_scores": (evaluation.float_score, found)}
            screen.print(
                "by fake quantization, biases on the accumulators' grids",
                report.accuracy_lines(evaluation),
                "in integers",
                sep="\n",
            )
            evaluation = dataclasses.replace(evaluation, **in_integers)
            after = counting.lines()
            if program.in_float:
                after.append(f"In float, between integers: {', '.join(program.in_float)}")
        screen.print(report.accuracy_lines(evaluation))
        if self.data is not None:
            print_suspicions(evaluation, quantized.float_network, images, recipe, screen)
        for line in after:
            screen.print(line, markup=False)

    def _part(self, images: ImageSet, used: dict) -> np.ndarray:
        index_of = {id_: i for i, id_ in enumerate(images.ids)}
        if self.data is None:
            missing = [id_ for id_ in used["held_out_ids"] if id_ not in index_of]
            if missing:
                raise GgdjaxError(
                    f"{images.name} lacks {len(missing)} of RUN's held-out images, first `{missing[0]}`: name the "
                    "images by `--data`"
                )
            return np.asarray([index_of[id_] for id_ in used["held_out_ids"]], np.int64)
        seen = {*used["calibration_ids"], *used.get("tune_ids", ())}
        part = np.asarray(images.parts.get("test", np.arange(len(images))), np.int64)
        part = part[[images.ids[i] not in seen for i in part]]
        if not part.size:
            raise GgdjaxError(f"`--data` {self.data} holds no image that RUN has not seen: give others")
        return part


class _Counting:
    """An integer program as a function of images that remembers which tensors left the range of their integers."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._beyond: dict[str, list[float]] = {}
        self._batches = 0

    def __call__(self, x: np.ndarray) -> Any:
        """Return the outputs."""
        found = self._program.run(x)
        self._batches += 1
        for tensor, share in found.beyond.items():
            self._beyond.setdefault(tensor, []).append(share)
        return found.logits

    def lines(self) -> list[str]:
        """Return one line per tensor that saturated, the most first."""
        shares = {tensor: sum(found) / self._batches for tensor, found in self._beyond.items()}
        return [
            f"{share:.2g} of the values of `{tensor}` saturated beyond what calibration saw: calibrate on more images."
            for tensor, share in sorted(shares.items(), key=lambda item: -item[1])
        ]
