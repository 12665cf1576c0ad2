"""`ggdjax quantize`: calibrate, fit, choose steps and fractional lengths, evaluate, write."""

from __future__ import annotations

import dataclasses
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro

from ggdjax._errors import GgdjaxError
from ggdjax.quantization.config import QuantConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from ggdjax.data import ImageSet, Preprocessing, Split
    from ggdjax.network import Network


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Quantize a network after training, and measure what it costs in accuracy.

    One pass over calibration images fills a histogram per feature map; a generalized gamma distribution is fitted to
    each; the steps follow in closed form; weights and biases get the fractional length of least squared error; the
    quantized network is evaluated on held-out images.

    Examples:
        ggdjax quantize
        ggdjax quantize resnet20.onnx --data cifar10.tar.gz --preset cifar10 --activation-bits 6 --out runs/r20
        ggdjax quantize squeezenet.onnx --data imagenet/ --preset imagenet-caffe --calibration-ids ids.txt
    """

    model: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = None
    """ONNX file; none: the embedded digits network, with its own images."""
    data: Path | None = None
    """Images: a folder of class folders, a flat folder with labels.csv, an .npz (image, label), a tar archive,
    or tfds:NAME for a set that TensorFlow Datasets has prepared."""
    out: Path | None = None
    """Run folder to write: result.json, quantization parameters, and a picture per feature map."""

    weight_bits: int = 8
    """Width of weights, 2 to 16 bits."""
    activation_bits: int = 8
    """Width of feature maps, 2 to 16 bits."""
    bias_bits: int = 16
    """Width of biases, 2 to 32 bits."""
    scheme: str = "ggd"
    """How feature-map steps are chosen; an unknown name lists the known ones."""
    activations_per: Literal["tensor", "channel"] = "tensor"
    """One step per feature map, or one per channel of it, reported beside the result of one per feature map."""
    weight_scheme: str = "fixed-point"
    """fixed-point: the fractional length of least squared error; or a scheme that chooses free steps."""
    weights_per: Literal["tensor", "channel"] = "tensor"
    """One fractional length per layer, or per output channel."""

    calibration_images: int = 512
    """Images to calibrate on; the others are held out for evaluation."""
    calibration_ids: Path | None = None
    """File that names the calibration images, one id a line, instead of a choice by seed."""
    held_out_images: int | None = None
    """Evaluate on at most so many of the held-out images; all of them by default."""
    seed: int = 0
    """Chooses the calibration images."""
    batch_size: int = 64
    """Images per batch: bounds the memory."""

    preset: str | None = None
    """Preprocessing: cifar10, imagenet, imagenet-caffe or imagenet-tf; the options below change single fields."""
    resize: int | None = None
    """Shorter side in pixels before the crop."""
    crop: int | None = None
    """Side of the centred square in pixels."""
    size: int | None = None
    """Side in pixels to which the crop is resized at last."""
    mean: tuple[float, ...] | None = None
    """Subtracted after scaling, one value per channel or one for all."""
    std: tuple[float, ...] | None = None
    """Divides after the subtraction."""
    scale: float | None = None
    """Factor on the raw pixel value: 1/255 maps to [0, 1]."""
    colour_order: Literal["RGB", "BGR", "GRAY"] | None = None
    """Order of the channels in the network's input."""
    layout: Literal["NCHW", "NHWC"] | None = None
    """Axes of the network's input."""
    label_offset: int | None = None
    """1 where the network's output 0 means background."""

    def run(self) -> None:
        """Do the job.

        Raises:
            GgdjaxError: whatever a user can mend, before anything is written.
        """
        from rich.console import Console

        from ggdjax import report

        console = Console()
        if not console.is_terminal:
            console = Console(width=120)  # a file or a pipe has no width of its own: nothing is cut off
        config = self._config()
        if self.batch_size < 1:
            raise GgdjaxError(f"`--batch-size` must be at least 1, got {self.batch_size}")
        if self.out is not None:
            report.check_run_folder(self.out)
        clock = _Clock()
        with clock("load"):
            net, images = self._open(console)
            parts = self._split(images)
        calibration = self._calibrate(net, images, parts, config, console, clock)
        quantized, evaluation = self._quantize(net, calibration, images, parts, config, console, clock)
        results = {f"steps per {config.activations_per}": (quantized, evaluation)}
        if config.activations_per == "channel":
            per_tensor = dataclasses.replace(config, activations_per="tensor")
            beside = self._quantize(net, calibration, images, parts, per_tensor, console, clock)
            results["steps per tensor"] = beside
        for result in results.values():
            console.print(report.feature_map_table(*result))
        console.print(report.weight_table(quantized))
        for name, (_, measured) in results.items():
            console.print(*([name] if len(results) > 1 else []), report.accuracy_lines(measured), sep="\n")
        if self.out is not None:
            with clock("write"), report.new_run_folder(self.out) as folder:
                self._write(folder, results, images, parts, console, clock)
            console.print(f"Written to {self.out}: result.json, parameters, pictures", soft_wrap=True)

    def _config(self) -> QuantConfig:
        from ggdjax import schemes

        schemes.get(self.scheme)
        if self.weight_scheme != "fixed-point":
            schemes.get(self.weight_scheme)
        names = [f.name for f in dataclasses.fields(QuantConfig) if hasattr(self, f.name)]
        return QuantConfig(**{name: getattr(self, name) for name in names})

    def _open(self, console: Console) -> tuple[Network, ImageSet]:
        from ggdjax import data, network, zoo
        from ggdjax.cli._progress import progress_bar

        if self.model is None:
            if self.data is not None:
                raise GgdjaxError("`--data` needs a MODEL: the embedded network comes with its own images")
            return network.trace(zoo.digits_net(), np.zeros((1, 8, 8, 1), np.float32)), data.digits()
        if self.data is None:
            raise GgdjaxError("`--data` is missing: name the images to calibrate and evaluate on")
        preprocessing = self._preprocessing()
        net = network.load_onnx(self.model)
        preprocessing = preprocessing.for_input(net.input_shape)
        with progress_bar(console, f"Opening {self.data.name}", 1) as advance:
            images = data.open_images(self.data, preprocessing)
            advance(1)
        data.check_labels(images, net.output_shape[-1])
        return net, images

    def _preprocessing(self) -> Preprocessing:
        from ggdjax import data

        names = [f.name for f in dataclasses.fields(data.Preprocessing)]
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.preset is not None:
            return data.preset(self.preset, **given)
        if not given:
            presets = ", ".join(data.PRESETS)
            raise GgdjaxError(f"say how images become inputs: `--preset` ({presets}) or --size, --mean, --std, …")
        return data.Preprocessing(**given)

    def _split(self, images: ImageSet) -> Split:
        from ggdjax import data

        if self.calibration_ids is None:
            parts = data.split(images, self.calibration_images, self.seed)
        else:
            try:
                ids = self.calibration_ids.read_text(encoding="utf-8").split("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise GgdjaxError(f"`--calibration-ids` {self.calibration_ids} cannot be read: {error}") from None
            parts = data.split_by_ids(images, [line.strip() for line in ids if line.strip()])
        if self.held_out_images is not None:
            if self.held_out_images < 1:
                raise GgdjaxError(f"`--held-out-images` must be at least 1, got {self.held_out_images}")
            order = data.hash_order([images.ids[i] for i in parts.held_out], self.seed)
            chosen = parts.held_out[sorted(order[: self.held_out_images])]
            parts = dataclasses.replace(parts, held_out=chosen)
        return parts

    def _calibrate(self, net, images, parts, config, console, clock):
        import ggdjax as gd
        from ggdjax.cli._progress import counted, progress_bar

        size = _even_batch(len(parts.calibration), self.batch_size)
        with clock("calibrate"), progress_bar(console, "Calibrating", len(parts.calibration)) as advance:
            batches = counted(images.batches(parts.calibration, size), advance)
            per_channel = config.activations_per == "channel"
            return gd.calibrate(net, (x for x, _ in batches), per_channel=per_channel)

    def _quantize(self, net, calibration, images, parts, config, console, clock):
        import ggdjax as gd
        from ggdjax.cli._progress import counted, progress_bar
        from ggdjax.quantization import evaluate

        with clock("quantize"), console.status("Fitting distributions, choosing steps and fractional lengths"):
            quantized = gd.quantize(net, calibration, config)
        with clock("evaluate"), progress_bar(console, "Evaluating held-out images", len(parts.held_out)) as advance:
            batches = counted(images.batches(parts.held_out, self.batch_size), advance)
            evaluation = evaluate(quantized, batches)
        return quantized, evaluation

    def _write(self, folder, results, images, parts, console, clock) -> None:
        from ggdjax import report
        from ggdjax.cli._progress import progress_bar

        (quantized, evaluation), *beside = results.values()
        quantized.params.save(folder / "parameters")
        with progress_bar(console, "Drawing feature maps", len(quantized.calibration.names)) as advance:
            # One picture per feature map shows one step: that of the whole feature map.
            per_tensor = results["steps per tensor"][0]
            for _ in report.draw_feature_maps(per_tensor, folder / "feature_maps"):
                advance(1)
        measured = {f"{self.scheme}, {name}": evaluation for name, (_, evaluation) in results.items()}
        report.plot_sensitivity(measured).savefig(folder / "sensitivity.png", dpi=110)
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        report.write_result(
            folder,
            {
                "model": str(self.model) if self.model else "digits (embedded)",
                **report.result_record(quantized, evaluation),
                **({"steps_per_tensor": report.result_record(*beside[0])} if beside else {}),
                "options": {k: str(v) if isinstance(v, Path) else v for k, v in options.items()},
                "preprocessing": images.preprocessing.to_dict(),
                "images": parts.to_dict(images),
                "unreadable_images": dict(images.unreadable),
                "seed": self.seed,
                "seconds": clock.seconds,
                **report.environment(),
            },
        )


class _Clock:
    """Wall-clock seconds per phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = round(self.seconds.get(phase, 0.0) + time.perf_counter() - start, 3)


def _even_batch(images: int, largest: int) -> int:
    """Return the largest batch size up to ``largest`` that divides ``images``, if one above half of it does.

    A short last batch would compile the network a second time.
    """
    return next((size for size in range(largest, largest // 2, -1) if images % size == 0), largest)
