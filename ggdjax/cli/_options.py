"""Options of commands from the fields of a recipe: type, default and help stand at the field, once."""

from __future__ import annotations

import dataclasses
import re
import typing
from contextlib import contextmanager
from pathlib import Path  # tyro reads the annotations when the command line is built
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ggdjax import data
from ggdjax._errors import GgdjaxError
from ggdjax._fields import field_docs
from ggdjax.data import Preprocessing
from ggdjax.quantization import QuantConfig
from ggdjax.recipe import TARGETS, Recipe
from ggdjax.tune import GradientConfig, TuneConfig
from ggdjax.tune._gradient_config import fields_for

if TYPE_CHECKING:
    from collections.abc import Generator

PREPROCESSING = tuple(field.name for field in dataclasses.fields(Preprocessing))
_WIDTHS_AND_SCHEMES = tuple(f.name for f in dataclasses.fields(QuantConfig) if not f.name.endswith("_of"))
WIDTHS_OF = ("weight_bits_of", "activation_bits_of")


def option(cls: type, field: str, name: str = "", kind: Any = None, also: str = "") -> tuple[str, Any, Any]:
    """Return an option for `dataclasses.make_dataclass`: a field of ``cls``, perhaps of another ``name`` or ``kind``.

    Not given, it is None (a flag: False): what holds then is the recipe's own, named in the help.
    """
    default = next(f.default for f in dataclasses.fields(cls) if f.name == field)
    kind = typing.get_type_hints(cls)[field] if kind is None else kind
    flag, known = kind is bool, default not in (None, False, dataclasses.MISSING) and not also
    hint = f"(default: {default})" if known else ""
    text = tyro.conf.arg(help=field_docs(cls)[field] + also, help_behavior_hint=hint, metavar=_metavar(kind))
    wanted = Annotated[bool, text, tyro.conf.FlagCreatePairsOff] if flag else Annotated[kind | None, text]
    return name or field, wanted, dataclasses.field(default=False if flag else None)


def _flags(name: str) -> list[tuple[str, Any, Any]]:
    """Return the options that turn a field of a recipe on, and off again where the recipe of a file has it on."""
    off = tyro.conf.arg(help=f"Turn `{name}` of the file that `--recipe` names off.", help_behavior_hint="")
    no = (f"no_{name}", Annotated[bool, off, tyro.conf.FlagCreatePairsOff], dataclasses.field(default=False))
    return [option(QuantConfig if name in _WIDTHS_AND_SCHEMES else Recipe, name, name, bool), no]


def _metavar(kind: Any) -> str | None:
    """Return what stands for the value in the help; None for a flag."""
    if kind in (bool, int, float, str):
        return {bool: None, int: "INT", float: "FLOAT", str: "STR"}[kind]
    inner = [one for one in typing.get_args(kind) if one not in (type(None), ...)]
    if typing.get_origin(kind) is Literal:
        return "{" + ",".join(inner) + "}"
    if typing.get_origin(kind) is tuple:
        one = "NAME=BITS" if inner[0] is str else "FLOAT"
        return f"{one} [{one} ...]"
    return "|".join("{True,False}" if one is bool else str(_metavar(one)) for one in inner)


#: Flags: fields of a recipe, or of its widths and schemes, that they turn on.
_FLAGS = ("equalize", "weights_first", "bias_correction", "activations_signed")
_TUNING: Any = dataclasses.make_dataclass(
    "_TUNING",
    [
        option(Recipe, "tune_images"),
        option(TuneConfig, "objective", "tune_objective", str, also=" By default the metric. (default: top1)"),
        option(TuneConfig, "sweeps", "tune_sweeps", also=" 0: no search. (default: 2)"),
        option(GradientConfig, "steps", "gradient_steps", int | Literal["auto"], also=" That is auto; 0: none."),
        option(Recipe, "tune_seconds"),
        option(Recipe, "metric", kind=str),
    ],
    frozen=True,
    kw_only=True,
)
_FIELDS: Any = dataclasses.make_dataclass(
    "_FIELDS",
    [
        *(option(QuantConfig, name) for name in _WIDTHS_AND_SCHEMES if name not in _FLAGS),
        *(option(QuantConfig, name, kind=tuple[str, ...]) for name in WIDTHS_OF),
        option(Recipe, "mean_bits", also=" With a recipe that has it, either width given takes its place."),
        option(Recipe, "rounding"),
        option(Recipe, "target", kind=Literal[tuple(TARGETS)]),  # pyrefly: ignore[invalid-literal] (made at run time)
        *(one for name in _FLAGS for one in _flags(name)),
        *(
            option(Recipe, name)
            for name in ("calibration_images", "distilled_images", "held_out_images", "sensitivity_images")
        ),
        *(option(Recipe, name) for name in ("seed", "batch_size", "values_per_batch")),
        *(option(Preprocessing, name) for name in PREPROCESSING),
    ],
    bases=(_TUNING,),
    frozen=True,
    kw_only=True,
)


class TuningOptions(_TUNING):
    """What of tuning can be given on the command line."""

    def tuned(self, recipe: Recipe, changes: dict[str, Any] | None = None) -> Recipe:
        """Return the recipe with tuning, and other ``changes``, as the options say.

        Raises:
            GgdjaxError: a value out of range, or options that contradict each other.
        """
        given = {f.name: v for f in dataclasses.fields(_TUNING) if (v := getattr(self, f.name)) is not None}
        # What a target needs of steps and signs is set at the end, when all else is known.
        changes = {"target": recipe.target, **(changes or {})}
        hardware, recipe = changes.pop("target"), dataclasses.replace(recipe, target=None)
        measured = given.pop("metric", None)
        changes = changes | {n: given[n] for n in ("tune_images", "tune_seconds") if n in given}
        if measured is not None:
            changes["metric"] = measured
        measured = changes.get("metric", recipe.metric)
        seed, images = (changes.get(name, getattr(recipe, name)) for name in ("seed", "tune_images"))
        sweeps, steps = given.get("tune_sweeps"), given.get("gradient_steps")
        for name in ("tune_sweeps", "gradient_steps"):
            if isinstance(given.get(name), int) and given[name] < 0:
                raise GgdjaxError(f"`--{name.replace('_', '-')}` must be at least 0, got {given[name]}")
        if not images and (wanted := [f"`--{n.replace('_', '-')}`" for n in given if given[n] != 0]):
            raise GgdjaxError(
                f"{' and '.join(wanted)} {'need' if wanted[1:] else 'needs'} images to tune on: give `--tune-images`"
            )
        if images and (sweeps is not None or "tune_objective" in given or not recipe.tunes):
            objective = {} if measured is None else {"objective": measured}
            start = recipe.search or TuneConfig(allow_few_images=True, seed=seed, **objective)
            more = {"objective": given.get("tune_objective", start.objective), "sweeps": sweeps or start.sweeps}
            changes["search"] = None if sweeps == 0 else dataclasses.replace(start, **more)
        if images and steps is not None:
            size = min(changes.get("batch_size", recipe.batch_size), images)
            start = recipe.gradient or GradientConfig(batch_size=size, seed=seed)
            wanted = None if steps == "auto" else steps
            changes["gradient"] = None if steps == 0 else dataclasses.replace(start, steps=wanted)
        if images and not (changes.get("search", recipe.search) or changes.get("gradient", recipe.gradient)):
            raise GgdjaxError("`--tune-images` has nothing to do: give `--tune-sweeps` or `--gradient-steps`")
        slopes, fields = changes.get("gradient", recipe.gradient), fields_for(measured)
        if slopes is not None and slopes.objective == "kl":
            changes["gradient"] = dataclasses.replace(slopes, **fields)
        changed = dataclasses.replace(recipe, **changes)
        return changed if hardware is None else TARGETS[hardware].recipe(changed)


class RecipeOptions(_FIELDS, TuningOptions):
    """What of a recipe can be given on the command line."""

    preset: str | None
    calibration_ids: Path | None

    def changed(self, recipe: Recipe) -> Recipe:
        """Return the recipe with what was given.

        Raises:
            GgdjaxError: a value out of range, or options that contradict each other; the option is named.
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(_FIELDS)}
        given = {name: value for name, value in values.items() if value is not None and value is not False}
        if "mean_bits" in given and given.keys() & {"weight_bits", "activation_bits"}:
            raise GgdjaxError("`--mean-bits` chooses every width: leave `--weight-bits` and `--activation-bits` out")
        for name in _FLAGS:
            if {name, f"no_{name}"} <= given.keys():
                shown = name.replace("_", "-")
                raise GgdjaxError(f"`--{shown}` and `--no-{shown}` contradict each other: leave one out")
        with naming_options(given):
            changes = {name: given[name] for name in _WIDTHS_AND_SCHEMES if name in given}
            changes |= {name: _widths(name, given[name]) for name in WIDTHS_OF if name in given}
            off = {name for name in _FLAGS if f"no_{name}" in given}
            changes |= {name: False for name in off & {*_WIDTHS_AND_SCHEMES}}
            config = dataclasses.replace(recipe.quantization, **changes)
            names = [f.name for f in dataclasses.fields(Recipe) if f.name in given and not f.name.startswith("tune_")]
            changes = {name: given[name] for name in names} | {"quantization": config}
            if self.preset is not None or given.keys() & set(PREPROCESSING):
                changes["preprocessing"] = self._preprocessing(recipe, given)
            changes |= {name: False for name in off - {*_WIDTHS_AND_SCHEMES}}
            if given.get("distilled_images") and "calibration_images" not in given:
                changes["calibration_images"] = 0
            elif given.get("calibration_images") == 0 and "rounding" not in given:
                changes["rounding"] = "nearest"
            if given.keys() & {"weight_bits", "activation_bits"}:
                changes["mean_bits"] = None
            if self.calibration_ids is not None:
                changes["calibration_ids"] = _ids_of(self.calibration_ids)
            return self.tuned(recipe, changes)

    def _preprocessing(self, recipe: Recipe, given: dict[str, Any]) -> Preprocessing:
        fields = {name: given[name] for name in PREPROCESSING if name in given}
        if self.preset is not None:
            return data.preset(self.preset, **fields)
        return dataclasses.replace(recipe.preprocessing or Preprocessing(), **fields)


@contextmanager
def naming_options(given: Any) -> Generator[None]:
    """Let errors name the option that was given instead of the field that it is."""
    try:
        yield
    except GgdjaxError as error:

        def option(m: re.Match) -> str:
            return f"`--{m[1].replace('_', '-')}{m[2] or ''}`" if m[1] in given else m[0]

        line = re.sub(r"`(\w+)(\[[^`]*\])?`", option, str(error))
        raise type(error)(line) from None


def _widths(name: str, given: tuple[str, ...]) -> dict[str, Any]:
    """Return what ``NAME=BITS`` says, by name or pattern; names may hold `=` themselves."""
    found: dict[str, Any] = {}
    for text in given:
        tensor, _, bits = text.rpartition("=")
        if not tensor or not (bits.isdecimal() or bits == "float"):
            raise GgdjaxError(f"`{name}` must be NAME=BITS or NAME=float, got {text!r}")
        found[tensor] = bits if bits == "float" else int(bits)
    return found


def _ids_of(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise GgdjaxError(
            f"`--calibration-ids` {path} cannot be read ({error}): give a text file with one id a line"
        ) from None
    ids = tuple(line.strip() for line in lines if line.strip())
    if not ids:
        raise GgdjaxError(f"`--calibration-ids` {path} names no images: give one id a line")
    return ids
