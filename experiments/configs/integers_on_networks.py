"""Integer programs of many networks against their fake quantization: codes, logits, saturations, refusals.

    python -m experiments run integers-on-networks
    python -m experiments run integers-on-networks --networks gated-20-silu zoo-resnet20

The networks: all of `ggdjax.zoo` with random kernels and normalizations at small inputs; gated ones (depthwise
convolution, squeeze and excitation, 6 or 20 blocks), as is and with factors of 16 bits in fake quantization and
hardware; activation functions between two convolutions; the networks in files of installed packages (`onnx`,
`onnxruntime`) that have a convolution or dense layer; the four real ones with their own images. Weights and feature
maps of 8 bits, scheme `max-abs`, calibrated on the batch of 8 random images that is compared (real ones: scheme `ggd`,
the conventional calibration images, 32 others compared).

Expected: at least 40 dB everywhere but where a single code of the input that is another by one (`one_code_db`) leaves
no more, no saturation beyond what calibration saw on the images that were calibrated on, and equal codes given equal
inputs for all but a few values of a million. `double_db` is against fake quantization in float64, whose rounding moves
no code. A refusal is a row with its message. Half an hour on two cores.
"""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

import ggdjax as gd
from experiments import networks
from experiments.experiment import Cell, Experiment, Names, check_known
from experiments.generated import draw_normalizations
from experiments.images import some
from experiments.real_networks import NETWORKS
from ggdjax import datapath, zoo
from ggdjax._errors import DataError
from ggdjax.quantization._numerics import FakeQuant

if TYPE_CHECKING:
    from jaxtyping import Array

    from ggdjax import Network

IMAGES = 8
#: Height and width of the zoo's images, where the published one takes long.
SMALL = 64
#: (activation function, gate) of the gated networks.
GATES = {"hard": (jax.nn.hard_swish, jax.nn.hard_sigmoid), "silu": (jax.nn.silu, jax.nn.sigmoid)}
ACTIVATIONS = (
    "celu",
    "elu",
    "gelu",
    "hard_swish",
    "hard_tanh",
    "leaky_relu",
    "mish",
    "selu",
    "silu",
    "softplus",
    "tanh",
)

Case = tuple["Network", np.ndarray, np.ndarray, gd.QuantConfig]
"""Network, calibration images, images to compare on, configuration."""


def case(net: Network, x: np.ndarray, factor_bits: int | None = None) -> Case:
    """Return the case that is calibrated on what it is compared on."""
    return net, x, x, gd.QuantConfig(scheme="max-abs", factor_bits=factor_bits)


def conv(x: Array, kernel: Array, groups: int = 1) -> Array:
    """Convolve, channels last."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )


class Draw:
    """Random arrays, one seed per network."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def kernel(self, *shape: int) -> Array:
        """Return a kernel of He's variance."""
        return jnp.asarray(self.rng.normal(0, math.sqrt(2 / math.prod(shape[:-1])), shape), jnp.float32)

    def images(self, *shape: int) -> np.ndarray:
        """Return a batch of normal values."""
        return self.rng.standard_normal((IMAGES, *shape), np.float32)


def of_zoo(name: str) -> Case:
    """Draw a network of the zoo."""
    known, draw = zoo.entry(name), Draw(0)
    height, width, channels = known.input_shape
    module = zoo.create(name)
    draw_normalizations(module, draw.rng)
    # What flattens its feature maps needs them at their published size.
    for size in (min(SMALL, height), height):
        try:
            x = draw.images(size, min(width, size), channels)
            return case(gd.trace(module, x[:1]), x)
        except (gd.GgdjaxError, TypeError, ValueError, ZeroDivisionError):
            if size == height:
                raise
    raise AssertionError


def gated(blocks: int, kind: str, residual: bool, factor_bits: int | None) -> Case:
    """Draw depthwise convolutions with squeeze and excitation; factors are rounded in fake quantization, too."""
    draw, (act, gate) = Draw(1), GATES[kind]
    stem, head = draw.kernel(3, 3, 3, 16), draw.kernel(16, 10)
    shapes = ((3, 3, 1, 16), (16, 4), (4, 16), (1, 1, 16, 16))
    kernels = [[draw.kernel(*shape) for shape in shapes] for _ in range(blocks)]

    def network(x: Array) -> Array:
        h = act(conv(x, stem))
        for depthwise, squeeze, excite, pointwise in kernels:
            before, h = h, act(conv(h, depthwise, 16))
            scale = gate(jax.nn.relu(h.mean((1, 2)) @ squeeze) @ excite)
            h = conv(h * scale[:, None, None, :], pointwise)
            h = before + h if residual else act(h)
        return h.mean((1, 2)) @ head

    return case(gd.trace(network, jnp.zeros((1, 16, 16, 3))), draw.images(16, 16, 3), factor_bits)


def between(name: str) -> Case:
    """Draw two convolutions with an activation function between them, and one after."""
    draw, act = Draw(2), getattr(jax.nn, name)
    kernels = [draw.kernel(3, 3, *channels) for channels in ((3, 16), (16, 16), (16, 8))]

    def network(x: Array) -> Array:
        return conv(act(conv(act(conv(x, kernels[0])), kernels[1])), kernels[2])

    return case(gd.trace(network, jnp.zeros((1, 8, 8, 3))), draw.images(8, 8, 3))


def of_file(path: Path) -> Case:
    """Read a file of a package."""
    net = gd.load_onnx(path)
    return case(net, Draw(3).images(*net.input_shape[1:]))


def real(name: str) -> Case:
    """Read a real network and its images."""
    known = NETWORKS[name]
    net = known.load()
    images = known.open_images(net)
    parts = known.split(images)
    seen, others = (
        np.concatenate([np.asarray(x) for x, _ in images.batches(ids, known.batch_size)])
        for ids in (parts.calibration, some(images, parts.held_out, 32))
    )
    return net, seen, others, gd.QuantConfig()


@cache
def files() -> dict[str, Path]:
    """Return the ONNX files of installed packages."""
    import onnx
    import onnxruntime

    found = {}
    for package in (onnx, onnxruntime):
        folder = Path(package.__file__).parent
        for path in sorted(folder.rglob("*.onnx")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = parts[-2] if parts[-1] == "model" else parts[-1]
            if any(node.op_type in {"Conv", "Gemm", "MatMul"} for node in onnx.load(path).graph.node):
                found[f"file-{name}"] = path
    return found


def cases() -> dict[str, Callable[[], Case]]:
    """Return what makes each network, by its name, quick ones first."""
    found: dict[str, Callable[[], Case]] = {f"function-{name}": partial(between, name) for name in ACTIVATIONS}
    for blocks in (6, 20):
        for kind in GATES:
            for residual in (False, True):
                name = f"gated-{blocks}-{kind}{'-residual' if residual else ''}"
                found[name] = partial(gated, blocks, kind, residual, None)
                found[f"{name}-factors16"] = partial(gated, blocks, kind, residual, 16)
    found |= {name: partial(of_file, path) for name, path in files().items()}
    found |= {f"zoo-{name}": partial(of_zoo, name) for name in zoo.names()}
    return found | {f"real-{name}": partial(real, name) for name in NETWORKS}


def sqnr_db(wanted: np.ndarray, got: np.ndarray) -> float | None:
    """Return the ratio of signal and difference in dB; None where there is no difference."""
    wanted, got = (np.asarray(v, np.float64) for v in (wanted, got))
    error = np.square(wanted - got).sum()
    return None if error == 0 else float(10 * np.log10(np.square(wanted).sum() / error))


def one_code_away(q: gd.QuantizedNetwork, x: np.ndarray) -> np.ndarray:
    """Return images of which one code of one pixel is another: what a network makes of the least difference."""
    moved, middle = x.copy(), tuple(size // 2 for size in x.shape)
    quantizer = q.quantizers.activations.get(q.graph.inputs[0])
    step = np.abs(x).max() / 127 if quantizer is None else float(np.max(quantizer.step))
    moved[middle] += step if moved[middle] < 0 else -step
    return moved


def in_double(q: gd.QuantizedNetwork, x: np.ndarray) -> np.ndarray:
    """Return the first output of fake quantization in float64, whose own rounding changes no codes."""
    with jax.enable_x64(True):
        params = {key: jnp.asarray(value, jnp.float64) for key, value in q.params.items()}
        return np.asarray(
            jax.tree.leaves(gd.network.run(q.graph, params, jnp.asarray(x, jnp.float64), FakeQuant(q.quantizers)))[0]
        )


def measure(make: Callable[[], Case]) -> dict[str, Any]:
    """Return the figures of one network, or at which stage it was refused and why."""
    stage = "read"
    try:
        net, seen, x, config = make()
        stage = "calibrate"
        batches = [seen[k : k + 64] for k in range(0, len(seen), 64)]
        calibration = gd.calibrate(net, batches)
        stage = "quantize"
        q = gd.quantize(net, calibration, config)
        real, fake = (np.asarray(jax.tree.leaves(network(x))[0]) for network in (net, q))
        if not (np.isfinite(real).all() and np.isfinite(fake).all()):  # some files come with made-up weights
            raise DataError("outputs in real numbers are not finite")
        stage = "compile"
        accelerator = datapath.Accelerator()
        if config.factor_bits is not None:
            accelerator = replace(accelerator, factor_bits=config.factor_bits)
        program = datapath.compile(q, accelerator)
    except gd.GgdjaxError as error:
        # Without the folder of this machine's packages.
        return {"refused": stage, "message": re.sub(r"`/\S*/(\S+/\S+\.onnx)`", r"`\1`", str(error))}
    found = datapath.agreement(program, q, [x])
    run, first = program.run(x), jax.tree.leaves
    return {
        "compared_images": len(x),
        "values": sum(m.values for m in found.feature_maps.values()),
        "unequal_given_inputs": sum(m.values - m.equal_given_inputs for m in found.feature_maps.values()),
        "largest_given_inputs": max(m.largest_given_inputs for m in found.feature_maps.values()),
        "equal": found.equal,
        "sqnr_db": sqnr_db(fake, first(run.logits)[0]),
        "double_db": sqnr_db(in_double(q, x), first(run.logits)[0]),
        "one_code_db": sqnr_db(fake, first(q(one_code_away(q, x)))[0]),
        "fake_quantization_db": sqnr_db(real, fake),
        "same_top1": found.same_top1,
        "beyond": run.beyond,
        "overflows": run.overflows,
    }


@dataclass(frozen=True, kw_only=True)
class IntegersOnNetworks(Experiment):
    """Integer programs of a hundred networks against their fake quantization."""

    NAME: ClassVar[str] = "integers-on-networks"
    AXES: ClassVar[tuple[str, ...]] = ()
    MAY_BE_EMPTY: ClassVar[tuple[str, ...]] = ("networks",)
    NEEDS_IMAGES: ClassVar[bool] = False
    TAKES_OWN: ClassVar[bool] = False
    FREE: ClassVar[str] = "function-elu"

    networks: Names = ()
    """Names such as function-gelu, gated-6-hard, zoo-resnet20, real-squeezenet; none: all."""

    def check(self) -> None:
        """Refuse unknown names and missing data."""
        check_known(self, "networks", cases())
        names = [name.removeprefix("real-") for name in self.networks or cases() if name.startswith("real-")]
        networks.check(names)

    def cells(self) -> list[Cell]:
        """Return one cell per network, quick ones first; what is drawn has its seeds of its own."""
        return [{"network": name, "seed": 0} for name in self.networks or cases()]

    def prepare(self, network: str, seed: int) -> str:
        """Return the name."""
        jax.clear_caches()  # programs of all of them would fill the memory
        gc.collect()
        return network

    def measure(self, prepared: str, cell: Cell, folder: Path) -> dict[str, Any]:
        """Return the figures of one network, or at which stage it was refused and why."""
        return measure(cases()[prepared])

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return the SQNR of the outputs, the codes that differ, and what was refused."""
        if "refused" in row:
            return {"refused": f"{row['refused']}: {row['message']}"}
        return {
            "dB": "equal" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}",
            "differ given equal inputs": f"{row['unequal_given_inputs']} of {row['values']:,}",
            "equal alone": f"{row['equal']:.4%}",
            "same class": f"{row['same_top1']:.0%}",
        }


CONFIGS = {
    "integers-on-networks": IntegersOnNetworks(),
    "integers-on-networks-tiny": IntegersOnNetworks(networks=("function-elu", "gated-6-hard-factors16")),
}
