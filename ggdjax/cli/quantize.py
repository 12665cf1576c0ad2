"""`ggdjax quantize`: calibrate, fit, choose steps and fractional lengths, evaluate, write."""

from __future__ import annotations

import dataclasses
import math
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from ggdjax._errors import GgdjaxError
from ggdjax.quantization.config import QuantConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from ggdjax.data import ImageSet, Preprocessing, Split
    from ggdjax.network import Network
    from ggdjax.quantization import QuantizedNetwork
    from ggdjax.tune import History


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Quantize a network after training, and measure what it costs in accuracy.

    One pass over calibration images fills a histogram per feature map; a generalized gamma distribution is fitted to
    each; the steps follow in closed form; weights and biases get the fractional length of least squared error; the
    quantized network is evaluated on held-out images.

    For example:
        ggdjax quantize
        ggdjax quantize resnet20.onnx --data cifar10.tar.gz --preset cifar10 --activation-bits 6 --out runs/r20
        ggdjax quantize squeezenet.onnx --data imagenet/ --preset imagenet-caffe --calibration-ids ids.txt
        ggdjax quantize mobilenet.onnx --data imagenet/ --preset imagenet-tf --mean-bits 8 --bias-correction
        ggdjax quantize resnet20.onnx --data cifar10.tar.gz --preset cifar10 --weight-bits 4 --activation-bits 4
            --tune-images 2000 --gradient-steps 500
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

    mean_bits: float | None = None
    """Widths per layer, 2 to 16 bits, at most this in the mean over all weights and over all values of feature maps: in
    place of both widths, and chosen by what each layer's rounding does to the logits of calibration images."""
    bias_correction: bool = False
    """Take the mean error of every output channel, on calibration images, out of its bias."""

    tune_images: int = 0
    """Tune on so many images that neither calibrate nor evaluate, backward and forward over the layers; 0: do not."""
    tune_objective: Literal["top1", "top5", "cross_entropy", "agreement", "kl", "sqnr"] = "top1"
    """What backward-forward tuning maximises."""
    tune_sweeps: int = 2
    """Sweeps over the layers, backward first; 0 leaves them out, for gradient tuning alone."""
    gradient_steps: int = 0
    """Gradient steps on steps, biases and the rounding of weights, after the sweeps, on the same images."""

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
    """Preprocessing: cifar10, mnist, imagenet, imagenet-caffe or imagenet-tf; options below change single fields."""
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
        self._check_tuning()
        with nullcontext() if self.out is None else report.new_run_folder(self.out) as folder:
            self._run(config, folder, console)
        if self.out is not None:
            console.print(f"Written to {self.out}: result.json, parameters, pictures", soft_wrap=True)

    def _run(self, config: QuantConfig, folder: Path | None, console: Console) -> None:
        from ggdjax import report

        clock = _Clock()
        with clock("load"):
            net, images = self._open(console)
            parts, tuning = self._split(images)
        calibration = self._calibrate(net, images, parts, config, console, clock)
        quantized, evaluation = self._quantize(net, calibration, images, parts, config, console, clock)
        results = {f"steps per {config.activations_per}": (quantized, evaluation)}
        if config.activations_per == "channel":
            per_tensor = dataclasses.replace(config, activations_per="tensor")
            beside = self._quantize(net, calibration, images, parts, per_tensor, console, clock)
            results["steps per tensor"] = beside
        if tuning is not None:
            untuned = (quantized, evaluation)
            results = {"tuned": self._tune(quantized, images, parts, tuning, console, clock), "untuned": untuned}
            quantized, evaluation = results["tuned"]
        for name, result in results.items():
            table = report.feature_map_table(*result)
            table.title = f"{table.title}, {name}" if len(results) > 1 else table.title
            console.print(table)
        console.print(report.weight_table(quantized))
        for name, (_, measured) in results.items():
            console.print(*([name] if len(results) > 1 else []), report.accuracy_lines(measured), sep="\n")
        if folder is None:
            return
        try:
            with clock("write"):
                self._write(folder, results, images, parts, tuning, console, clock)
        except OSError as error:
            raise GgdjaxError(f"`--out` {self.out} cannot be written ({error}): choose another place") from None
        if self._checkpoint is not None:
            self._checkpoint.unlink(missing_ok=True)

    def _config(self) -> QuantConfig:
        names = [f.name for f in dataclasses.fields(QuantConfig) if hasattr(self, f.name)]
        return QuantConfig(**{name: getattr(self, name) for name in names})

    def _open(self, console: Console) -> tuple[Network, ImageSet]:
        from ggdjax import data, network, zoo
        from ggdjax.cli._progress import progress_bar
        from ggdjax.data.tfds import PREFIX

        if self.model is None:
            for name in ("data", "preset", *self._preprocessing_fields()):
                if getattr(self, name) is not None:
                    raise GgdjaxError(
                        f"`--{name.replace('_', '-')}` needs a MODEL: the embedded network comes with its own images"
                    )
            return network.trace(zoo.digits_net(), np.zeros((1, 8, 8, 1), np.float32)), data.digits()
        if self.data is None:
            raise GgdjaxError("`--data` is missing: name the images to calibrate and evaluate on")
        preprocessing = self._preprocessing()
        net = network.load_onnx(self.model)
        preprocessing = preprocessing.for_input(net.input_shape)
        if str(self.data).startswith(PREFIX):
            # While it is imported it replaces `__import__`, which would raise in the thread that draws the bar.
            import_module("tensorflow_datasets.core.read_only_builder")
        with progress_bar(console, f"Opening {self.data.name}", 1) as advance:
            images = data.open_images(self.data, preprocessing)
            advance(1)
        data.check_labels(images, math.prod(net.output_shape[1:]))
        return net, images

    def _preprocessing(self) -> Preprocessing:
        from ggdjax import data

        given = self._preprocessing_fields()
        if self.preset is not None:
            return data.preset(self.preset, **given)
        if not given:
            presets = ", ".join(data.PRESETS)
            raise GgdjaxError(f"say how images become inputs: `--preset` ({presets}) or --size, --mean, --std, …")
        return data.Preprocessing(**given)

    def _preprocessing_fields(self) -> dict[str, Any]:
        """Return the fields of the preprocessing that were given."""
        from ggdjax import data

        names = [f.name for f in dataclasses.fields(data.Preprocessing)]
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def _checkpoint(self) -> Path | None:
        """The file from which the tuning of a killed run goes on; it goes when the run is written."""
        return None if self.out is None else Path(f"{self.out.resolve()}.tuning")

    def _check_tuning(self) -> None:
        if self.mean_bits is not None and not 2 <= self.mean_bits <= 16:
            raise GgdjaxError(f"`--mean-bits` must be from 2 to 16, got {self.mean_bits:g}")
        if self.seed >= 2**63:
            raise GgdjaxError(f"`--seed` must be below 2^63, got {self.seed}")
        for name in ("tune_images", "tune_sweeps", "gradient_steps", "seed"):
            if getattr(self, name) < 0:
                raise GgdjaxError(f"`--{name.replace('_', '-')}` must be at least 0, got {getattr(self, name)}")
        if self.mean_bits is not None and self._changed("weight_bits", "activation_bits"):
            raise GgdjaxError("`--mean-bits` chooses every width: leave `--weight-bits` and `--activation-bits` out")
        if not self.tune_images and self._changed("tune_objective", "tune_sweeps"):
            raise GgdjaxError("`--tune-objective` and `--tune-sweeps` need images to tune on: give `--tune-images`")
        if self.gradient_steps and not self.tune_images:
            raise GgdjaxError("`--gradient-steps` needs images to tune on: give `--tune-images`")
        if self.tune_images and not self.tune_sweeps and not self.gradient_steps:
            raise GgdjaxError("`--tune-images` has nothing to do: give `--tune-sweeps` or `--gradient-steps`")
        if self.tune_images and self.activations_per == "channel":
            raise GgdjaxError("`--tune-images` tunes one step per feature map: leave `--activations-per channel` out")

    def _changed(self, *options: str) -> bool:
        """Return whether one of the options has another value than its default."""
        return any(getattr(self, name) != getattr(Quantize, name) for name in options)

    def _split(self, images: ImageSet) -> tuple[Split, np.ndarray | None]:
        """Return the parts, and the images to tune on where there are any."""
        from ggdjax import data

        if self.calibration_ids is None:
            parts = data.split(images, self.calibration_images, self.seed)
        else:
            try:
                ids = self.calibration_ids.read_text(encoding="utf-8").split("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise GgdjaxError(
                    f"`--calibration-ids` {self.calibration_ids} cannot be read ({error}): "
                    "give a text file with one id a line"
                ) from None
            parts = data.split_by_ids(images, [line.strip() for line in ids if line.strip()])
        tuning = None
        if self.tune_images:
            parts, tuning = data.split_tuning(images, parts, self.tune_images, self.seed)
        if self.held_out_images is not None:
            if self.held_out_images < 1:
                raise GgdjaxError(f"`--held-out-images` must be at least 1, got {self.held_out_images}")
            parts = dataclasses.replace(parts, held_out=self._some(images, parts.held_out, self.held_out_images))
        return parts, tuning

    def _some(self, images: ImageSet, part: np.ndarray, count: int) -> np.ndarray:
        """Return at most so many images of a part, by seed: the first ones of a folder are all of its first classes."""
        from ggdjax import data

        order = data.hash_order([images.ids[i] for i in part], self.seed)
        return part[sorted(order[:count])]

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

        with clock("quantize"), console.status("Fitting distributions, choosing steps and fractional lengths"):
            quantized = gd.quantize(net, calibration, config)
        if self.mean_bits is not None or self.bias_correction:
            quantized = self._adjust(quantized, images, parts, console, clock)
        return quantized, self._evaluate(quantized, images, parts, console, clock)

    def _adjust(self, quantized, images, parts, console, clock):
        """Give every layer its own width, then correct biases, each where it is asked for."""
        import ggdjax as gd
        from ggdjax import tune
        from ggdjax.cli._progress import progress_bar

        few = self._some(images, parts.calibration, _FEW_HUNDRED)
        x = np.concatenate([x for x, _ in images.batches(few, self.batch_size)])
        if self.mean_bits is not None:
            widths = range(2, min(math.ceil(self.mean_bits) + 4, 16) + 1)
            size = min(self.batch_size, len(x))
            steps = math.ceil(len(x) / size) + len(widths)
            with clock("widths"), progress_bar(console, "Choosing widths per layer", steps) as advance:
                chosen = tune.allocate_bits(
                    quantized,
                    x,
                    budget=self.mean_bits,
                    widths=widths,
                    batch_size=size,
                    seed=self.seed,
                    progress=lambda done, total: advance(1),
                )
                config = dataclasses.replace(
                    quantized.record.config,
                    weight_bits_of=chosen.weight_bits_of,
                    activation_bits_of=chosen.activation_bits_of,
                )
                quantized = gd.quantize(quantized.float_network, quantized.record.calibration, config)
        if self.bias_correction:
            layers = len(quantized.quantizers.biases)
            with clock("biases"), progress_bar(console, "Correcting biases", layers) as advance:
                quantized = tune.correct_biases(
                    quantized, x, batch_size=self.batch_size, progress=lambda done, total: advance(1)
                )
        return quantized

    def _evaluate(self, quantized, images, parts, console, clock):
        from ggdjax.cli._progress import counted, progress_bar
        from ggdjax.quantization import evaluate

        with clock("evaluate"), progress_bar(console, "Evaluating held-out images", len(parts.held_out)) as advance:
            batches = counted(images.batches(parts.held_out, self.batch_size), advance)
            return evaluate(quantized, batches)

    def _tune(self, quantized, images, parts, tuning, console, clock):
        from ggdjax import tune
        from ggdjax.cli._progress import progress_bar

        pairs = list(images.batches(tuning, self.batch_size))
        x, labels = (np.concatenate(part) for part in zip(*pairs, strict=True))
        if self.tune_sweeps:
            config = tune.TuneConfig(
                objective=self.tune_objective, sweeps=self.tune_sweeps, seed=self.seed, allow_few_images=True
            )
            planned = tune.plan(quantized, len(x), config)
            console.print(
                f"Tuning {planned.candidates} candidates on {len(x)} images, {self.tune_sweeps} sweeps: "
                f"at most {planned.float_passes:.0f} passes of the network over them"
            )
            with clock("tune"), progress_bar(console, "Tuning", planned.visits) as advance:
                quantized = tune.backward_forward(
                    quantized,
                    x,
                    labels,
                    config,
                    checkpoint=self._checkpoint,
                    progress=lambda done, total, score: advance(1),
                )
        if self.gradient_steps:
            config = tune.GradientConfig(
                steps=self.gradient_steps, batch_size=min(self.batch_size, len(x)), seed=self.seed
            )
            with clock("gradient"), progress_bar(console, "Gradient steps", self.gradient_steps) as advance:
                quantized = tune.gradient(quantized, x, labels, config, progress=lambda done, loss: advance(1))
        return quantized, self._evaluate(quantized, images, parts, console, clock)

    def _write(self, folder, results, images, parts, tuning, console, clock) -> None:
        from ggdjax import report
        from ggdjax.cli._progress import progress_bar

        (quantized, evaluation), *beside = results.values()
        quantized.save(folder / "network.safetensors")
        quantized.record.calibration.histograms.save(folder / report.HISTOGRAMS_FILE)
        with progress_bar(console, "Drawing feature maps", len(quantized.record.calibration.names)) as advance:
            # One picture per feature map shows one step: that of the whole feature map.
            per_tensor = results.get("steps per tensor", (quantized, evaluation))[0]
            for _ in report.draw_feature_maps(per_tensor, folder / "feature_maps"):
                advance(1)
        measured = {f"{self.scheme}, {name}": evaluation for name, (_, evaluation) in results.items()}
        report.plot_sensitivity(measured).savefig(folder / "sensitivity.png", dpi=110)
        search = _search_of(quantized)
        if search is not None:
            report.plot_trajectory(search).savefig(folder / "tuning.png", dpi=110)
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        report.write_result(
            folder,
            {
                "model": str(self.model) if self.model else "digits (embedded)",
                **report.result_record(quantized, evaluation),
                **({_BESIDE[list(results)[1]]: report.result_record(*beside[0])} if beside else {}),
                **({"tuning": self._tuning_record(results, images, tuning)} if tuning is not None else {}),
                "options": {k: str(v) if isinstance(v, Path) else v for k, v in options.items()},
                "preprocessing": images.preprocessing.to_dict(),
                "images": parts.to_dict(images),
                "unreadable_images": dict(images.unreadable),
                "seed": self.seed,
                "seconds": clock.seconds,
                **report.environment(),
            },
        )

    def _tuning_record(self, results, images, tuning) -> dict:
        from ggdjax import tune

        (tuned, after), (_, before) = results["tuned"], results["untuned"]
        test = tune.mcnemar(before.quantized_correct, after.quantized_correct)
        search = _search_of(tuned)
        return {
            "images": [images.ids[i] for i in tuning],
            "gained": test.gained,
            "lost": test.lost,
            "mcnemar_p_value": test.p_value,
            "backward_forward": None if search is None else search.to_dict(),
            "gradient_steps": self.gradient_steps,
        }


#: Calibration images that choose widths and correct biases: both need means alone, and hold their images in memory.
_FEW_HUNDRED = 256

#: Name of a second result -> its key in result.json.
_BESIDE = {"steps per tensor": "steps_per_tensor", "untuned": "untuned"}


def _search_of(quantized: QuantizedNetwork) -> History | None:
    """Return the history of the backward-forward search, where there was one."""
    return next((stage.details for stage in quantized.record.stages if stage.name == "backward_forward"), None)


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
