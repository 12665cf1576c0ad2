"""What is done to a network, from images to the evaluation, as one value that files can hold.

TOML is written by hand: `tomllib` only reads it, and what is written are flat tables.
"""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ggdjax._atomic import atomic_write
from ggdjax._errors import GgdjaxError, expect_path
from ggdjax._fields import check_types, from_fields, settings_of
from ggdjax.data import Preprocessing, preset
from ggdjax.quantization import Metric, QuantConfig, metric
from ggdjax.quantization._calibration import VALUES_PER_BATCH
from ggdjax.recipe._target import target
from ggdjax.tune import GradientConfig, RoundingConfig, TuneConfig

#: Tables of a file -> class of what they hold.
_TABLES = {
    "preprocessing": Preprocessing,
    "quantization": QuantConfig,
    "output_rounding": RoundingConfig,
    "search": TuneConfig,
    "gradient": GradientConfig,
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The whole pipeline: how images become inputs, how the network is quantized, corrected and tuned, on which images.

    Stages run in the order of the fields; those that are None or False are left out. In a file, fields with a class of
    their own are tables (``[quantization]``); ``preset`` in ``[preprocessing]`` names a convention of
    `ggdjax.data.PRESETS`, whose fields the others change.

    Raises:
        GgdjaxError: a field is of another type, out of its range, or two contradict each other.

    Example:
        >>> recipe = gd.Recipe(quantization=gd.QuantConfig(weight_bits=4), calibration_images=100, bias_correction=True)
        >>> recipe.save("recipe.toml")
        >>> gd.Recipe.load("recipe.toml") == recipe
        True
    """

    preprocessing: Preprocessing | None = None
    """How an image becomes an input; None: as the image set says."""
    equalize: bool = False
    """Rescale channels between adjoining layers before calibration, so that their weights share one range."""
    quantization: QuantConfig = field(default_factory=QuantConfig)
    """Widths and schemes."""
    mean_bits: float | None = None
    """Widths per layer, 2 to 16 bits, at most this on average over all weights and over all values of feature maps: in
    place of both widths, and chosen by what each layer's rounding does to the logits of calibration images. Widths of
    single layers stay and count; what stays in float does not."""
    rounding: Literal["output", "nearest"] = "output"
    """How weights are rounded: "output", for the output of their layer, in closed form on up to 512 images, of
    calibration first and then of tuning, biases corrected (no labels, no gradients); or "nearest", each weight by
    itself, the paper's rule."""
    output_rounding: RoundingConfig = field(default_factory=RoundingConfig)
    """Settings of rounding for the output."""
    weights_first: bool = False
    """Calibrate once more when the weights are rounded, on the network that computes with them, and choose the steps of
    all feature maps again: one more pass over the calibration images."""
    bias_correction: bool = False
    """Take the mean error of every output channel, on calibration images, out of its bias."""
    search: TuneConfig | None = None
    """Backward-forward tuning of steps and fractional lengths on the tuning images."""
    gradient: GradientConfig | None = None
    """Gradient tuning of steps, biases and the rounding of weights on the tuning images, after the search."""
    tune_seconds: float = 60.0
    """Budget of the search and of gradient tuning, each, in seconds on this machine without compiling, where they have
    none of their own (``max_float_passes``, ``steps``); inf: the whole search. The run's own recipe has the number of
    passes and steps that it came to, and gives the same bits everywhere."""
    calibration_images: int = 512
    """Images to calibrate on; the others are held out for evaluation. 0: steps from batch normalization alone."""
    distilled_images: int = 0
    """With ``calibration_images`` 0: distill this many synthetic images from batch normalization, which take the place
    of calibration images in every stage. 32 do; 0: none."""
    calibration_ids: tuple[str, ...] = ()
    """Ids of the calibration images, instead of a choice by seed."""
    values_per_batch: int = VALUES_PER_BATCH
    """Values of a batch that calibration counts at least, of each larger feature map; 0: all, which is slower."""
    tune_images: int = 0
    """Images to tune on, which neither calibrate nor evaluate."""
    held_out_images: int | None = None
    """Evaluate on up to this many of the held-out images; all of them by default."""
    sensitivity_images: int = 0
    """Calibration images on which to measure what rounding each feature map and layer alone does to the output (SQNR,
    cosine, KL divergence): as many passes of the network over them as it has feature maps and layers. 0: not at all."""
    seed: int = 0
    """Chooses the images of each part."""
    batch_size: int = 64
    """Images per batch: bounds the memory."""
    metric: str | Metric | None = None
    """What is measured, by name (top-1, top-5, pixel-accuracy, mean-iou, psnr, ssim, output-sqnr; settings in brackets,
    as in psnr(data_range=255)), or a `Metric`, of which a file holds the name. None: top-1 and top-5."""
    target: str | None = None
    """Name of the hardware that the network is for, of `ggdjax.recipe.TARGETS`: a recipe that it cannot run is
    refused. ``gd.recipe.target(name).recipe(recipe)`` gives a recipe the target's steps and signs."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in _TABLES:
            if (value := getattr(self, name)) is not None:
                check_types(value)
        for name, least in (
            ("calibration_images", 0),
            ("distilled_images", 0),
            ("tune_images", 0),
            ("sensitivity_images", 0),
            ("values_per_batch", 0),
            ("batch_size", 1),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise GgdjaxError(f"`{name}` must be at least {least}, got {getattr(self, name)}")
        if self.metric is not None:
            metric(self.metric)
        self._check_without_images()
        if self.held_out_images is not None and self.held_out_images < 1:
            raise GgdjaxError(f"`held_out_images` must be at least 1, got {self.held_out_images}")
        if self.seed >= 2**63:
            raise GgdjaxError(f"`seed` must be below 2^63, got {self.seed}")
        if self.mean_bits is not None and not 2 <= self.mean_bits <= 16:
            raise GgdjaxError(f"`mean_bits` must be from 2 to 16, got {self.mean_bits:g}")
        if not self.tune_seconds > 0:
            raise GgdjaxError(f"`tune_seconds` must be more than 0, got {self.tune_seconds:g}")
        if self.tunes != bool(self.tune_images):
            raise GgdjaxError(
                "`search` and `gradient` need images to tune on: give `tune_images`"
                if self.tunes
                else "`tune_images` has nothing to do: give `search` or `gradient`"
            )
        if self.gradient is not None and self.gradient.batch_size > self.tune_images:
            raise GgdjaxError(
                f"`batch_size` of `gradient` is {self.gradient.batch_size}, more than `tune_images` {self.tune_images}"
            )
        if self.tunes and self.quantization.activations_per == "channel":
            raise GgdjaxError("tuning has one step per feature map: leave `activations_per` 'channel' out")
        if self.target is not None and (reason := target(self.target).refuses(self)) is not None:
            raise GgdjaxError(f"{self.target} cannot run this recipe: {reason}")

    def _check_without_images(self) -> None:
        if self.distilled_images and not self.without_images:
            raise GgdjaxError("`distilled_images` take the place of calibration images: give `calibration_images` 0")
        if not self.without_images or self.distilled_images:
            return
        if self.equalize:
            raise GgdjaxError("`equalize` folds the batch normalization that `calibration_images` 0 reads: choose one")
        needed = {
            "`rounding` 'output'": (self.rounding == "output", "choose 'nearest'"),
            "`mean_bits`": (self.mean_bits is not None, "give widths"),
            "`bias_correction`": (self.bias_correction, "leave it out"),
            "`weights_first`": (self.weights_first, "leave it out"),
            "`sensitivity_images`": (self.sensitivity_images > 0, "leave them out"),
        }
        for what, (wanted, instead) in needed.items():
            if wanted:
                raise GgdjaxError(f"{what} needs calibration images, `calibration_images` is 0: give some or {instead}")

    @property
    def without_images(self) -> bool:
        """Whether what calibrates comes from batch normalization, and no image is read."""
        return not self.calibration_images and not self.calibration_ids

    @property
    def widths(self) -> range:
        """The widths from which ``mean_bits`` chooses."""
        return range(2, min(math.ceil(self.mean_bits or 2) + 4, 16) + 1)

    @property
    def tunes(self) -> bool:
        """Whether anything is tuned."""
        return self.search is not None or self.gradient is not None

    @classmethod
    def load(cls, path: Path | str) -> Recipe:
        """Read a recipe: JSON or TOML by the file's suffix, field names as in this class.

        Raises:
            GgdjaxError: the file is missing, unreadable or of another kind; a field is unknown, of another type, out of
                range or contradicts another.
        """
        path = expect_path("path", path)
        _check_suffix(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise GgdjaxError(f"the recipe {path} cannot be read ({error}): give a TOML or JSON file") from None
        try:
            fields = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise GgdjaxError(f"{path} is not valid {path.suffix[1:].upper()}: {error}") from None
        if not isinstance(fields, dict):
            raise GgdjaxError(f"{path} must hold one table of fields, got {type(fields).__name__}")
        return cls._from_dict(fields, str(path))

    def save(self, path: Path | str) -> None:
        """Write every field that is not None to a TOML or JSON file, by its suffix.

        Raises:
            GgdjaxError: the suffix is another, or the file cannot be written.
        """
        path = expect_path("path", path)
        _check_suffix(path)
        fields = self.to_dict()
        text = json.dumps(fields, indent=2, ensure_ascii=False) + "\n" if path.suffix == ".json" else to_toml(fields)
        with atomic_write(path, "path") as part:
            part.write_text(text, encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are not None, as JSON and TOML hold them (infinity as the text "inf")."""
        return _plain(settings_of(self))

    @classmethod
    def _from_dict(cls, fields: dict[str, Any], source: str) -> Recipe:
        """Undo `to_dict`; messages begin with ``source``."""
        # JSON cannot hold an infinite budget.
        values = fields | ({"tune_seconds": math.inf} if fields.get("tune_seconds") == "inf" else {})
        for name, table in _TABLES.items():
            if name in values:
                if not isinstance(values[name], dict):
                    raise GgdjaxError(f"{source}: `{name}` must be a table of fields, got {values[name]!r}")
                read = preprocessing_of if table is Preprocessing else partial(from_fields, table, typed=True)
                values[name] = read(dict(values[name]), f"{source}, [{name}]")
        return from_fields(cls, values, source, typed=True)


def preprocessing_of(fields: dict[str, Any], source: str) -> Preprocessing:
    """Return what a table of fields says, on top of those of its ``preset`` if it names one.

    Raises:
        GgdjaxError: a field or preset is unknown, or a value of another type or out of range; begins with ``source``.
    """
    name = fields.pop("preset", None)
    value = from_fields(Preprocessing, fields, source, typed=True)
    if name is None:
        return value
    try:
        return preset(str(name), **fields)
    except GgdjaxError as error:
        raise GgdjaxError(f"{source}: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items() if v is not None}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return "inf" if value == math.inf else value


def to_toml(fields: dict[str, Any], table: str = "") -> str:
    """Return a table and the tables below it; TOML's texts and numbers are those of JSON."""
    lines = [f"{_key(name)} = {_value(value)}\n" for name, value in fields.items() if not isinstance(value, dict)]
    if table and lines:
        lines.insert(0, f"\n[{table}]\n")
    below = {name: value for name, value in fields.items() if isinstance(value, dict) and value}
    return "".join(lines) + "".join(
        to_toml(value, f"{table}.{_key(name)}" if table else name) for name, value in below.items()
    )


def _key(name: str) -> str:
    return name if name.replace("_", "a").isascii() and name.replace("_", "a").isalnum() else _value(name)


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _check_suffix(path: Path) -> None:
    if path.suffix not in {".json", ".toml"}:
        raise GgdjaxError(f"the recipe {path} must end in .toml or .json")
