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
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax import _files
from ggdjax._atomic import atomic_directory
from ggdjax._errors import GgdjaxError, expect_path
from ggdjax.datapath._compile import as_program, refuse_float
from ggdjax.datapath._program import Program, program_record
from ggdjax.datapath._simulate import simulate
from ggdjax.export._hex import hex_lines
from ggdjax.export._memories import FACTORS, c_header, memories, read_memory, slug
from ggdjax.export._testbench import verilog_parameters

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
    """Write a program as a hardware bundle: memories, golden vectors, C header, Verilog macros and a manifest.

    The folder appears as a whole or not at all; an earlier bundle in its place is replaced.

    Args:
        program: what :func:`ggdjax.datapath.compile` returned.
        folder: where.
        images: a batch in the layout of the network's own input, for golden vectors of every tensor; None: none.

    Raises:
        GgdjaxError: the folder is not empty and no bundle, or cannot be written.

    Example:
        >>> x = np.ones((8, 2), np.float32)
        >>> net = gd.trace(lambda x: x @ jnp.array([[0.5], [-0.25]]), jnp.zeros((1, 2)))
        >>> q = gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(scheme="max-abs"))
        >>> program = gd.datapath.compile(q, gd.datapath.Accelerator())
        >>> gd.export.export_bundle(program, "bundle")
        >>> bool((gd.export.load_bundle("bundle").integers(x) == program.integers(x)).all())
        True
    """
    program = as_program(program)
    refuse_float(program, "a bundle")
    from safetensors.numpy import save

    folder = expect_path("folder", folder, "the name of a folder")
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
        **program_record(program, omit=FACTORS),  # what is a memory is not repeated
        "memories": [memory.entry() for memory in found],
        "golden": golden,
        "files": {name: _sha256(content) for name, content in files.items()},
    }
    text = (_files.dumps(manifest, indent=1) + "\n").encode()
    files[_MANIFEST] = text
    files[_CHECKSUM] = f"{_sha256(text)}  {_MANIFEST}\n".encode()
    try:
        with atomic_directory(folder, "folder") as new:
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

    folder = expect_path("folder", folder, "the name of a folder")
    manifest = _manifest(folder)
    files = {name: _checked(folder / name, digest) for name, digest in manifest["files"].items()}
    held: dict[str, dict[str, np.ndarray]] = {}
    for entry in manifest["memories"]:
        held.setdefault(entry["node"], {})[entry["role"]] = read_memory(entry, files[entry["file"]])
    kind = np.int8 if manifest["accelerator"]["weight_bits"] <= 8 else np.int16
    arrays = {f"network/{key}": value for key, value in load(files[_NETWORK]).items()}
    for node in manifest["graph"]["nodes"]:
        memory = held.get(node["name"], {})
        factors = {role: values.tolist() for role, values in memory.items() if role in FACTORS}
        node["attrs"] = dict(sorted((node["attrs"] | factors).items()))
        for role, key in node["params"].items():
            arrays[f"params/{key}"] = memory[role].astype(kind if role == "kernel" else np.int32)
    return Program._from_file(manifest, arrays)


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


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _manifest(folder: Path) -> dict[str, Any]:
    if not (folder / _MANIFEST).is_file():
        raise GgdjaxError(f"`folder` {folder} is no hardware bundle: it has no {_MANIFEST}; name one that was exported")
    digest = _read(folder / _CHECKSUM).decode(errors="replace").split(" ")[0]
    manifest = _files.loads(_checked(folder / _MANIFEST, digest))
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
    """Return whether a folder is empty, or a bundle."""
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        return json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False
