"""Experiments as TOML files: the user's own, and the one that each results folder keeps of what it holds.

    out = "runs/mine"            # results folder; else --out, or runs/experiments/FILE

    [networks.mine]              # besides those of experiments/networks.py
    model = "net.onnx"           # or a network of the zoo with `weights`, or module:function
    data = "images/"
    preset = "imagenet"          # and any field of Preprocessing

    [schemes]                    # an experiment's name, and any of its fields; `networks`: those above, if not given
    bits = [8, 4]

Paths are relative to the folder of the file.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.configs import CONFIGS
from experiments.experiment import Experiment
from experiments.networks import OwnNetwork
from ggdjax import GgdjaxError
from ggdjax._atomic import atomic_write
from ggdjax._errors import near_matches
from ggdjax._fields import from_fields
from ggdjax._lock import exclusive
from ggdjax.data import Preprocessing
from ggdjax.recipe._recipe import preprocessing_of, to_toml

#: What a results folder keeps.
KEPT = "experiments.toml"
_PIXELS = {field.name for field in dataclasses.fields(Preprocessing)}
#: What a table of a network may hold: its name is that of the table, and preprocessing stands in it field by field.
_OF_NETWORKS = {f.name for f in dataclasses.fields(OwnNetwork)} - {"name", "preprocessing"} | _PIXELS | {"preset"}


def read(path: Path) -> tuple[dict[str, Experiment], Path | None]:
    """Return the experiments of a file, and the results folder where it names one.

    Raises:
        GgdjaxError: it cannot be read, or a table or field is unknown or of another type.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        raise GgdjaxError(f"{path} cannot be read ({why}): give a TOML file of experiments") from None
    except tomllib.TOMLDecodeError as error:
        raise GgdjaxError(f"{path} is not valid TOML: {error}") from None
    out, networks = tables.pop("out", None), tables.pop("networks", {})
    if not isinstance(out, str | None):
        raise GgdjaxError(f"{path}: `out` must be the name of a folder, got {out!r}")
    if not isinstance(networks, dict) or not all(isinstance(table, dict) for table in networks.values()):
        raise GgdjaxError(f"{path}: networks are tables of fields, such as [networks.mine]")
    own = tuple(own_network(name, table, f"{path}, [networks.{name}]", path.parent) for name, table in networks.items())
    experiments = {}
    for name, fields in tables.items():
        if name not in CONFIGS:
            raise GgdjaxError(f"{path}: no experiment is called `{name}`: {near_matches(name, CONFIGS)}")
        if not isinstance(fields, dict):
            raise GgdjaxError(f"{path}: `{name}` must be a table of fields: begin it with [{name}]")
        base, where = CONFIGS[name], f"{path}, [{name}]"
        _check_known(fields, {f.name for f in dataclasses.fields(base)} - {"own"}, where)
        given = {"networks": [one.name for one in own]} if own and "networks" not in fields else {}
        plain = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
        experiments[name] = dataclasses.replace(
            from_fields(type(base), plain | given | fields, where, typed=True), own=own
        )
    for one in own:
        if one.data is None and any(e.NEEDS_IMAGES and one.name in e.networks for e in experiments.values()):
            raise GgdjaxError(f"{path}, [networks.{one.name}]: `data` is missing")
    if not experiments:
        raise GgdjaxError(f"{path} names no experiment: add a table such as [schemes]; known: {', '.join(CONFIGS)}")
    return experiments, None if out is None else path.parent / out


def own_network(name: str, fields: dict[str, Any], where: str, folder: Path) -> OwnNetwork:
    """Return a network of the user's from the fields of a table; paths are relative to ``folder``.

    Raises:
        GgdjaxError: a field is unknown, missing or of another type.
    """
    _check_known(fields, _OF_NETWORKS, where)
    values = {key: value for key, value in fields.items() if key not in _PIXELS | {"preset"}}
    pixels = {key: value for key, value in fields.items() if key in _PIXELS | {"preset"}}
    if "model" not in fields:
        raise GgdjaxError(f"{where}: `model` is missing")
    for field in ("model", "data", "weights"):
        if field in values and (folder / str(values[field])).exists():
            values[field] = str(folder / str(values[field]))
    values |= {"name": name, "preprocessing": preprocessing_of(pixels, where)}
    return from_fields(OwnNetwork, values, where, typed=True)


def keep(folder: Path, experiment: Experiment) -> None:
    """Write into a results folder what it holds, beside other experiments that it holds."""
    path = folder / KEPT
    values = {f.name: getattr(experiment, f.name) for f in dataclasses.fields(experiment) if f.name != "own"}
    values = {key: value for key, value in values.items() if value is not None}
    with exclusive(path, "--out", wait=True):  # the shards of several runs start at once
        tables = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        networks = tables.pop("networks", {})
        for one in experiment.own:
            fields = {"model": one.model, "data": one.data, "weights": one.weights}
            fields = {key: _absolute(value) for key, value in fields.items() if value is not None}
            fields |= {key: getattr(one, key) for key in ("output", "input_shape", "batch_size") if getattr(one, key)}
            networks[one.name] = fields | {k: v for k, v in one.preprocessing.to_dict().items() if v is not None}
        text = to_toml({"networks": networks, **tables, experiment.NAME: values})
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            with atomic_write(path, "--out") as part:
                part.write_text(text, encoding="utf-8")


def kept(folder: Path) -> dict[str, Experiment]:
    """Return the experiments that a results folder was made by; none where it does not say.

    Raises:
        GgdjaxError: its file was damaged.
    """
    path = folder / KEPT
    return read(path)[0] if path.is_file() else {}


def _check_known(fields: Iterable[str], known: set[str], where: str) -> None:
    for name in fields:
        if name not in known:
            raise GgdjaxError(f"{where}: unknown field `{name}`; {near_matches(name, sorted(known))}")


def _absolute(text: str) -> str:
    return str(Path(text).resolve()) if Path(text).exists() else text
