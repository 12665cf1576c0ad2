"""Integer programs as records of plain values and arrays, for files."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ggdjax import _files
from ggdjax.datapath.formats import Format
from ggdjax.datapath.layers import IntegerLayer
from ggdjax.datapath.rounding import Overflow, Rounding
from ggdjax.datapath.simulate import INTEGER_OPS
from ggdjax.datapath.spec import Accelerator
from ggdjax.network import Network
from ggdjax.network._serialize import graph_from_record, graph_record

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np

    from ggdjax.datapath.program import Program


def program_record(program: Program, *, omit: Collection[str] = ()) -> dict[str, Any]:
    """Return all of a program but its arrays, and but the attributes ``omit`` of its integer graph."""
    return {
        "graph": graph_record(program.graph, omit=omit),
        "formats": {name: dataclasses.asdict(form) for name, form in program.formats.items()},
        "layers": {
            name: {
                "source": dataclasses.asdict(layer.source),
                "accumulator": dataclasses.asdict(layer.accumulator),
                "magnitude": layer.magnitude,
            }
            for name, layer in program.layers.items()
        },
        "feature_maps": program.feature_maps,
        "code_formats": {name: dataclasses.asdict(form) for name, form in program.code_formats.items()},
        "accelerator": dataclasses.asdict(program.accelerator),
        "network": graph_record(program.network.graph),
    }


def program_arrays(program: Program) -> dict[str, Any]:
    """Return the integers of a program (``params/…``) and the parameters of its float network (``network/…``)."""
    return {f"params/{key}": value for key, value in program.params.items()} | {
        f"network/{key}": value for key, value in program.network.params.items()
    }


def program_fields(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the fields of the program that `program_record` and `program_arrays` were given.

    Raises:
        GgdjaxError, KeyError, TypeError, ValueError, AttributeError: the record is no program's; see
            `ggdjax._files.decoding`.
    """
    params = _files.select(arrays, "params/")
    network = {"params/" + key: value for key, value in _files.select(arrays, "network/").items()}
    return {
        "graph": graph_from_record(
            record["graph"], ops=INTEGER_OPS, enums={"rounding": Rounding, "overflow": Overflow}
        ),
        "params": params,
        "formats": {name: _format(entry) for name, entry in record["formats"].items()},
        "layers": {
            name: IntegerLayer(
                source=_format(entry["source"]),
                kernel=params[f"{name}/kernel"],
                bias=params[f"{name}/bias"],
                accumulator=_format(entry["accumulator"]),
                magnitude=entry["magnitude"],
            )
            for name, entry in record["layers"].items()
        },
        "feature_maps": dict(record["feature_maps"]),
        "code_formats": {name: _format(entry) for name, entry in record["code_formats"].items()},
        "accelerator": Accelerator(**record["accelerator"]),
        "network": Network._from_file({"graph": record["network"]}, network),
    }


def _format(record: Mapping[str, Any]) -> Format:
    return Format(**{**record, "scale": tuple(record["scale"]), "activation": tuple(record["activation"])})
