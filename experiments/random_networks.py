"""Random small networks of all operations that have an integer form, and what must hold of their integer programs."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
from flax import linen
from jax import lax, nn

import ggdjax as gd
from experiments.drawing import Drawing
from ggdjax import GgdjaxError, datapath, export, tune
from ggdjax.datapath._simulate import Integer
from ggdjax.export._rtl import rtl_layers
from ggdjax.network import Float, run
from ggdjax.quantization import Calibration, FakeQuant
from ggdjax.quantization._calibration import _refuse_nonfinite, limits_of
from ggdjax.quantization._numerics import tensors_with_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jaxtyping import Array

    from ggdjax.network import Node
    from ggdjax.quantization._quantizers import Quantizers

_CONSTANT_SLOPES = (0.01, 0.2, 1.5, -0.3)
#: Functions of one number.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "relu6": nn.relu6,
    "clip": lambda x: jnp.clip(x, -1.3, 2.7),
    "hard_swish": nn.hard_swish,
    "silu": nn.silu,
    "gelu": nn.gelu,
    "gelu_exact": lambda x: nn.gelu(x, approximate=False),
    "elu": nn.elu,
    "selu": nn.selu,
    "softplus": nn.softplus,
    "mish": lambda x: x * jnp.tanh(nn.softplus(x)),
    "sigmoid": nn.sigmoid,
    "tanh": jnp.tanh,
    "abs": jnp.abs,
    "square": jnp.square,
    "hard_sigmoid": nn.hard_sigmoid,
    "soft_sign": nn.soft_sign,
    "where": lambda x: jnp.where(x > 0, x, 0.3 * x),
    "jump": lambda x: jnp.where(x > 0.37, x, 0.0),
    "exp": lambda x: jnp.exp(-jnp.abs(x)),
    "root": lambda x: jnp.sqrt(jnp.abs(x) + 0.1),
}
#: Least SQNR of the logits of a program against fake quantization, each layer given equal inputs.
LEAST_DB = 40.0
#: Two codes are both right of a real number that is no further than this, in LSB, from the middle between them: where
#: the ratio of two steps is a fraction such as 1/12, one number in twelve is there.
TIE = 2.0**-14


class _Drawn(Drawing):
    """One random network: called on a batch, it draws the same operations and parameters again."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, x: Array) -> Array:
        self.rng = np.random.default_rng(self.seed)
        #: What was drawn, in order.
        self.said: list[str] = []
        self.wild = self.chance(0.4)
        if self.chance(0.3):
            x = self.preprocessed(x)
        for _ in range(self.rng.integers(1, 6)):
            x = self.block(x)
        return self.head(x)

    # Draws ------------------------------------------------------------------------------------------------------

    def scale(self) -> float:
        """Return a factor: about 1, or a wild one."""
        return float(10 ** self.rng.uniform(-4, 4)) if self.wild and self.chance(0.3) else self.rng.uniform(0.5, 2)

    def numbers(self, *shape: int) -> np.ndarray:
        x = self.rng.normal(size=shape) * self.scale()
        if self.chance(0.2):  # dead, or nearly dead, channels
            x *= self.rng.choice([0.0, 1e-6, 1.0], size=shape[-1])
        return np.float32(x)

    # Parts ------------------------------------------------------------------------------------------------------

    def preprocessed(self, x: Array) -> Array:
        self.said.append("preprocessing")
        mean, std = (self.rng.uniform(*ends, size=x.shape[-1]) for ends in ((0.3, 0.6), (0.2, 0.3)))
        return (x / 255.0 - np.float32(mean)) / np.float32(std)

    def bias(self, x: Array) -> Array:
        return x + self.numbers(x.shape[-1]) if self.chance(0.7) else x

    def conv(self, x: Array, out: int | None = None, *, keep: bool = False) -> Array:
        """Convolve; ``keep``: as many rows and columns as before."""
        channels = x.shape[-1]
        out = out or int(self.pick((1, 2, 3, 4, 6, 8)))
        groups = 1
        if self.chance(0.35):
            groups = channels if self.chance(0.6) else int(self.pick([g for g in (1, 2, 3) if channels % g == 0]))
            out = groups * (1 if self.chance(0.7) else 2) if groups == channels else groups * max(out // groups, 1)
        window = tuple(min(int(self.pick((1, 1, 2, 3, 3))), size) for size in x.shape[1:3])
        strides, dilation = (1, 1), (1, 1)
        if not keep:
            strides = tuple(int(self.pick((1, 1, 2, 3))) for _ in window)
            if self.chance(0.2) and max(strides) == 1:
                dilation = tuple(int(self.pick((1, 2))) for _ in window)
        padding = "SAME" if keep or self.chance(0.6) else "VALID"
        if padding == "VALID" and any((w - 1) * d >= s for w, d, s in zip(window, dilation, x.shape[1:3], strict=True)):
            padding = "SAME"
        kernel = self.numbers(*window, channels // groups, out) / np.float32(
            np.sqrt(np.prod(window) * channels / groups)
        )
        self.said.append(f"conv{window}/{strides}x{dilation} groups {groups} -> {out}")
        y = lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
            precision="highest",
        )
        return self.bias(y)

    def dense(self, x: Array, out: int) -> Array:
        kernel = self.numbers(x.shape[-1], out) / np.float32(np.sqrt(x.shape[-1]))
        self.said.append(f"dense -> {out}")
        return self.bias(jnp.matmul(x, kernel, precision="highest"))

    def activation(self, x: Array) -> Array:
        match self.rng.integers(8):
            case 0:
                self.said.append("leaky_relu")
                return nn.leaky_relu(x, float(self.pick(_CONSTANT_SLOPES)))
            case 1:
                self.said.append("prelu")
                return jnp.where(x >= 0, x, np.float32(self.rng.normal(size=x.shape[-1])) * x)
            case 2:
                return x
            case _:
                name = str(self.pick(list(ACTIVATIONS)))
                self.said.append(name)
                return ACTIVATIONS[name](x)

    def affine(self, x: Array) -> Array:
        kind = str(self.pick(("scalar", "channel", "position", "tiny", "subtract_from", "quotient")))
        self.said.append(f"affine {kind}")
        shape = {"channel": x.shape[-1:], "position": (*x.shape[1:-1], x.shape[-1])}.get(kind, ())
        scale, offset = (self.rng.normal(size=shape) * self.scale() for _ in range(2))
        if kind == "tiny":
            scale = self.pick((0.0, 1e-6, 1e-4)) * np.ones(())
        if kind == "channel" and self.chance(0.3):
            scale = scale * self.rng.choice([0.0, 1e-5, 1.0], size=shape)
        if kind == "subtract_from":
            return np.float32(offset) - x
        if kind == "quotient":
            return x / np.float32(np.abs(scale) + 0.1)
        return x * np.float32(scale) + (np.float32(offset) if self.chance(0.8) else 0)

    def pool(self, x: Array) -> Array:
        window = tuple(min(int(self.pick((1, 2, 3))), size) for size in x.shape[1:3])
        strides = tuple(int(self.pick((1, 2))) for _ in window)
        kind = str(self.pick(("max", "average", "average_inside")))
        pads = tuple(tuple(int(self.rng.integers(w)) for _ in range(2)) for w in window)
        self.said.append(f"{kind} pool {window}/{strides} {pads}")
        if kind == "max":
            return linen.max_pool(x, window, strides, pads)
        return linen.avg_pool(x, window, strides, pads, count_include_pad=kind == "average")

    def gate(self, x: Array) -> Array:
        self.said.append("gate")
        s = jnp.mean(x, axis=(1, 2), keepdims=True)
        s = self.activation(self.dense(s, int(self.pick((1, 2, 4)))))
        s = self.dense(s, x.shape[-1])
        return x * (nn.sigmoid(s) if self.chance(0.5) else nn.hard_sigmoid(s))

    def move(self, x: Array) -> Array:
        match self.rng.integers(5):
            case 0:
                self.said.append("pad")
                value = float(self.pick((0.0, 0.0, 0.7, -1.2)))
                return jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0)), constant_values=value)
            case 1 if x.shape[1] > 1:
                self.said.append("slice rows")
                return x[:, 1:]
            case 2 if x.shape[-1] > 1:
                self.said.append("slice channels")
                return x[..., : x.shape[-1] - 1]
            case 3:
                self.said.append("transpose")
                return jnp.transpose(x, (0, 2, 1, 3))
            case _:
                self.said.append("reverse")
                return x[:, ::-1]

    def block(self, x: Array) -> Array:
        kind = str(
            self.pick(("plain", "plain", "residual", "concat", "gate", "affine", "pool", "move", "product", "limit"))
        )
        match kind:
            case "residual":
                y = self.conv(x, x.shape[-1], keep=True)
                y = self.activation(y)
                if self.chance(0.5):
                    y = self.conv(y, x.shape[-1], keep=True)
                if y.shape != x.shape:
                    return self.activation(y)
                self.said.append("residual")
                y = x - y if self.chance(0.3) else x + y
            case "concat":
                branches = [x] if self.chance(0.4) else []
                branches += [self.activation(self.conv(x, keep=True)) for _ in range(2)]
                self.said.append("concat")
                y = jnp.concatenate(branches, axis=-1)
            case "gate":
                y = self.gate(self.activation(self.conv(x)))
            case "affine":
                y = self.affine(x)
            case "pool":
                y = self.pool(x)
            case "move":
                y = self.move(x)
            case "product":
                a, b = (self.activation(self.conv(x, 4, keep=True)) for _ in range(2))
                self.said.append("product")
                y = a * b if a.shape == b.shape else jnp.concatenate([a, b], axis=-1)
            case "limit":
                a, b = (self.conv(x, 4, keep=True) for _ in range(2))
                self.said.append("max or min of two")
                y = self.pick((jnp.maximum, jnp.minimum))(a, b) if a.shape == b.shape else a
            case _:
                y = self.conv(x)
        return self.activation(y)

    def head(self, x: Array) -> Array:
        match self.rng.integers(6):
            case 0:
                self.said.append("flatten")
                x = x.reshape(x.shape[0], -1)
            case 1:
                self.said.append("max over space")
                x = jnp.max(x, axis=(1, 2))
            case 2:
                self.said.append("feature maps leave")
                return self.conv(x) if self.chance(0.7) else x
            case 3:
                self.said.append("sum")
                x = jnp.sum(x, axis=(1, 2))
            case _:
                self.said.append("mean")
                x = jnp.mean(x, axis=(1, 2))
        x = self.dense(x, int(self.pick((1, 2, 5))))
        if self.chance(0.2):
            self.said.append("softmax")
            x = nn.softmax(x)
        elif self.chance(0.2):
            x = self.activation(x)
        return x


@dataclass(frozen=True, kw_only=True)
class RandomNetwork:
    """A network, how to quantize it, and data for it."""

    net: gd.Network
    config: gd.QuantConfig
    calibration: np.ndarray
    """Images that the ranges are measured on."""
    images: np.ndarray
    """Others of the same distribution."""
    parts: tuple[str, ...]
    """What was drawn, in order."""


def random_network(seed: int) -> RandomNetwork | None:
    """Return the network of a seed; None where no layer was drawn."""
    rng = np.random.default_rng([seed, 1])
    shape = tuple(int(v) for v in (*rng.integers(1, 8, 2), rng.choice([1, 2, 3, 5])))
    drawn = _Drawn(seed)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        net = gd.trace(drawn, np.zeros((1, *shape), np.float32))
    if "preprocessing" in drawn.said:
        x = rng.integers(0, 256, (48, *shape)).astype(np.float32)
    else:
        size = 10 ** rng.uniform(-4, 4) if drawn.wild and rng.random() < 0.4 else 1.0
        x = (size * rng.normal(size=(48, *shape))).astype(np.float32)
        if rng.random() < 0.3:
            x = np.abs(x)
    if not net.graph.quantizable:
        return None
    config = gd.QuantConfig(
        weight_bits=int(rng.integers(2, 9)),
        activation_bits=int(rng.integers(2, 9)),
        scheme="max-abs",
        weights_per=str(rng.choice(["tensor", "channel"])),
    )
    return RandomNetwork(net=net, config=config, calibration=x[:40], images=x[32:], parts=tuple(drawn.said))


def calibrated(net: gd.Network, images: np.ndarray) -> Calibration:
    """Return what `gd.calibrate` does, without its moments, counted by NumPy: what a pass compiles takes longer."""
    graph = replace(net.graph, outputs=(*(m.tensor for m in net.graph.feature_maps()), *tensors_with_ranges(net.graph)))
    found = jax.jit(partial(run, graph, numerics=Float()))(net.params, jax.device_put(images))
    found = jax.device_get(found if isinstance(found, tuple) else (found,))
    values = dict(zip(graph.outputs, map(np.ravel, found), strict=True))
    names = tuple(m.tensor for m in net.graph.feature_maps())
    histograms = gd.Histogram.stack([counted(values[name]) for name in names])
    _refuse_nonfinite(names, histograms)
    ranges = {name: (float(x.min()), float(x.max())) for name, x in values.items() if name not in names}
    return Calibration(
        names=names,
        histograms=histograms,
        images=len(images),
        ranges={name: ends for name, ends in ranges.items() if np.isfinite(ends).all()},
        limits=limits_of(net, names),
        inputs=tuple(name for name in names if name in net.graph.inputs),
    )


def counted(x: np.ndarray) -> gd.Histogram:
    """Return the histogram of float32 values."""
    counts = np.bincount(x[x != 0].view(np.uint32) >> 16, minlength=1 << 16).astype(np.int32)
    finite = x[np.isfinite(x)]
    low, high = (finite.min(), finite.max()) if finite.size else (np.float32(0), np.float32(0))
    return gd.Histogram(counts=counts, zeros=np.int32(np.sum(x == 0)), minimum=low, maximum=high)


@dataclass(kw_only=True)
class Outcome:
    """What happened to one network."""

    seed: int
    state: str
    """``equal``, ``beyond`` (it differs, and says which tensors saturated), ``different``, ``refused``, ``skipped``."""
    said: str = ""
    differ: dict[str, int] = field(default_factory=dict)
    """Feature map -> codes that differ given equal inputs."""
    largest: int = 0
    """Largest difference of codes given equal inputs."""
    logits_db: float = float("inf")
    remedy: str = ""
    """Of a refusal: whether its remedy worked."""
    onnx: str = "not written"
    verilog: int = 0
    """Comparisons in Verilog."""
    parts: tuple[str, ...] = field(default=())


def check(seed: int, *, verilog: bool = False) -> Outcome:
    """Quantize the network of a seed, compile it, and compare every form of it with every other.

    Odd seeds round weights for the output of their layer, even ones to nearest.
    """
    drawn = random_network(seed)
    if drawn is None:
        return Outcome(seed=seed, state="skipped", said="no layer, or outputs not finite")
    out = Outcome(seed=seed, state="equal", parts=drawn.parts)
    try:
        q = gd.quantize(drawn.net, calibrated(drawn.net, drawn.calibration), drawn.config)
        if seed % 2:
            q = tune.round_weights(q, drawn.calibration)
        program = datapath.compile(q)
    except GgdjaxError as error:
        return replace(out, state="refused", said=str(error), remedy=followed(drawn, str(error)))
    x = drawn.images
    found = compared(program, q, x)
    if not all(np.isfinite(v).all() and np.abs(v).max() < 1e30 for v in found.real):
        return replace(out, state="skipped", said="outputs of fake quantization are not finite")
    out.differ, out.largest, out.logits_db = found.differ, found.largest, found.logits_db
    if not found.holds:
        # Float32 cancels where exp(x) − 1 does, and rounds to ties; in float64 the difference is the program's own.
        with jax.enable_x64(True):
            found = compared(program, q, x.astype(np.float64))
        out.differ, out.largest, out.logits_db = found.differ, found.largest, found.logits_db
        out.said = "only in float64"
    if not found.holds:
        beyond = program.run(x).beyond
        out.state, out.said = ("beyond", str(beyond)) if beyond else ("different", "against fake quantization")
    out.onnx = onnx_equal(program, x, found.integers)
    if "lower `multiplier_bits`" in out.onnx:
        narrow = datapath.compile(q, datapath.Accelerator(multiplier_bits=16))
        out.onnx = onnx_equal(narrow, x, jax.tree.leaves(narrow.integers(x)))
        out.onnx += " with `multiplier_bits` 16"
    if out.onnx.startswith("DIFFERENT"):
        out.state, out.said = "different", out.onnx
    if verilog and shutil.which("iverilog") and rtl_layers(program):
        result = export.verify_rtl(program, x[:1])
        out.verilog = result.checks
        if result.wrong:
            out.state, out.said = "different", f"{result.wrong} wrong in Verilog"
    return out


#: What a message advises -> the accelerator or configuration that follows it.
_REMEDIES: dict[str, tuple[dict, dict]] = {
    "narrow weights or feature maps": ({"weight_bits": 2, "activation_bits": 2}, {}),
    "'saturate' or 'wrap'": ({}, {"overflow": "saturate"}),
}


def followed(drawn: RandomNetwork, message: str) -> str:
    """Follow the remedy of a refusal; return whether it worked, or that none is known."""
    for advice, (config, accelerator) in _REMEDIES.items():
        if advice in message:
            calibration = calibrated(drawn.net, drawn.calibration)
            q = gd.quantize(drawn.net, calibration, replace(drawn.config, **config))
            try:
                datapath.compile(q, datapath.Accelerator(**accelerator))
            except GgdjaxError as error:
                return f"does not work: {error}"
            return "works"
    return ""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A program against fake quantization, every layer given the codes of the fake-quantized network."""

    differ: dict[str, int]
    """Feature map -> codes that are not equal, ties left out."""
    values: dict[str, int]
    """Feature map -> codes."""
    largest: int
    """Largest difference of codes, in LSB."""
    real: list[np.ndarray]
    """Outputs of fake quantization, before a softmax at the end."""
    given: list[np.ndarray]
    """Those of the program, given equal inputs."""
    integers: list[np.ndarray]
    """The program's own integers."""

    @property
    def logits_db(self) -> float:
        """SQNR of the program's outputs."""
        return min(_db(a, b) for a, b in zip(self.real, self.given, strict=True))

    @property
    def holds(self) -> bool:
        """Whether 99 % of the codes are equal, none is more than one LSB away, and the outputs are near."""
        # One or two ties of a small map are no 1 %.
        few = all(n <= max(2, 0.01 * self.values[name]) for name, n in self.differ.items())
        return few and self.largest <= 1 and self.logits_db >= LEAST_DB


class _Unrounded(FakeQuant):
    """Fake quantization that keeps its feature maps as they were before rounding, too."""

    def __init__(self, quantizers: Quantizers) -> None:
        super().__init__(quantizers)
        self.unrounded: dict[str, Array] = {}

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Keep the feature maps among the inputs, compute the node."""
        self.unrounded |= dict(zip(node.feature_maps, inputs, strict=False))
        return super().apply(node, params, *inputs)


class _HalfForced(Integer):
    """Integer arithmetic in which the feature maps of a batch's first half are compared with, then replaced by, codes.

    In one run of two halves, since compiling is most of the time.
    """

    def __init__(self, given: dict[str, tuple[Array, Array]]) -> None:
        super().__init__()
        self._given = given
        self.difference: dict[str, Array] = {}

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Compute the node from inputs whose first halves are replaced."""
        output = super().apply(node, params, *inputs)
        if node.output not in self._given:
            return output
        codes, levels = self._given[node.output]
        found, free = jnp.split(output, 2)
        tie = jnp.abs((found + codes) / 2 - levels) < TIE
        self.difference[node.output] = jnp.where(tie & (jnp.abs(found - codes) == 1), 0, jnp.abs(found - codes))
        return jnp.concatenate([codes, free])


def compared(program: datapath.Program, q: gd.QuantizedNetwork, x: np.ndarray) -> Compared:
    """Run fake quantization, the program, and the program given fake quantization's codes, in one compilation."""
    maps = program.feature_maps

    @jax.jit
    def all_three(params: dict, integers: dict, x: Array) -> tuple:
        fake = _Unrounded(q.quantizers)
        real = run(q.graph.up_to_logits(), params, x, fake)
        steps = {name: q.quantizers.activations[name].step.astype(x.dtype) for name in maps}
        codes = {name: jnp.round(fake.feature_maps[name] / step).astype(jnp.int32) for name, step in steps.items()}
        levels = {name: fake.unrounded[name] / step for name, step in steps.items()}
        # One integer network is compiled: the first half of its batch is forced, the second runs by itself.
        halves = _HalfForced({t: (codes[name], levels[name]) for name, t in maps.items()})
        both = run(program.graph, integers, jnp.concatenate([x, x]).astype(jnp.float32), halves)
        given, free = (jax.tree.map(lambda y, h=half: jnp.split(y, 2)[h], both) for half in (0, 1))
        return real, given, free, halves.difference

    params = {key: jnp.asarray(value, x.dtype) for key, value in q.params.items()}
    real, given, free, difference = jax.device_get(all_three(params, program.params, jax.device_put(x)))
    found = {name: difference[tensor] for name, tensor in maps.items()}
    outputs = zip(jax.tree.leaves(given), program.output_scale, strict=True)
    return Compared(
        differ={name: int((d != 0).sum()) for name, d in found.items()},
        values={name: d.size for name, d in found.items()},
        largest=max(int(d.max()) for d in found.values()),
        real=[np.asarray(v, np.float64) for v in jax.tree.leaves(real)],
        given=[np.asarray(v, np.float64) * scale for v, scale in outputs],
        integers=jax.tree.leaves(free),
    )


def _db(wanted: np.ndarray, found: np.ndarray) -> float:
    error = np.sum((wanted - found) ** 2, dtype=np.float64)
    return float(10 * np.log10(np.sum(wanted**2, dtype=np.float64) / error)) if error > 0 else float("inf")


def onnx_equal(program: datapath.Program, x: np.ndarray, wanted: list[np.ndarray]) -> str:
    """Write the integer form; return ``equal``, ``DIFFERENT …``, or why it was refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "integer.onnx"
        try:
            export.export_onnx(program, path, form="integer")
        except GgdjaxError as error:
            return str(error)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        outputs = session.run(None, {session.get_inputs()[0].name: x})
    wrong = sum(int(np.sum(np.asarray(a) != b)) for a, b in zip(wanted, outputs, strict=True))
    return f"DIFFERENT in ONNX Runtime: {wrong} values" if wrong else "equal"


def kind_of(message: str) -> str:
    """Return a message without names and numbers, to count refusals by kind."""
    return re.sub(r"`[^`]*`", "`…`", re.sub(r"-?\d[\d.e+-]*", "#", message))
