"""`gd.load` gives back what `save` was given, bit for bit, in every numerics; damaged files are refused in one line.

    python -m experiments run files-equal
    python -m experiments run files-equal --networks small --ranges 500-599

Each network is saved and loaded in float, quantized, and as an integer program, together with its calibration.
Compared: parameters, steps, choices and counts; outputs of the float network, of fake quantization and of the integers;
the program compiled from the loaded network; the exports of both (QDQ, integer ONNX, QONNX, hardware bundle), byte by
byte; and the file of what was loaded, byte by byte. Small networks are random: layers, weights, widths and schemes, by
a seed from 0. Expected: nothing differs, and every damaged file is one line.

`damaged`: bits flipped, cut, extended, overwritten. Fifteen minutes on one free core.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

import ggdjax as gd
from experiments import networks
from experiments.experiment import Cell, Experiment, Names, check_numbers, seeds_of
from experiments.networks import ALL
from ggdjax import datapath, export

if TYPE_CHECKING:
    from ggdjax.datapath import Program
    from ggdjax.quantization import Calibration, QuantizedNetwork

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


def real(entry: networks.AnyNetwork) -> tuple[Counter[str], list[str]]:
    """Compare a network with weights and feature maps of 8 bits; return the counts and what differs."""
    net = entry.load()
    images = entry.open_images(net)
    chosen = entry.split(images).calibration[: CALIBRATION + COMPARED]
    x = next(iter(images.batches(chosen, len(chosen))))[0]
    calibration = gd.calibrate(net, [x[:CALIBRATION]])
    compared = compare(gd.quantize(net, calibration), calibration, x[CALIBRATION:])
    return Counter(compared), [what for what, same in compared.items() if not same]


LAYERS: dict[str, Callable[[Any, Any], Any]] = {
    "conv": lambda x, w: _conv(x, w, 1),
    "depthwise": lambda x, w: _conv(x, w[:, :, :1, :], x.shape[-1]),
    "dense": lambda x, w: x @ w[0, 0] + w[0, 1, None, None, :1],
    "relu": lambda x, _: jax.nn.relu(x),
    "relu6": lambda x, _: jax.nn.relu6(x),
    "leaky": lambda x, _: jax.nn.leaky_relu(x, 0.25),
    "silu": lambda x, _: jax.nn.silu(x),
    "scale": lambda x, w: x * w[0, 0, None, None, :1],
    "pool": lambda x, _: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "SAME"),
    "residual": lambda x, w: x + jax.nn.relu(_conv(x, w, 1)),
}


def _conv(x: Any, w: Any, groups: int) -> Any:
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups)
    return y + w[1, 1, None, None, :1]


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


def small(seeds: range) -> tuple[Counter[str], list[str]]:
    """Compare the small networks of some seeds; return the counts and what differs."""
    found, different = Counter(), []
    for seed in seeds:
        compared = compare(*small_network(seed))
        found.update([*compared, "networks"])
        different += [f"seed {seed}: {what}" for what, same in compared.items() if not same]
    return found, different


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


SMALL, DAMAGED = "small", "damaged"


@dataclass(frozen=True, kw_only=True)
class FilesEqual(Experiment):
    """Networks saved and loaded, bit for bit, in every numerics and export; damaged files, refused in one line."""

    NAME: ClassVar[str] = "files-equal"
    AXES: ClassVar[tuple[str, ...]] = ("ranges",)
    TAKES_OWN: ClassVar[bool] = False

    networks: Names = (*ALL, SMALL, DAMAGED)
    """Networks; small: random ones; damaged: files of the digits network."""
    ranges: tuple[str, ...] = tuple(f"{first}-{first + 49}" for first in range(0, 500, 50))
    """Of seeds of small networks, the first and the last."""
    damages: int = 200
    """Damaged files."""

    def check(self) -> None:
        """Refuse unknown names, missing data and what is no range."""
        networks.check([name for name in self.networks if name not in {SMALL, DAMAGED}])
        check_numbers(self, "networks", "ranges", "damages")
        for text in self.ranges:
            seeds_of(text)

    def cells_of(self, network: str) -> list[Cell]:
        """Return a cell for each range of small networks, else one."""
        return [{"range": text} for text in (self.ranges if network == SMALL else ("all",))]

    def prepare(self, network: str, seed: int) -> str:
        """Return the name."""
        return network

    def measure(self, prepared: str, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return how often each thing was compared, and what differs."""
        before = jax.config.read("jax_disable_most_optimizations")
        jax.config.update("jax_disable_most_optimizations", True)  # programs that run once: compiling is all
        try:
            if prepared == SMALL:
                found, different = small(seeds_of(cell["range"]))
            else:
                found, different = damaged(self.damages) if prepared == DAMAGED else real(ALL[prepared])
        finally:
            jax.config.update("jax_disable_most_optimizations", before)
        return {"compared": dict(found), "different": different}

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return the number of comparisons and what differs."""
        return {"compared": f"{sum(row['compared'].values()):,}", "different": ", ".join(row["different"]) or "nothing"}


CONFIGS = {
    "files-equal": FilesEqual(),
    "files-equal-tiny": FilesEqual(networks=(SMALL, DAMAGED), ranges=("0-0",), damages=8),
}
