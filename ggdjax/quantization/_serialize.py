"""Quantized networks as records of plain values and arrays, for files."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ggdjax import _files
from ggdjax.ggd import GeneralizedGamma, Saturation, TailWeighted
from ggdjax.network import Network
from ggdjax.network._serialize import graph_record
from ggdjax.quantization._calibration import Calibration
from ggdjax.quantization._config import QuantConfig
from ggdjax.quantization._quantizers import Quantizers
from ggdjax.quantization._record import DETAILS, Record, Stage
from ggdjax.schemes import Choice, Fitted, Searched
from ggdjax.steps import Quantizer

if TYPE_CHECKING:
    from collections.abc import Mapping

Record_ = dict[str, Any]
Arrays = dict[str, np.ndarray]
_KINDS = ("activations", "weights", "biases")


def quantizers_record(quantizers: Quantizers) -> tuple[Record_, Arrays]:
    """Return the static part of all quantizers as JSON holds it, and their arrays by ``kind/name/field``."""
    record: Record_ = {}
    arrays: Arrays = {}
    for kind in _KINDS:
        record[kind] = {}
        for name, quantizer in getattr(quantizers, kind).items():
            if quantizer is None:  # on the accumulator's grid
                record[kind][name] = None
                continue
            record[kind][name] = {"bits": quantizer.bits, "signed": quantizer.signed}
            for field in ("step", "zero_point"):
                if (value := getattr(quantizer, field)) is not None:
                    arrays[f"{kind}/{name}/{field}"] = np.asarray(value)
    return record, arrays


def quantizers_from_record(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Quantizers:
    """Undo `quantizers_record`; ``arrays`` may hold more."""

    def quantizer(kind: str, name: str, static: Mapping[str, Any] | None) -> Quantizer | None:
        if static is None:
            return None
        zero_point = arrays.get(f"{kind}/{name}/zero_point")
        return Quantizer(
            step=jax.device_put(arrays[f"{kind}/{name}/step"]),
            bits=static["bits"],
            signed=static["signed"],
            zero_point=None if zero_point is None else jax.device_put(zero_point),
        )

    return Quantizers(
        **{kind: {name: quantizer(kind, name, static) for name, static in record[kind].items()} for kind in _KINDS}
    )


def record_record(record: Record, net: Network) -> tuple[Record_, Arrays]:
    """Return a record as JSON holds it, and its arrays; what it shares with ``net`` is left out."""
    real = record.float_network
    # What tuning left as it was is stored once.
    changed = {key: v for key, v in real.params.items() if not _equal(v, net.params.get(key))}
    arrays = under("float", changed)
    calibration = None
    if record.calibration is not None:
        calibration, more = dataclasses.replace(record.calibration, channels=None)._to_file()
        arrays |= under("calibration", more)
    choices, more = _choices_record(record.choices)
    content = {
        "config": None if record.config is None else dataclasses.asdict(record.config),
        "calibration": calibration,
        "choices": choices,
        "stages": [_stage_record(stage) for stage in record.stages],
        "float_graph": None if real.graph == net.graph else graph_record(real.graph),
        "float_params": {key: key in changed for key in sorted(real.params)},
    }
    return content, arrays | under("choices", more)


def record_from_record(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray], net: Network) -> Record:
    """Undo `record_record`; ``arrays`` may hold more."""
    changed = _files.select(arrays, "float/")
    params = {
        f"params/{key}": changed[key] if stored else np.asarray(net.params[key])
        for key, stored in record["float_params"].items()
    }
    graph = graph_record(net.graph) if record["float_graph"] is None else record["float_graph"]
    calibration, config = record["calibration"], record["config"]
    if calibration is not None:
        calibration = Calibration._from_file(calibration, _files.select(arrays, "calibration/"))
    return Record(
        float_network=Network._from_file({"graph": graph}, params),
        config=None if config is None else QuantConfig(**config),
        calibration=calibration,
        choices=_choices_from(record["choices"], _files.select(arrays, "choices/")),
        stages=tuple(_stage(stage) for stage in record["stages"]),
    )


def _choices_record(choices: Mapping[str, Choice]) -> tuple[Record_, Arrays]:
    """Return the number of channels by name (None: one step), and each leaf of all choices as one array."""
    if not choices:
        return {}, {}
    sizes = {name: None if np.ndim(choice.step) == 0 else len(choice.step) for name, choice in choices.items()}
    rows = jax.tree.map(lambda *leaves: np.concatenate([np.atleast_1d(leaf) for leaf in leaves]), *choices.values())
    leaves = jax.tree_util.tree_leaves_with_path(rows)
    return sizes, {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _choices_from(sizes: Mapping[str, int | None], arrays: Mapping[str, np.ndarray]) -> dict[str, Choice]:
    if not sizes:
        return {}
    fields: Record_ = {}
    for path, leaf in arrays.items():
        *parents, name = path.split("/")
        level = fields
        for parent in parents:
            level = level.setdefault(parent, {})
        level[name] = leaf
    evidence = fields.pop("evidence", None)
    if evidence is not None and "tail" in evidence:
        tail, density = evidence["tail"], evidence["tail"]["distribution"]
        density = GeneralizedGamma.tree_unflatten(None, (density["loc"], density["d"], density["p"]))
        saturation = Saturation(**evidence["saturation"])
        tail = TailWeighted(**tail | {"distribution": density})
        evidence = Fitted(**evidence | {"tail": tail, "saturation": saturation})
    elif evidence is not None:
        evidence = Searched(**evidence)
    rows = Choice(**{"zero_point": None} | fields, evidence=evidence)
    ends = np.cumsum([1 if size is None else size for size in sizes.values()])
    return {
        name: rows[end - 1] if size is None else rows[end - size : end]
        for end, (name, size) in zip(ends, sizes.items(), strict=True)
    }


def _stage_record(stage: Stage) -> Record_:
    record = {field.name: getattr(stage, field.name) for field in dataclasses.fields(stage)}
    details = stage.details
    return record | {"details": None if details is None else {type(details).__name__: details.to_dict()}}


def _stage(record: Mapping[str, Any]) -> Stage:
    details = record["details"]
    if details is not None:
        ((name, content),) = details.items()
        details = DETAILS[name].from_dict(content)
    return Stage(**{**record, "details": details})


def under(folder: str, arrays: Mapping[str, Any]) -> Arrays:
    """Return arrays with ``folder/`` before their names."""
    return {f"{folder}/{key}": np.asarray(value) for key, value in arrays.items()}


def _equal(a: Any, b: Any) -> bool:
    return b is not None and (a is b or np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True))
