"""A compiled program as a folder of plain files: for hardware teams, and to load again.

manifest.json         accelerator, graph, format of every tensor, memories, golden vectors; SHA-256 of every file
manifest.sha256       SHA-256 of the manifest itself, as `sha256sum -c` reads it
memories/*.hex        kernels, biases, multipliers, shifts, tables: `$readmemh`, one word a line, two's complement
golden/*.hex          the integers of every tensor for some images, likewise
program.h             the memories as C arrays
parameters.vh         widths and rules as Verilog macros
network.safetensors   the real network's parameters, which only exports to other formats need
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax._errors import GgdjaxError
from ggdjax._whole import whole_folder
from ggdjax.datapath.formats import Format
from ggdjax.datapath.layers import IntegerLayer
from ggdjax.datapath.program import Program
from ggdjax.datapath.rounding import Overflow, Rounding
from ggdjax.datapath.simulate import simulate
from ggdjax.datapath.spec import Accelerator
from ggdjax.export._hex import hex_lines
from ggdjax.export._memories import FACTORS, c_header, memories, read_memory, slug
from ggdjax.export._testbench import verilog_parameters
from ggdjax.network import Graph, Network, Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jax.typing import ArrayLike

FORMAT, VERSION = "ggdjax hardware bundle", 1
_MANIFEST, _CHECKSUM, _NETWORK = "manifest.json", "manifest.sha256", "network.safetensors"
_LAYOUT = (
    "One word a line, two's complement where signed, most significant digit first; the last axis varies fastest. "
    "Feature maps are channels last. An integer q of a tensor stands for scale * q; codes are stored without their "
    "zero point. Kernels have the output channel first. y = clip(round(x * multiplier / 2^shift), low, high)."
)


def export_bundle(program: Program, folder: os.PathLike[str] | str, images: ArrayLike | None = None) -> None:
    """Write a program as an bundle; see the top of this module for its files.

    The folder appears as a whole or not at all; an earlier bundle in its place is replaced.

    Args:
        program: what :func:`ggdjax.datapath.compile` returned.
        folder: where.
        images: a batch in the layout of the network's own input, for golden vectors of every tensor; None: none.

    Raises:
        GgdjaxError: the folder is not empty and no bundle, or cannot be written.
    """
    from safetensors.numpy import save

    folder = Path(folder)
    if folder.exists() and not _replaceable(folder):
        raise GgdjaxError(f"`folder` {folder} exists and is no bundle of ggdjax: choose another, or empty it")
    found = list(memories(program))
    files = {memory.file: memory.hex() for memory in found}
    files["program.h"] = c_header(found).encode()
    files["parameters.vh"] = verilog_parameters(program.accelerator).encode()
    files[_NETWORK] = save({k: np.ascontiguousarray(v) for k, v in program.network.params.items()})
    golden = []
    for entry, content in _golden(program, images):
        golden.append(entry)
        files[entry["file"]] = content
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "layout": _LAYOUT,
        "accelerator": dataclasses.asdict(program.accelerator),
        "graph": _graph_record(program.graph),
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
        "memories": [memory.entry() for memory in found],
        "golden": golden,
        "network": _graph_record(program.network.graph),
        "files": {name: _sha256(content) for name, content in files.items()},
    }
    text = (json.dumps(_plain(manifest), indent=1, allow_nan=False) + "\n").encode()
    files[_MANIFEST] = text
    files[_CHECKSUM] = f"{_sha256(text)}  {_MANIFEST}\n".encode()
    try:
        with whole_folder(folder, "folder") as new:
            for name, content in files.items():
                path = new / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    except OSError as error:
        raise GgdjaxError(f"`folder` {folder} cannot be written: {error.strerror}; choose another place") from None


def load_bundle(folder: os.PathLike[str] | str) -> Program:
    """Return the program that :func:`export_bundle` wrote: the same graph, the same integers.

    Raises:
        GgdjaxError: the folder is no bundle or one of another version; a file is missing, or its checksum is wrong.
    """
    from safetensors.numpy import load

    folder = Path(folder)
    manifest = _manifest(folder)
    files = {name: _checked(folder / name, digest) for name, digest in manifest["files"].items()}
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for entry in manifest["memories"]:
        arrays.setdefault(entry["node"], {})[entry["role"]] = read_memory(entry, files[entry["file"]])
    accelerator = Accelerator(**manifest["accelerator"])
    kind = np.int8 if accelerator.weight_bits <= 8 else np.int16
    graph = _graph(manifest["graph"], arrays)
    params = {
        key: arrays[node.name][role].astype(kind if role == "kernel" else np.int32)
        for node in graph.nodes
        for role, key in node.params
    }
    layers = {
        name: IntegerLayer(
            source=_format(record["source"]),
            kernel=params[f"{name}/kernel"],
            bias=params[f"{name}/bias"],
            accumulator=_format(record["accumulator"]),
            magnitude=record["magnitude"],
        )
        for name, record in manifest["layers"].items()
    }
    return Program(
        graph=graph,
        params=params,
        formats={name: _format(record) for name, record in manifest["formats"].items()},
        layers=layers,
        feature_maps=manifest["feature_maps"],
        code_formats={name: _format(record) for name, record in manifest["code_formats"].items()},
        accelerator=accelerator,
        network=Network(graph=_graph(manifest["network"], {}), params=load(files[_NETWORK])),  # type: ignore[arg-type]
    )


def _golden(program: Program, images: ArrayLike | None) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield the manifest's entry and the file of every tensor of the integer graph."""
    if images is None:
        return
    tensors = tuple(node.output for node in program.graph.nodes)
    values, _ = simulate(program.graph, tensors, program.params, program._checked(images))
    for index, node in enumerate(program.graph.nodes):
        form, found = program.formats[node.output], np.asarray(values[node.output])
        centred = dataclasses.replace(form, zero_point=0)
        entry = {
            "file": f"golden/{index:03d}_{slug(node.output)}.hex",
            "tensor": node.output,
            "node": node.name,
            "shape": found.shape,
            "bits": centred.bits,
            "signed": centred.signed,
        }
        yield entry, hex_lines(found.reshape(-1, 1), centred.bits)


def _graph_record(graph: Graph) -> dict[str, Any]:
    nodes = []
    for node in graph.nodes:
        record = {name: getattr(node, name) for name in ("name", "op", "inputs", "output")}
        # What is a memory is not repeated.
        record["attrs"] = {name: value for name, value in node.attrs if name not in FACTORS}
        nodes.append(record | {"params": dict(node.params)})
    return {"inputs": graph.inputs, "outputs": graph.outputs, "nodes": nodes, "shapes": dict(graph.shapes)}


def _graph(record: dict[str, Any], arrays: dict[str, dict[str, np.ndarray]]) -> Graph:
    return Graph(
        nodes=tuple(_node(node, arrays.get(node["name"], {})) for node in record["nodes"]),
        inputs=tuple(record["inputs"]),
        outputs=tuple(record["outputs"]),
        shapes=tuple((name, tuple(shape)) for name, shape in record["shapes"].items()),
    )


def _node(record: dict[str, Any], arrays: dict[str, np.ndarray]) -> Node:
    # The rounding of a resize picks a neighbour: it is no rule of the accelerator.
    rules = {} if record["op"] == "resize" else _RULES
    attrs = {name: rules.get(name, _tuples)(value) for name, value in record["attrs"].items()}
    attrs |= {role: tuple(values.tolist()) for role, values in arrays.items() if role in FACTORS}
    return Node(
        name=record["name"],
        op=record["op"],
        inputs=tuple(record["inputs"]),
        output=record["output"],
        attrs=tuple(sorted(attrs.items())),
        params=tuple(record["params"].items()),
    )


_RULES = {"rounding": Rounding, "overflow": Overflow}


def _tuples(value: Any) -> Any:
    """Undo what JSON and `_plain` make of static arguments."""
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    return float(value["float"]) if isinstance(value, dict) else value


def _plain(value: Any) -> Any:
    """Return what JSON can hold: numbers without NumPy types, infinities by name."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return {"float": str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _format(record: dict[str, Any]) -> Format:
    return Format(**record | {"scale": tuple(record["scale"]), "activation": tuple(record["activation"])})


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _manifest(folder: Path) -> dict[str, Any]:
    if not (folder / _MANIFEST).is_file():
        raise GgdjaxError(f"`folder` {folder} is no hardware bundle: it has no {_MANIFEST}; name one that was exported")
    digest = _read(folder / _CHECKSUM).decode(errors="replace").split(" ")[0]
    manifest = json.loads(_checked(folder / _MANIFEST, digest))
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise GgdjaxError(
            f"`folder` {folder} holds {manifest.get('format')!r} of version {manifest.get('version')!r}; this version "
            f"of the package reads {FORMAT!r} of version {VERSION}: export it again"
        )
    return manifest


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GgdjaxError(f"the bundle's file {path} cannot be read ({error.strerror}): export it again") from None


def _checked(path: Path, digest: str) -> bytes:
    content = _read(path)
    if _sha256(content) != digest:
        raise GgdjaxError(f"the bundle's file {path} is corrupted (its SHA-256 is another): export it again")
    return content


def _replaceable(folder: Path) -> bool:
    """Return whether a folder is empty, or an bundle."""
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        return json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False
