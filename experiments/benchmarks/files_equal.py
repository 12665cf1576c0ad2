"""`gd.load` gives back what `save` was given, bit for bit, in every numerics; damaged files are refused in one line.

    python -m experiments.benchmarks.files_equal                        the real networks, 500 small ones, 200 damages
    python -m experiments.benchmarks.files_equal --part real --network resnet20
    python -m experiments.benchmarks.files_equal --part small --examples 50
    python -m experiments.benchmarks.files_equal --part damaged

Each network is saved and loaded in float, quantized, and as an integer program, together with its calibration.
Compared: parameters, steps, choices and counts; outputs of the float network, of fake quantization and of the integers;
the program compiled from the loaded network; the exports of both (QDQ, integer ONNX, QONNX, hardware bundle), byte by
byte; and the file of what was loaded, byte by byte. Small networks are random: layers, weights, widths and schemes, by
a seed from 0. Expected: nothing differs, and every damaged file is one line.

What is finished goes into `experiments/results/files_equal.json`; small networks continue where the file ends. Fifteen
minutes on one free core.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

import ggdjax as gd
from experiments.networks import ALL
from experiments.provenance import code_version
from ggdjax import datapath, export, report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ggdjax.datapath import Program
    from ggdjax.quantization import Calibration, QuantizedNetwork

RESULTS = Path(__file__).resolve().parents[1] / "results" / "files_equal.json"
#: Chooses what is damaged.
SEED = 20181030
#: Images to calibrate on and to compare outputs on, of the real networks.
CALIBRATION, COMPARED = 8, 4
EXPORTS: dict[str, Callable[[Program, Path], None]] = {
    "qdq": lambda program, path: export.export_onnx(program, path, form="qdq"),
    "integer": lambda program, path: export.export_onnx(program, path, form="integer"),
    "qonnx": export.export_qonnx,
    "bundle": export.export_bundle,
}


def through_file(value: Any, path: Path) -> tuple[Any, bool]:
    """Save and load a value; return it, and whether it is saved as the same file again."""
    value.save(path)
    loaded = gd.load(path)
    again = path.with_name("again")
    loaded.save(again)
    return loaded, type(loaded) is type(value) and again.read_bytes() == path.read_bytes()


def equal(a: Any, b: Any) -> bool:
    """Return whether two pytrees have one structure and the same bits."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = ((np.asarray(x), np.asarray(y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    return all((x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()) for x, y in pairs)


def exports(program: Program, folder: Path) -> dict[str, dict[str, bytes] | str]:
    """Return the bytes of every file that each export writes, or the line in which it refuses."""
    found: dict[str, dict[str, bytes] | str] = {}
    for form, write in EXPORTS.items():
        path = folder / form
        try:
            write(program, path)
        except gd.GgdjaxError as error:
            found[form] = str(error)
            continue
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        found[form] = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
    return found


def compare(q: QuantizedNetwork, calibration: Calibration, x: np.ndarray) -> dict[str, bool]:
    """Return, for everything that is compared, whether it is equal; without integer forms, that it `refuses` alike."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        net, same_net = through_file(q.float_network, folder / "network")
        found = {"float file": same_net, "float parameters": equal(net.params, q.float_network.params)}
        found["float outputs"] = equal(net(x), q.float_network(x))
        counted, same_counts = through_file(calibration, folder / "calibration")
        found["calibration file"] = same_counts
        found["counts"] = equal((counted.histograms, counted.channels), (calibration.histograms, calibration.channels))
        loaded, same_q = through_file(q, folder / "quantized")
        found["quantized file"] = same_q
        found["parameters and steps"] = equal(loaded, q)
        found["choices"] = equal(dict(loaded.record.choices), dict(q.record.choices))
        found["fake quantization"] = equal(loaded(x), q(x))
        try:
            program = datapath.compile(q)
        except gd.GgdjaxError as error:
            return found | {"refuses": _refuses(loaded, str(error))}
        again = datapath.compile(loaded)
        from_file, same_program = through_file(program, folder / "program")
        integers, written = program.integers(x), exports(program, folder)
        found["program file"] = same_program
        for name, other in (("compiled from the loaded", again), ("loaded", from_file)):
            found[f"program {name}"] = other.graph == program.graph and equal(other.params, program.params)
            found[f"integers of the program {name}"] = equal(other.integers(x), integers)
            (folder / name).mkdir()
            for form, content in exports(other, folder / name).items():
                found[f"{form} of the program {name}"] = content == written[form]
    return found | {f"writes {form}": True for form, content in written.items() if isinstance(content, dict)}


def _refuses(q: QuantizedNetwork, line: str) -> bool:
    try:
        datapath.compile(q)
    except gd.GgdjaxError as error:
        return str(error) == line
    return False


def real(names: list[str]) -> None:
    """Compare the digits network and the real ones, weights and feature maps of 8 bits."""
    for name in names:
        start, entry = time.perf_counter(), ALL[name]
        net = entry.load()
        images = entry.open_images(net)
        chosen = entry.split(images).calibration[: CALIBRATION + COMPARED]
        x = next(iter(images.batches(chosen, len(chosen))))[0]
        calibration = gd.calibrate(net, [x[:CALIBRATION]])
        compared = compare(gd.quantize(net, calibration), calibration, x[CALIBRATION:])
        different = [what for what, same in compared.items() if not same]
        keep("real", name, Counter(compared), different, start)


LAYERS: dict[str, Callable[[Any, Any], Any]] = {
    "conv": lambda x, w: _conv(x, w, 1),
    "depthwise": lambda x, w: _conv(x, w[:, :, :1, :], x.shape[-1]),
    "dense": lambda x, w: x @ w[0, 0] + w[0, 1, 0],
    "relu": lambda x, _: jax.nn.relu(x),
    "relu6": lambda x, _: jax.nn.relu6(x),
    "leaky": lambda x, _: jax.nn.leaky_relu(x, 0.25),
    "silu": lambda x, _: jax.nn.silu(x),
    "scale": lambda x, w: x * w[0, 0, 0],
    "pool": lambda x, _: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "SAME"),
    "residual": lambda x, w: x + jax.nn.relu(_conv(x, w, 1)),
}


def _conv(x: Any, w: Any, groups: int) -> Any:
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups)
    return y + w[1, 1, 0]


def small_network(seed: int) -> tuple[QuantizedNetwork, Calibration, np.ndarray]:
    """Return a network of one to three layers that ends in a dense one, its calibration, and inputs."""
    rng = np.random.default_rng(seed)
    names = [*rng.choice(sorted(LAYERS), rng.integers(0, 3)), "dense"]
    spread = np.exp(rng.uniform(-3, 3))
    kernels = [jnp.asarray(spread * rng.normal(size=(3, 3, 4, 4)), jnp.float32) for _ in names]

    def function(x: Any) -> Any:
        for name, kernel in zip(names, kernels, strict=True):
            x = LAYERS[name](x, kernel)
        return x

    x = rng.normal(size=(4, 3, 5, 4)).astype(np.float32)
    net = gd.trace(function, x[:1])
    per_channel = rng.random() < 0.1
    config = gd.QuantConfig(
        weight_bits=int(rng.integers(2, 9)),
        activation_bits=int(rng.integers(2, 9)),
        bias_bits=int(rng.integers(8, 17)),
        scheme=str(rng.choice(["ggd-tail", "octav", "max-abs", "affine-min-max"])),
        weight_scheme=str(rng.choice(["fixed-point", "max-abs"])),
        weights_per=str(rng.choice(["tensor", "channel"])),
        activations_per="channel" if per_channel and rng.random() < 0.5 else "tensor",
    )
    calibration = gd.calibrate(net, [x], per_channel=per_channel)
    return gd.quantize(net, calibration, config), calibration, x


def small(examples: int) -> None:
    """Compare the networks of the seeds below ``examples`` that the results file has not."""
    row = next((row for row in read_rows() if row["part"] == "small"), {"compared": {}, "different": [], "seconds": 0})
    found, different, done = Counter(row["compared"]), list(row["different"]), row["compared"].get("networks", 0)
    start = time.perf_counter() - row["seconds"]
    for seed in track(range(done, examples), "small networks"):
        compared = compare(*small_network(seed))
        found.update([*compared, "networks"])
        different += [f"seed {seed}: {what}" for what, same in compared.items() if not same]
        if (seed + 1) % 10 == 0 or seed + 1 == examples:
            keep("small", "small", found, different, start)


def damages(content: bytes, count: int, chance: random.Random) -> Iterator[bytes]:
    """Yield that many damaged copies of a file: flipped bits of header and body, cut, extended, overwritten."""
    header = 8 + int.from_bytes(content[:8], "little")
    for number in range(count):
        damaged = bytearray(content)
        kind = number % 5
        if kind < 2:
            damaged[chance.randrange(len(content) if kind else header)] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del damaged[chance.randrange(len(content)) :]
        elif kind == 3:
            damaged += chance.randbytes(chance.randrange(1, 20))
        else:
            start = chance.randrange(len(content) - 4)
            damaged[start : start + 4] = bytes(byte ^ 0xFF for byte in content[start : start + 4])
        yield bytes(damaged)


def damaged(count: int) -> tuple[Counter[str], list[str]]:
    """Load damaged files of all kinds of the digits network; return the counts and what was no single line."""
    net = ALL["digits"].load()
    images = ALL["digits"].open_images(net)
    x = next(iter(images.batches(images.parts["calibration"][:64], 64)))[0]
    calibration = gd.calibrate(net, [x])
    q = gd.quantize(net, calibration)
    values = {"network": net, "quantized": q, "calibration": calibration, "program": datapath.compile(q)}
    found: Counter[str] = Counter()
    wrong: list[str] = []
    chance = random.Random(SEED)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "file.safetensors"
        for kind, value in values.items():
            value.save(path)
            for content in damages(path.read_bytes(), count // len(values), chance):
                path.write_bytes(content)
                found[f"damaged files of a {kind}"] += 1
                try:
                    gd.load(path)
                    wrong.append(f"{kind}: loaded")
                except gd.GgdjaxError as error:
                    found["one-line errors"] += "\n" not in str(error)
                except Exception as error:
                    wrong.append(f"{kind}: {error!r}")
    return found, wrong


def read_rows() -> list[dict[str, Any]]:
    """Return what is finished."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.is_file() else []


def keep(part: str, name: str, found: Counter[str], different: list[str], start: float) -> None:
    """Put a row into the results file, in place of an older one."""
    row = {"part": part, "name": name, "compared": dict(found), "different": different}
    row |= {"seconds": round(time.perf_counter() - start, 1), "code": code_version()}
    rows = [old for old in read_rows() if (old["part"], old["name"]) != (part, name)] + [row]
    RESULTS.write_text(json.dumps({**report.environment(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(f"{part} {name}: {sum(found.values())} comparisons, {len(different)} differ {different[:5]}", flush=True)


def main() -> None:
    """Read the command line, run, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=("real", "small", "damaged"), help="only this (repeatable)")
    parser.add_argument("--network", action="append", choices=list(ALL), help="only this real network (repeatable)")
    parser.add_argument("--examples", type=int, default=500, help="small networks")
    parser.add_argument("--damages", type=int, default=200, help="damaged files")
    args = parser.parse_args()
    jax.config.update("jax_disable_most_optimizations", True)  # hundreds of programs that run once: compiling is all
    parts = args.part or ["damaged", "real", "small"]
    if "damaged" in parts:
        start = time.perf_counter()
        keep("damaged", "damaged", *damaged(args.damages), start)
    if "real" in parts:
        real(args.network or list(ALL))
    if "small" in parts:
        small(args.examples)


if __name__ == "__main__":
    main()
